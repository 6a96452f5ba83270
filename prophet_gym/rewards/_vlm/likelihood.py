"""Reward videos by token likelihoods: how much likelier a model finds `Success` than `Failure` as its next word.

This needs one forward pass, no sampling and no training; `prophet train-reward --backbone vlm` trains the same numbers.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_count, require_number, require_when, unknown_option
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import config_of, keys_of
from prophet_gym._io.files import read_json
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards._videos import require_videos
from prophet_gym.rewards._vlm.local import LocalVlm
from prophet_gym.rewards._vlm.prompt import WORDS, Prompt
from prophet_gym.rewards._vlm.votes import REQUESTED_FRAMES, Question, labelled_frames, spread
from prophet_gym.world_model import RewardOutput

CONFIG_NAME = "likelihood.json"
ADAPTER_NAME = "adapter"


@dataclass(frozen=True)
class LikelihoodConfig:
    """Configure a `LikelihoodReward`.

    Attributes:
        base: Hub id or folder of the model.
        threshold: Probability from which on the task counts as done.
        when: See `RewardModel`.
        stride: See `RewardModel`.
        shown: Largest number of frames that the model is shown.
        reward: `sparse`: 1.0 when done, else 0.0; `progress`: the probability itself.
    """

    base: str = ""
    threshold: float = 0.5
    when: Literal["chunk", "end"] = "end"
    stride: int = 5
    shown: int = 16
    reward: Literal["sparse", "progress"] = "sparse"

    def __post_init__(self) -> None:
        if not isinstance(self.base, str):
            raise ValueError(f"base must be the name of a model, a text, got {self.base!r}")
        require_when(self.when)
        require_count("stride", self.stride)
        require_count("shown", self.shown)
        if self.reward not in ("sparse", "progress"):
            raise unknown_option("reward of a likelihood", self.reward, ["sparse", "progress"])
        if require_number("threshold, between 0 and 1,", self.threshold, above=0) >= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")


class LikelihoodReward:
    """Reward a video by the probability of `Success` against `Failure` as the next word of a local model.

    A video without frames is not scored, nor one for which the model gives no finite number; the first time, a warning
    says so.
    """

    def __init__(
        self, model: LocalVlm, config: LikelihoodConfig | None = None, *, prompt: Prompt | None = None
    ) -> None:
        """Keep the parts; the installed `output` prompt is the default."""
        self.model = model
        self.config = config or LikelihoodConfig(base=model.name)
        self.prompt = prompt or Prompt.read("verdict")
        self.when: Literal["chunk", "end"] = self.config.when
        self.stride = self.config.stride
        self.max_frames = max(self.config.shown, REQUESTED_FRAMES)
        self._warned = False

    def question(self, video: UInt8[Tensor, "_ h w 3"], instruction: str) -> Question:
        """Return what the model is asked about a video."""
        places = spread(len(video), self.config.shown)
        frames = [video[place].cpu() for place in places]
        steps = [self.stride * place for place in places]
        return Question((*labelled_frames(frames, steps), self.prompt.fill(instruction)))

    def log_odds(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> Float[Tensor, " b"]:
        """Return the logit of `Success` minus that of `Failure`; gradients flow to the model."""
        questions = [self.question(video, text) for video, text in zip(videos, instructions, strict=True)]
        logits = self.model.word_logits(questions, WORDS)
        return logits[:, 0] - logits[:, 1]

    @torch.no_grad()
    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Score each video.

        Raises:
            ValueError: A video is not uint8 `(frames, h, w, 3)`.
        """
        require_videos(videos, instructions)
        seen = [row for row, video in enumerate(videos) if len(video)]
        likely = torch.zeros(len(videos), dtype=torch.float32)
        scored = torch.zeros(len(videos), dtype=torch.bool)
        if seen:
            odds = self.log_odds([videos[row] for row in seen], [instructions[row] for row in seen])
            known = torch.isfinite(odds).cpu()
            self._warn(int((~known).sum()), len(seen))
            likely[seen] = torch.where(known, torch.sigmoid(odds).cpu(), 0.0)
            scored[seen] = known
        done = scored & (likely >= self.config.threshold)
        reward = done.float() if self.config.reward == "sparse" else likely
        return RewardOutput(reward, scored, done, likely)

    def _warn(self, unknown: int, count: int) -> None:
        if unknown and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.model.name} gives no finite likelihood for {unknown} of {count} videos, so these are not "
                "scored; from now on such videos are not reported. Its weights may be damaged, or its dtype too small: "
                "try float32 or bfloat16",
                RuntimeWarning,
                stacklevel=3,
            )

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config and prompt, and the low-rank adapter if the model has one; the base model is only named."""
        with atomic_directory(directory, last=CONFIG_NAME) as temporary:
            (temporary / CONFIG_NAME).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")
            (temporary / "prompt.txt").write_text(self.prompt.text, encoding="utf-8")
            criteria = json.dumps(dict(self.prompt.criteria), indent=2)
            (temporary / "criteria.json").write_text(criteria + "\n", encoding="utf-8")
            network: Any = self.model.model
            if hasattr(network, "peft_config"):
                network.save_pretrained(str(temporary / ADAPTER_NAME))

    @classmethod
    def from_pretrained(cls, directory: Path | str, *, device: str = "cpu") -> "LikelihoodReward":
        """Read what `save_pretrained` wrote.

        Raises:
            MissingWeightsError: The folder or the base model is missing.
            CheckpointError: The config, the prompt or the weights are damaged.
        """
        folder = Path(directory)
        if not (folder / CONFIG_NAME).is_file():
            raise MissingWeightsError(f"a trained vision-language reward is a folder with {CONFIG_NAME}: {folder}")
        given = read_json(folder / CONFIG_NAME, CheckpointError)
        try:
            config = config_of(LikelihoodConfig, given)
        except (ValueError, TypeError) as error:
            known = keys_of(LikelihoodConfig)
            raise CheckpointError(f"{folder / CONFIG_NAME} is damaged ({error}); keys: {known}") from error
        prompt = _read_prompt(folder / "prompt.txt")
        adapter = folder / ADAPTER_NAME
        model = LocalVlm.from_pretrained(config.base, device=device, adapter=adapter if adapter.is_dir() else None)
        return cls(model, config, prompt=prompt)


def _read_prompt(path: Path) -> Prompt:
    if not path.is_file():
        raise CheckpointError(f"a trained vision-language reward has its question beside its config: {path} is missing")
    try:
        return Prompt.read(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
