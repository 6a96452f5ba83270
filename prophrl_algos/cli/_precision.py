"""Watch the reward's precision while a policy learns from it: `prophrl train --precision.truth-env`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from gymnasium.vector import VectorEnv

from prophet_gym._arguments import Arguments, Number
from prophrl_algos.trainer import Metrics

if TYPE_CHECKING:
    from prophrl_algos.flow import FlowPolicy


@dataclass(frozen=True)
class Precision(Arguments):
    """How the reward's precision is watched; off without an env that tells the truth."""

    truth_env: str = ""
    """A simulator in which each evaluation also replays dreams, for example `LIBERO-Object-v0`: whether they succeed
    there is compared with what the reward model says. Needs `--evaluate-every`."""
    floor: Annotated[float, Number(above=0, most=1)] = 0.7
    """Warn once the precision over the latest 200 dreams lies below this."""
    stop: bool = False
    """Stop the run then, in place of a warning."""


def precision_metrics(
    policy: "FlowPolicy", dreams: VectorEnv, truth: VectorEnv, settings: Precision, seed: int
) -> Callable[[int], Metrics]:
    """Return a function of the update's number that dreams one episode per sub-environment and replays it.

    `truth` is a simulator with as many sub-environments as `dreams`, from the same split.
    """
    import torch

    from prophet_gym.rewards import PrecisionMonitor
    from prophet_gym.sims.replay import true_outcomes
    from prophrl_algos.evaluate import noise_seed, ode_schedule
    from prophrl_algos.rollout._episodes import act as play

    monitor = PrecisionMonitor(floor=settings.floor, stop=settings.stop)
    everywhere = np.arange(dreams.num_envs)

    def measure(update: int) -> Metrics:
        generators = [torch.Generator().manual_seed(noise_seed(seed + update, row)) for row in everywhere.tolist()]
        instructions: list[str] = []

        def act(observation: Any, info: Mapping[str, Any]) -> np.ndarray:
            # An episode keeps its instruction, and only the reset's info is certain to say it.
            if not instructions:
                instructions.extend(map(str, info["instruction"]))
            return play(policy, dreams, observation, everywhere, instructions, ode_schedule(policy), generators)[2]

        found = monitor.watch(update, dreams, act, partial(true_outcomes, truth), seed=seed + update)
        return {
            "reward_precision": found.precision.mean,
            "reward_precision_low": found.precision.low,
            "reward_precision_high": found.precision.high,
            "reward_recall": found.recall.mean,
        }

    return measure
