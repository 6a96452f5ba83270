"""A judge made worse on purpose, to find out how much of its recall and precision a policy's learning needs.

The paper finds that recall matters most while precision holds, and that precision collapses in long runs (its Fig. 14).
Here both are set: `prophet_gym.rewards.robustness` runs a training over a grid of them.
"""

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
    """Verdicts with the given errors: a success is seen with probability `recall`, a failure taken for one.

    Raises:
        ValueError: A rate is not in [0, 1].
    """
    for name, rate in (("recall", recall), ("false_positive_rate", false_positive_rate)):
        rates = np.asarray(rate)
        if rates.dtype.kind not in "iuf" or not np.all((rates >= 0) & (rates <= 1)):
            raise ValueError(f"{name} must be in [0, 1], got {rate}")
    return rng.random(len(truth)) < np.where(truth, recall, false_positive_rate)


def false_positive_rate(recall: float, precision: float, successes: float) -> float:
    """The rate of false alarms at which a judge of this recall has this precision.

    A judge's precision depends on how often the policy succeeds; the rate does not.

    Args:
        recall: Share of the successes that are seen, in [0, 1].
        precision: Share of the alarms that are right, in (0, 1].
        successes: Share of episodes that succeed, in (0, 1).

    Raises:
        ValueError: No rate up to 1 gives this precision.

    Example:
        >>> round(false_positive_rate(recall=0.9, precision=0.75, successes=0.5), 3)
        0.3
    """
    if not (0 <= recall <= 1 and 0 < precision <= 1 and 0 < successes < 1):
        raise ValueError(
            "recall must be in [0, 1], precision in (0, 1], successes in (0, 1), "
            f"got {recall}, {precision}, {successes}"
        )
    rate = recall * successes * (1 - precision) / (precision * (1 - successes))
    if rate > 1:
        raise ValueError(
            f"with {successes:.0%} successes a judge of recall {recall} has a precision of at least "
            f"{precision_of(recall, 1.0, successes):.3f}, asked for {precision}"
        )
    return rate


def precision_of(recall: float, false_positive_rate: float, successes: float) -> float:
    """The precision of a judge with these rates; NaN where it never says success.

    Args:
        recall: Share of the successes that are seen.
        false_positive_rate: Share of the failures that are taken for successes.
        successes: Share of episodes that succeed.
    """
    said = recall * successes + false_positive_rate * (1 - successes)
    return recall * successes / said if said > 0 else float("nan")


class DegradedOracle(VectorWrapper):
    """An env whose reward is right, with a judge between it and the learner who errs at given rates.

    The judgement falls once, when an episode ends: a success pays 1.0 with probability `recall`, an episode that was
    cut off pays 1.0 with probability `false_positive_rate`, every other step pays 0. `info["success"]` becomes what the
    judge says, `info["true_success"]` is what was. Errors are drawn anew each time, from a generator that
    `reset(seed=)` restarts. Rows whose true reward was not valid stay as they are.

    Use it where a reward of 1.0 is the truth: the simulator, or toy envs.
    """

    def __init__(self, env: VectorEnv, *, recall: float, false_positive_rate: float, seed: int = 0) -> None:
        """Wrap a vector env; the rates are in [0, 1], `seed` is that of the errors until the first seeded reset."""
        super().__init__(env)
        if getattr(env.unwrapped, "gives_tensors", False):
            raise ValueError("DegradedOracle works on arrays, and this env gives tensors: wrap a ProphetVectorEnv")
        degrade(np.zeros(0, bool), recall, false_positive_rate, np.random.default_rng(0))
        self.recall = recall
        self.false_positive_rate = false_positive_rate
        self._rng = np.random.default_rng(seed)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the env's; a seed (of every row) also restarts the errors."""
        found = self.env.reset(seed=seed, options=options)
        seeds = np.atleast_1d(np.array(seed, dtype=object)).tolist()
        if all(each is not None for each in seeds):
            self._rng = np.random.default_rng([*map(int, seeds), 1])
        return found

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As the env's, with the judge's reward."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        truth = np.asarray(rewards >= 1.0)
        called = degrade(truth, self.recall, self.false_positive_rate, self._rng) & ended
        info = {**info, "true_success": truth & ended, "_true_success": np.ones(self.num_envs, bool)}
        every = known = np.ones(self.num_envs, bool)
        # what ended rows did is in `final_info` where the env resets them in the same step
        for told in (info, info.get("final_info", {})):
            if "scored" in told:
                known = np.where(told.get("_scored", every), told["scored"], known)
            if "success" in told:
                told["success"] = np.where(told.get("_success", every), called, told["success"])
        imperfect = np.where(known, called.astype(np.float64), 0.0)
        return observations, imperfect, terminated, truncated, info
