"""How large the proof is: everything that its protocol fixes before a run, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from prophet_gym.sims.start_frames import TRAIN_SEED

DREAM = "Prophet-LIBERO-v0"
REALITY = "LIBERO-Object-v0"
WORLDS = {"libero": REALITY, "dream": DREAM}
SFT = "sft"
CLONED = "SmallVLA-LIBERO-object-sft"


@dataclass(frozen=True)
class Arm:
    """A way to improve the cloned policy.

    Attributes:
        algo: as `prophrl train --algo` takes it.
        alpha: of FlowScale; 1 is off.
        env: where it learns, from `train` starts.
        seeds: how many runs.
        recall: share of the rewarded episodes that stay rewarded; below 1 the reward is made worse on purpose.
        alarms: share of the other episodes that are rewarded at their end all the same.
        clip: how far below and above 1 a ratio earns.
        noise_level: of a sampled path; where the forward process is scored, the error that counts as one deviation.
        beta: weight of the KL to the cloned policy.
    """

    algo: str
    alpha: float = 1.0
    env: str = DREAM
    seeds: int = 1
    recall: float = 1.0
    alarms: float = 0.0
    clip: tuple[float, float] = (0.2, 0.28)
    noise_level: float = 1.0
    beta: float = 0.25


def flow_grpo(alpha: float, seeds: int, flow_steps: int, numbers: int = 56) -> Arm:
    """Flow-GRPO with FA-GRPO's clip and KL on its own scale.

    Its ratio is of a mean over a chunk's numbers, FA-GRPO's of a sum over flow steps: where they are independent, it is
    sqrt(flow_steps * numbers) times nearer to 1, and so is its clip. On policy its gradient is FA-GRPO's by the flow
    steps, and so is its KL's weight.
    """
    near = sqrt(flow_steps * numbers)
    clip = round(0.2 / near, 4), round(0.28 / near, 4)
    return Arm("flow-grpo-forward", alpha, seeds=seeds, clip=clip, beta=0.25 / flow_steps)


def arms(seeds: int, others: int, flow_steps: int) -> dict[str, Arm]:
    """The 2x2 of algorithm and FlowScale, scored by the forward process, with `seeds` runs each; FA-GRPO in LIBERO
    itself, and what is scored by sampled paths, with `others`."""
    square = {
        "flow-grpo": flow_grpo(1.0, seeds, flow_steps),
        "flow-grpo+flowscale": flow_grpo(0.5, seeds, flow_steps),
        "fa-grpo": Arm("fa-grpo-forward", seeds=seeds),
        "fa-grpo+flowscale": Arm("fa-grpo-forward", 0.5, seeds=seeds),
    }
    rest = {
        "fa-grpo-real": Arm("fa-grpo-forward", env=REALITY, seeds=others),
        "fa-grpo+flowscale-path": Arm("fa-grpo-cps", 0.5, seeds=others, noise_level=0.2, beta=0.01),
        "pi-rl": Arm("pi-rl", seeds=others, noise_level=0.2, beta=0.01),
    }
    return square | rest


PATH_SCORED = ("fa-grpo", "fa-grpo-cps")
"""Algorithms that score an action as the paper does: by the density of the path that was sampled."""


def label_of(name: str, about: Mapping[str, Any]) -> str:
    """Return what tables and plots call an arm: its algorithm, FlowScale, and where it learns if not in the dream.

    Logs and `--runs` keep the short names that the first runs were given (`fa-grpo` is scored by the forward process
    there), so every table and plot asks here.

    Args:
        name: of the arm, as in the logs.
        about: an `Arm` as plain data, as in a summary.
    """
    if not name.startswith(("fa-grpo", "flow-grpo", "pi-rl")):
        return name  # of a reward that was made worse: what it was is what tells these arms apart
    label = about["algo"] + ("+flowscale" if about["alpha"] < 1 else "")
    label += ", learnt in LIBERO" if about["env"].startswith("LIBERO-") else ""
    return label + (" (the paper's scoring)" if about["algo"] in PATH_SCORED else "")


WORSE = {"recall-1": (1.0, 0.0), "recall-0.5": (0.5, 0.0), "recall-0.2": (0.2, 0.0), "alarms-0.3": (1.0, 0.3),
         "alarms-0.6": (1.0, 0.6), "recall-0.5-alarms-0.3": (0.5, 0.3), "coin": (0.5, 0.5)}  # fmt: skip
"""Name -> recall and false alarms of a reward that is made worse on purpose; a coin does not look."""


@dataclass(frozen=True)
class Size:
    """A proof.

    Attributes:
        policy: as `prophrl sft --policy` takes it.
        cloned: bundled weights that learning starts from; then nothing is cloned here.
        reality: the id that is evaluated in.
        tasks: that are trained and evaluated.
        sft_tasks: whose demonstrations are cloned; all if empty.
        sft_failing: scripts of which episodes that fail are cloned too.
        sft_steps: optimiser steps of cloning.
        sft_rows: demonstrations in a step.
        sft_rate: peak learning rate of cloning.
        choose_episodes: episodes per task that choose the learning rate.
        choose_first: number of the first placement that they begin from.
        rates: learning rates to choose from.
        rate_updates: updates that each is tried for; with one rate none.
        updates: of a run.
        groups: in an update.
        group_size: rollouts in a group.
        epochs: passes over an update's decisions.
        minibatches: optimiser steps in a pass.
        discount: the reward of chunk n, counted from 0, counts discount^n.
        point_every: updates between the points of a curve.
        point_states: official states per task of a point on the way; the runs of an arm share them.
        watched_states: official states per task whose episodes in LIBERO the dream's judge watches, one of each and
            run.
        final_states: official states per task at the end and for the cloned policy.
        repeats: episodes in LIBERO per state and arm at the end, each with its own noise; the runs of an arm share
            them. In the dream each run has one.
        rows: rollouts of an evaluation at once.
        arms: what is compared.
    """

    tasks: tuple[int, ...]
    arms: dict[str, Arm]
    policy: str = "small"
    cloned: str = ""
    reality: str = REALITY
    sft_tasks: tuple[int, ...] = ()
    sft_failing: tuple[str, ...] = ("slip",)
    sft_steps: int = 3500
    sft_rows: int = 32
    sft_rate: float = 1e-3
    choose_episodes: int = 20
    choose_first: int = TRAIN_SEED
    rates: tuple[float, ...] = (5e-5,)
    rate_updates: int = 8
    updates: int = 8
    groups: int = 8
    group_size: int = 8
    epochs: int = 1
    minibatches: int = 4
    discount: float = 1.0
    point_every: int = 4
    point_states: int = 25
    watched_states: int = 4
    final_states: int = 50
    repeats: int = 3
    rows: int = 10


SIZES = {
    "short": Size(
        tasks=(3,),
        arms={"fa-grpo": Arm("fa-grpo-forward")},
        policy="small-k4",
        cloned=CLONED,
        repeats=1,
    ),
    "cpu": Size(
        tasks=(3, 5),
        arms=arms(seeds=3, others=1, flow_steps=4),
        policy="small-k4",
        sft_tasks=(3, 5),
        sft_steps=5000,
    ),
    "full": Size(
        tasks=(0, 3, 5, 7, 8),
        arms=arms(seeds=3, others=1, flow_steps=10),
        rates=(2e-5, 5e-5),
        updates=100,
        point_every=10,
        point_states=10,
    ),
    "reward": Size(
        tasks=(3,),
        arms={name: Arm("fa-grpo-forward", recall=r, alarms=a) for name, (r, a) in WORSE.items()},
        policy="small-k4",
        cloned=CLONED,
        groups=4,
        point_every=8,
        repeats=2,
    ),
}
"""`short`: one task, one arm; `cpu`: all, for two cores; `full`: for a GPU; `reward`: how much a worse one costs."""
