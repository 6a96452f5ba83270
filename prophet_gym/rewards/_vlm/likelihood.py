"""Reward videos by token likelihoods: how much likelier a model finds `Success` than `Failure` as its next word."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_count, require_known, require_number, require_when
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import config_of, keys_of
from prophet_gym._io.files import read_json, reading
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards._videos import require_videos
from prophet_gym.rewards._vlm import warn
from prophet_gym.rewards._vlm.local import LocalVlm
from prophet_gym.rewards._vlm.prompt import CRITERIA_NAME, WORDS, Prompt
from prophet_gym.rewards._vlm.votes import REQUESTED_FRAMES, Question, label_frames
from prophet_gym.world_model import RewardOutput

CONFIG_NAME = "likelihood.json"
PROMPT_NAME = "prompt.txt"
ADAPTER_NAME = "adapter"


@dataclass(frozen=True)
class LikelihoodConfig:
    """Configure a `LikelihoodReward`."""

    base: str = ""  # Hub id or folder of the model
    threshold: float = 0.5  # probability from which on the task counts as done
    when: Literal["chunk", "end"] = "end"
    stride: int = 5
    shown: int = 16  # frames that the model is shown, at most
    reward: Literal["sparse", "progress"] = "sparse"  # 1.0 when done, else 0.0; or the probability itself

    def __post_init__(self) -> None:
        require_when(self.when)
        require_count("stride", self.stride)
        require_count("shown", self.shown)
        require_known("reward of a likelihood", self.reward, ("sparse", "progress"))
        if require_number("threshold, between 0 and 1,", self.threshold, above=0) >= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")


class LikelihoodReward:
    """Reward a video by the probability of `Success` against `Failure` as the next word of a local model.

    A video without frames is not scored, nor one for which the model gives no finite number.
    """

    def __init__(
        self, model: LocalVlm, config: LikelihoodConfig | None = None, *, prompt: Prompt | None = None
    ) -> None:
        """Keep the parts; the installed `verdict` prompt is the default."""
        self.model = model
        self.config = config or LikelihoodConfig(base=model.name)
        self.prompt = prompt or Prompt.read("verdict")
        self.when: Literal["chunk", "end"] = self.config.when
        self.stride = self.config.stride
        self.max_frames = max(self.config.shown, REQUESTED_FRAMES)
        self._warned = False

    def question(self, video: UInt8[Tensor, "_ h w 3"], instruction: str) -> Question:
        """Return what the model is asked about a video."""
        return Question((*label_frames(video, self.stride, self.config.shown), self.prompt.fill(instruction)))

    def log_odds(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> Float[Tensor, " b"]:
        """Return the logit of `Success` minus that of `Failure`; gradients flow to the model."""
        questions = [self.question(video, text) for video, text in zip(videos, instructions, strict=True)]
        logits = self.model.word_logits(questions, WORDS)
        return logits[:, 0] - logits[:, 1]

    @torch.no_grad()
    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Score each video."""
        require_videos(videos, instructions)
        seen = [row for row, video in enumerate(videos) if len(video)]
        likely = torch.zeros(len(videos), dtype=torch.float32)
        scored = torch.zeros(len(videos), dtype=torch.bool)
        if seen:
            odds = self.log_odds([videos[row] for row in seen], [instructions[row] for row in seen])
            known = torch.isfinite(odds).cpu()
            likely[seen] = torch.where(known, torch.sigmoid(odds).cpu(), 0.0)
            scored[seen] = known
        unknown = len(seen) - int(scored.sum())
        if unknown and not self._warned:
            self._warned = True
            warn(
                f"{self.model.name} gives no finite likelihood for {unknown} of {len(seen)} videos, so these are not "
                "scored; from now on such videos are not reported. Its weights may be damaged, or its dtype too small: "
                "try float32 or bfloat16"
            )
        done = scored & (likely >= self.config.threshold)
        reward = done.float() if self.config.reward == "sparse" else likely
        return RewardOutput(reward, scored, done, likely)

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config and prompt, and the low-rank adapter if the model has one; the base model is only named."""
        with atomic_directory(directory, last=CONFIG_NAME) as temporary:
            for name, content in ((CONFIG_NAME, asdict(self.config)), (CRITERIA_NAME, dict(self.prompt.criteria))):
                (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (temporary / PROMPT_NAME).write_text(self.prompt.text, encoding="utf-8")
            network: Any = self.model.model
            if hasattr(network, "peft_config"):
                network.save_pretrained(str(temporary / ADAPTER_NAME))

    @classmethod
    def from_pretrained(cls, directory: Path | str, *, device: str = "cpu") -> "LikelihoodReward":
        """Read what `save_pretrained` wrote."""
        folder = Path(directory)
        if not (folder / CONFIG_NAME).is_file():
            raise MissingWeightsError(f"a trained vision-language reward is a folder with {CONFIG_NAME}: {folder}")
        given = read_json(folder / CONFIG_NAME, CheckpointError)
        known = f"{CONFIG_NAME} has the keys: {keys_of(LikelihoodConfig)}"
        with reading(f"the reward in {folder} is damaged", known, CheckpointError):
            config, prompt = config_of(LikelihoodConfig, given), Prompt.read(folder / PROMPT_NAME)
        adapter = folder / ADAPTER_NAME
        model = LocalVlm.from_pretrained(config.base, device=device, adapter=adapter if adapter.is_dir() else None)
        return cls(model, config, prompt=prompt)
