"""Choose how a policy is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prophet_gym._checks import require_known

_CHOICES = {"train": ("expert", "lora", "full", "none"), "without_state": ("refuse", "mean")}


@dataclass(frozen=True)
class LoadOptions:
    """Configure how a published policy is loaded, acts and is trained.

    Attributes:
        benchmark: Benchmark that the policy acts in, a name of `prophrl_algos.vla.conventions`.
        exec_steps: Number of actions of each chunk to execute; the usual number of the benchmark by default.
        num_steps: Number K of denoising steps; the checkpoint's by default.
        train: Weights to train: `expert` (action expert or flow head), `lora` (low-rank adapters), `full` or `none`.
        language: Whether `lora` also adapts the language model, in families that leave this open.
        dtype: Precision of the weights that are not trained; trained weights are always float32.
        statistics: A file of normalisation statistics that replaces the checkpoint's.
        unnorm_key: Data set whose normalisation statistics are used, if the checkpoint has several.
        tokenizer: A Hugging Face tokenizer, a folder or a Hub name; the checkpoint's own by default.
        without_state: What happens when the policy reads a robot state and the observation has none, as in a dream:
            `refuse`, or use the `mean` of the training data.

    Raises:
        UnknownOptionError: `train` or `without_state` is not one of the names above.
        ValueError: `exec_steps` or `num_steps` is below 1.
    """

    benchmark: str = "libero"
    exec_steps: int | None = None
    num_steps: int | None = None
    train: str = "expert"
    language: bool = False
    dtype: torch.dtype = torch.bfloat16
    statistics: Path | None = None
    unnorm_key: str | None = None
    tokenizer: Any = None
    without_state: str = "refuse"

    def __post_init__(self) -> None:
        for name in ("exec_steps", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        for name, choices in _CHOICES.items():
            require_known(name, getattr(self, name), choices)
