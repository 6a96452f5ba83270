"""Watches a judge while a policy learns from it: its precision on the policy's own videos, again and again.

A policy looks for what is rewarded wrongly. In the paper's long runs the judge's precision collapses after about 300
updates (its Fig. 14) while the reward still rises; only labels from outside can tell.
"""

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, UInt8
from torch import Tensor

from prophet_gym.errors import RewardCollapseError, require_count, require_number
from prophet_gym.estimates import Estimate, wilson
from prophet_gym.world_model import RewardModel

Truth: TypeAlias = Callable[[list[int], list[int], np.ndarray, list[int]], Any]
"""`truth(tasks, starts, chunks (b, n, k, a), lengths)`: whether the first `lengths` chunks of each row do its task."""


@dataclass(frozen=True)
class Reading:
    """What the monitor found at one update.

    Attributes:
        update: Number of the policy's update.
        precision: Over the latest verdicts of success.
        recall: Over the latest true successes.
        collapsed: Whether precision is below the floor beyond doubt: the upper end of its interval lies below.
    """

    update: int
    precision: Estimate
    recall: Estimate
    collapsed: bool


class PrecisionMonitor:
    """Collects verdicts with their truth and warns, or stops the run, once precision has fallen below a floor.

    Attributes:
        readings: All so far.

    Example:
        >>> monitor = PrecisionMonitor(floor=0.7)
        >>> called, truth = np.ones(20, bool), np.arange(20) < 18
        >>> monitor.update(100, called, truth).precision.mean
        0.9
    """

    def __init__(self, *, floor: float = 0.7, window: int = 200, stop: bool = False) -> None:
        """Begin to watch.

        Args:
            floor: Precision below which the judge is not to be trusted.
            window: The latest so many labelled videos count.
            stop: Raise `RewardCollapseError` on collapse, where a RuntimeWarning is given else.
        """
        if require_number("floor, between 0 and 1,", floor, above=0) >= 1:
            raise ValueError(f"floor must be between 0 and 1, got {floor}")
        require_count("window", window)
        self.floor = floor
        self.stop = stop
        self.readings: list[Reading] = []
        self._latest: deque[tuple[bool, bool]] = deque(maxlen=window)

    def update(self, update: int, called: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> Reading:
        """Take in verdicts and their truth; videos that were not judged do not belong here.

        Raises:
            ValueError: A verdict without its truth, or the other way round.
            RewardCollapseError: Precision has collapsed, and the monitor is to stop the run.
        """
        if called.shape != truth.shape:
            raise ValueError(f"each verdict needs its truth, got {len(called)} verdicts and {len(truth)} truths")
        self._latest.extend(zip(called.tolist(), truth.tolist(), strict=True))
        said = [true for call, true in self._latest if call]
        hits = sum(said)
        precision = wilson(hits, len(said))
        recall = wilson(hits, sum(true for _, true in self._latest))
        reading = Reading(update, precision, recall, bool(precision.high < self.floor))
        self.readings.append(reading)
        if reading.collapsed:
            message = (
                f"the judge's precision at update {update} is {precision.mean:.2f} [{precision.low:.2f}, "
                f"{precision.high:.2f}] over {len(said)} verdicts of success, below the floor of {self.floor}: the "
                "policy is learning what is rewarded wrongly. Go back to an earlier checkpoint, or train the judge on "
                "these videos"
            )
            if self.stop:
                raise RewardCollapseError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return reading

    def watch(
        self,
        update: int,
        dreams: VectorEnv,
        act: Callable[[Any, Mapping[str, Any]], np.ndarray],
        truth: Truth,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Let the current policy dream an episode in every row, and take in what its judge said of them.

        Args:
            update: Number of the policy's update.
            dreams: Of held-out starts, with the judge that the policy learns from and autoreset DISABLED.
            act: Chunks for all rows, from observation and info: the policy.
            truth: What the same chunks really led to, e.g. `prophet_gym.sims.replay.true_outcomes` of a simulator.
            seed: Of the reset.
            options: Of the reset, e.g. which starts.

        Raises:
            ValueError: Rows restart by themselves, or never end.
        """
        mode, horizon = dreams.metadata.get("autoreset_mode"), getattr(dreams.unwrapped, "max_episode_steps", None)
        if mode is not AutoresetMode.DISABLED or horizon is None:
            raise ValueError(f"dreams to watch need autoreset DISABLED and a horizon, got {mode} and {horizon}")
        observation, info = dreams.reset(seed=seed, options=None if options is None else dict(options))
        tasks, starts = info["task"].tolist(), info["start"].tolist()
        called, scored = np.zeros(dreams.num_envs, bool), np.zeros(dreams.num_envs, bool)
        lengths, chunks = np.full(dreams.num_envs, horizon), []
        for step in range(horizon):
            chunks.append(np.asarray(act(observation, info), np.float32))
            observation, _, terminated, truncated, info = dreams.step(chunks[-1])
            called |= info["success"]
            scored |= info["scored"]
            lengths = np.where(terminated | truncated, step + 1, lengths)
            if (lengths <= step + 1).all():
                break
        real = truth(tasks, starts, np.stack(chunks, 1), lengths.tolist())
        return self.update(update, called[scored], np.asarray(real, bool)[scored])

    def check(
        self,
        update: int,
        reward_model: RewardModel,
        videos: Sequence[UInt8[Tensor, "_ h w 3"]],
        instructions: Sequence[str],
        truth: Sequence[bool],
    ) -> Reading:
        """Judge videos of the current policy whose truth is known, and take the verdicts in.

        Args:
            update: Number of the policy's update.
            reward_model: The one that the policy learns from.
            videos: What the judge is shown.
            instructions: One per video.
            truth: What the same actions really led to, e.g. by `prophet_gym.sims.replay.true_outcomes`.
        """
        if not len(videos) == len(instructions) == len(truth):
            counts = f"{len(videos)}, {len(instructions)} and {len(truth)}"
            raise ValueError(f"each video needs its instruction and its truth, got {counts}")
        output = reward_model.score(videos, instructions)
        real = torch.tensor(list(truth), dtype=torch.bool)
        return self.update(update, output.success[output.scored].numpy(), real[output.scored].numpy())
