"""Watch the precision of a reward model while a policy learns from it: the paper's collapses in long runs (Fig. 14)."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool

from prophet_gym._checks import require_count, require_number, warn
from prophet_gym.errors import RewardCollapseError
from prophet_gym.estimates import Estimate, wilson

Truth: TypeAlias = Callable[[list[int], list[int], np.ndarray, list[int]], Any]
"""`truth(tasks, starts, chunks (b, n, k, a), lengths)`: whether the first `lengths` chunks of each element succeed."""


@dataclass(frozen=True)
class Reading:
    """Hold what the monitor found at one update of the policy."""

    update: int
    precision: Estimate  # fraction of the latest rewarded videos that are successes
    recall: Estimate  # fraction of the latest successes that were rewarded
    collapsed: bool  # the upper end of the precision's interval lies below the floor


class PrecisionMonitor:
    """Compare rewards with the truth, and warn or stop the run once precision has fallen below a floor.

    Example:
        >>> monitor = PrecisionMonitor(floor=0.7)
        >>> rewarded, truth = np.ones(20, bool), np.arange(20) < 18
        >>> monitor.update(100, rewarded, truth).precision.mean
        0.9
    """

    def __init__(self, *, floor: float = 0.7, window: int = 200, stop: bool = False) -> None:
        """Watch the precision over the latest `window` videos; below the `floor` warn, or `stop` with an error."""
        if require_number("floor, between 0 and 1,", floor, above=0) >= 1:
            raise ValueError(f"floor must be between 0 and 1, got {floor}")
        require_count("window", window)
        self.floor = floor
        self.stop = stop
        self.readings: list[Reading] = []
        self._latest: deque[tuple[bool, bool]] = deque(maxlen=window)

    def update(self, update: int, called: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> Reading:
        """Add scored videos: whether each was rewarded, and whether it succeeded; unscored ones must be left out.

        RewardCollapseError if the precision has collapsed and `stop` is set.
        """
        if called.shape != truth.shape:
            raise ValueError(f"each reward needs its truth, got {len(called)} rewards and {len(truth)} truths")
        self._latest.extend(zip(called.tolist(), truth.tolist(), strict=True))
        rewarded = [true for call, true in self._latest if call]
        hits = sum(rewarded)
        precision = wilson(hits, len(rewarded))
        recall = wilson(hits, sum(true for _, true in self._latest))
        # the upper end, so that a few unlucky videos do not stop a run
        reading = Reading(update, precision, recall, bool(precision.high < self.floor))
        self.readings.append(reading)
        if reading.collapsed:
            message = (
                f"the reward model's precision at update {update} is {precision.mean:.2f} [{precision.low:.2f}, "
                f"{precision.high:.2f}] over {len(rewarded)} rewarded videos, below the floor of {self.floor}: the "
                "policy is learning what is rewarded wrongly. Go back to an earlier checkpoint, or train the reward "
                "model on these videos"
            )
            if self.stop:
                raise RewardCollapseError(message)
            warn(message, RuntimeWarning)
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
        """Let the current policy dream an episode in every sub-environment, and compare the rewards with the truth.

        The env `dreams` starts from held-out states and has the reward model that the policy learns from (ValueError
        unless its autoreset is DISABLED and its episodes end). The policy maps observation and info to the chunks of
        all sub-environments. `truth` returns the true outcomes of the same chunks, as
        `prophet_gym.sims.env.true_outcomes` does in a simulator.
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
        outcomes = np.asarray(truth(tasks, starts, np.stack(chunks, 1), lengths.tolist()), bool)
        return self.update(update, called[scored], outcomes[scored])
