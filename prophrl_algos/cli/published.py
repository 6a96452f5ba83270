"""Published policies on the command line: `--policy FOLDER` or `--policy owner/repo`, and how they are used."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prophet_gym.arguments import Arguments, Items

if TYPE_CHECKING:
    from prophrl_algos.vla._load import LoadOptions


OWN = ("tiny", "small", "small-k4")
"""Policies that are made here, by name; a folder of such a name is `./NAME`."""


@dataclass(frozen=True)
class Published(Arguments):
    """How a published policy is used; for others none of it is read."""

    benchmark: str = "libero"
    """What it acts in: libero, bridge or simpler-widowx."""
    train: Literal["expert", "lora", "full", "none"] = "expert"
    """What is trained: its action expert or flow head, low-rank adapters, or all of it."""
    language: bool = False
    """Adapters in the language model too, where the family leaves that open."""
    head: Literal["flow", "l1"] = "flow"
    """`l1`: VLA-Adapter and OpenVLA-OFT with the head they were published with."""
    num_steps: Items | None = None
    """K, denoising steps; the checkpoint's if not given."""
    exec_steps: Items | None = None
    """Actions of a chunk that are executed; the benchmark's usual if not given."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of what is not trained."""
    unnorm_key: str | None = None
    """Which data set's statistics, where a checkpoint has several."""
    statistics: Path | None = None
    """A file of statistics in place of the checkpoint's."""
    tokenizer: str | None = None
    """A folder or Hub name in place of the checkpoint's."""
    without_state: Literal["refuse", "mean"] = "refuse"
    """`mean`: where an env shows no robot state (no dream does), take the middle of what the policy was trained on."""

    def options(self) -> "LoadOptions":
        """For `load_policy`."""
        import torch

        from prophrl_algos.vla._load import LoadOptions

        return LoadOptions(
            benchmark=self.benchmark,
            exec_steps=self.exec_steps,
            num_steps=self.num_steps,
            train=self.train,
            language=self.language,
            dtype={"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype],
            statistics=self.statistics,
            unnorm_key=self.unnorm_key,
            tokenizer=self.tokenizer,
            without_state=self.without_state,
            head=self.head,
        )


def is_published(policy: str) -> bool:
    """Whether a policy is named by a folder, a repository or a bundled name, and not by one of ours or a function."""
    from prophrl_algos.vla._load import BUNDLED

    return policy not in OWN and (policy in BUNDLED or Path(policy).is_dir() or ("/" in policy and ":" not in policy))
