"""Make a right reward wrong at given rates, to find out what a policy's learning needs (the paper's Fig. 14)."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from jaxtyping import Bool, Float


def degrade(
    truth: Bool[np.ndarray, " n"],
    recall: float | Float[np.ndarray, " n"],
    false_positive_rate: float | Float[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Bool[np.ndarray, " n"]:
    """Draw outputs: True for a success with probability `recall`, for a failure with `false_positive_rate`."""
    for name, rate in (("recall", recall), ("false_positive_rate", false_positive_rate)):
        rates = np.asarray(rate)
        if rates.dtype.kind not in "iuf" or not np.all((rates >= 0) & (rates <= 1)):
            raise ValueError(f"{name} must be in [0, 1], got {rate}")
    return rng.random(len(truth)) < np.where(truth, recall, false_positive_rate)


def false_positive_rate(recall: float, precision: float, successes: float) -> float:
    """Return the false-positive rate that gives a precision, which depends on how often the policy succeeds."""
    if not (0 <= recall <= 1 and 0 < precision <= 1 and 0 < successes < 1):
        raise ValueError(
            "recall must be in [0, 1], precision in (0, 1], successes in (0, 1), "
            f"got {recall}, {precision}, {successes}"
        )
    rate = recall * successes * (1 - precision) / (precision * (1 - successes))
    if rate > 1:
        raise ValueError(
            f"with {successes:.0%} successes a reward model of recall {recall} has a precision of at least "
            f"{precision_of(recall, 1.0, successes):.3f}, asked for {precision}"
        )
    return rate


def precision_of(recall: float, false_positives: float, successes: float) -> float:
    """Return the precision that follows from the rates; NaN where nothing is ever rewarded."""
    rewarded = recall * successes + false_positives * (1 - successes)
    return recall * successes / rewarded if rewarded > 0 else float("nan")


class DegradedOracle(VectorWrapper):
    """Wrap an env whose reward of 1.0 is the truth (the simulator, or a toy), and make it wrong at given rates.

    An episode is scored once, when it ends: a success is rewarded 1.0 with probability `recall`, an episode that was
    cut off with probability `false_positive_rate`; every other step gets 0. `info["success"]` becomes what is rewarded
    and `info["true_success"]` is what happened. Sub-environments whose own reward was not scored stay as they are.
    """

    def __init__(self, env: VectorEnv, *, recall: float, false_positive_rate: float, seed: int = 0) -> None:
        """Wrap a vector env of arrays; `seed` is that of the errors until the first seeded reset."""
        super().__init__(env)
        if getattr(env.unwrapped, "gives_tensors", False):
            raise ValueError("DegradedOracle works on arrays, and this env gives tensors: wrap a ProphetVectorEnv")
        degrade(np.zeros(0, bool), recall, false_positive_rate, np.random.default_rng(0))
        self.recall, self.false_positive_rate = recall, false_positive_rate
        self._rng = np.random.default_rng(seed)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the env; a seed for every sub-environment also restarts the errors."""
        found = self.env.reset(seed=seed, options=options)
        seeds = np.atleast_1d(np.array(seed, dtype=object)).tolist()
        if all(each is not None for each in seeds):
            # the env draws from the same seeds, so the errors need a stream of their own
            self._rng = np.random.default_rng([*map(int, seeds), 1])
        return found

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the env and replace its reward by the degraded one."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        truth = np.asarray(rewards >= 1.0)
        called = degrade(truth, self.recall, self.false_positive_rate, self._rng) & ended
        info = {**info, "true_success": truth & ended, "_true_success": np.ones(self.num_envs, bool)}
        every = known = np.ones(self.num_envs, bool)
        # Where the env resets in the same step, `final_info` tells of the episodes that ended.
        for told in (info, info.get("final_info", {})):
            if "scored" in told:
                known = np.where(told.get("_scored", every), told["scored"], known)
            if "success" in told:
                told["success"] = np.where(told.get("_success", every), called, told["success"])
        return observations, np.where(known, called.astype(np.float64), 0.0), terminated, truncated, info
