"""Everything that is fixed before a run, as plain data: arms, and the sizes of the experiment."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from prophet_gym.sims._initial_states import TRAIN_SEED

DREAM = "Prophet-LIBERO-v0"
LIBERO = "LIBERO-Object-v0"
SFT = "sft"
CLONED = "SmallVLA-LIBERO-object-sft"


@dataclass(frozen=True)
class Arm:
    """Describe a way to improve the cloned policy.

    Attributes:
        algo: As `prophrl train --algo` takes it.
        alpha: FlowScale's exponent; 1 turns it off.
        env: The id that it learns in, from `train` initial states.
        seeds: How many runs.
        recall: Share of the rewarded episodes that stay rewarded; below 1 the reward is degraded on purpose.
        false_positive_rate: Share of the other episodes that are rewarded at their end all the same.
        clip: Lower and upper clipping range of the ratio.
        noise_level: Of a sampled path; where the forward process is scored, the error that counts as one deviation.
        beta: Weight of the KL to the cloned policy.
    """

    algo: str
    alpha: float = 1.0
    env: str = DREAM
    seeds: int = 1
    recall: float = 1.0
    false_positive_rate: float = 0.0
    clip: tuple[float, float] = (0.2, 0.28)
    noise_level: float = 1.0
    beta: float = 0.25


def flow_grpo(alpha: float, seeds: int, flow_steps: int, dimensions: int = 56) -> Arm:
    """Return Flow-GRPO with FA-GRPO's clipping range and KL on its own scale.

    Its ratio is of a mean over a chunk's dimensions, FA-GRPO's of a sum over flow steps: where they are independent, it
    is sqrt(flow_steps * dimensions) times nearer to 1, and so is its clipping range. On policy its gradient is
    FA-GRPO's divided by the flow steps, and so is the weight of its KL.
    """
    near = sqrt(flow_steps * dimensions)
    clip = round(0.2 / near, 4), round(0.28 / near, 4)
    return Arm("flow-grpo-forward", alpha, seeds=seeds, clip=clip, beta=0.25 / flow_steps)


def arms(seeds: int, others: int, flow_steps: int) -> dict[str, Arm]:
    """Return the arms of an experiment by name.

    The 2x2 of algorithm and FlowScale, scored by the forward process, has `seeds` runs each; FA-GRPO in LIBERO itself
    and the two that score sampled paths have `others`.
    """
    square = {
        "flow-grpo": flow_grpo(1.0, seeds, flow_steps),
        "flow-grpo+flowscale": flow_grpo(0.5, seeds, flow_steps),
        "fa-grpo": Arm("fa-grpo-forward", seeds=seeds),
        "fa-grpo+flowscale": Arm("fa-grpo-forward", 0.5, seeds=seeds),
    }
    rest = {
        "fa-grpo-libero": Arm("fa-grpo-forward", env=LIBERO, seeds=others),
        "fa-grpo+flowscale-path": Arm("fa-grpo-cps", 0.5, seeds=others, noise_level=0.2, beta=0.01),
        "pi-rl": Arm("pi-rl", seeds=others, noise_level=0.2, beta=0.01),
    }
    return square | rest


PATH_SCORED = ("fa-grpo", "fa-grpo-cps")
"""Algorithms that score an action as the paper does: by the density of the path that was sampled."""


def label_of(name: str, about: Mapping[str, Any]) -> str:
    """Return what tables and plots call an arm: its algorithm, FlowScale, and where it learns if not in the dream.

    Logs and `--runs` keep short names (`fa-grpo` is scored by the forward process), so every table and plot asks here.

    Args:
        name: Of the arm, as in the logs.
        about: An `Arm` as plain data, as in a summary.
    """
    if not name.startswith(("fa-grpo", "flow-grpo", "pi-rl")):
        return name  # With a degraded reward: how it was degraded is what tells these arms apart.
    label = about["algo"] + ("+flowscale" if about["alpha"] < 1 else "")
    label += ", learned in LIBERO" if about["env"].startswith("LIBERO-") else ""
    return label + (" (the paper's scoring)" if about["algo"] in PATH_SCORED else "")


DEGRADED = {
    "recall-1": (1.0, 0.0),
    "recall-0.5": (0.5, 0.0),
    "recall-0.2": (0.2, 0.0),
    "false-positives-0.3": (1.0, 0.3),
    "false-positives-0.6": (1.0, 0.6),
    "recall-0.5-false-positives-0.3": (0.5, 0.3),
    "random": (0.5, 0.5),
}
"""Name -> recall and false-positive rate of a reward that is degraded on purpose; a random one does not look."""


@dataclass(frozen=True)
class Size:
    """Fix the experiment at one size.

    Attributes:
        policy: As `prophrl sft --policy` takes it.
        cloned: Bundled weights that learning starts from; then nothing is cloned here.
        libero: The simulator's id, which is evaluated in.
        tasks: Tasks that are trained and evaluated.
        sft_tasks: Tasks whose demonstrations are cloned; all if empty.
        sft_failing: Scripts whose failing episodes are cloned too.
        sft_steps: Optimizer steps of cloning.
        sft_batch_size: Demonstrations in a step.
        sft_rate: Peak learning rate of cloning.
        choose_episodes: Episodes per task that choose the learning rate.
        choose_first: Number of the first placement that they begin from.
        rates: Learning rates to choose from.
        rate_updates: Updates that each is tried for; with one rate none.
        updates: Of a run.
        groups: In an update.
        group_size: Rollouts in a group.
        epochs: Passes over an update's chunks.
        minibatches: Optimizer steps in a pass.
        discount: The reward of chunk n, counted from 0, counts discount^n.
        point_every: Updates between the points of a curve.
        point_states: Official states per task of a point on the way; the runs of an arm share them.
        scored_states: Official states per task whose episodes in LIBERO the dream's reward model scores, one for each
            state and run.
        final_states: Official states per task at the end and for the cloned policy.
        repeats: Episodes in LIBERO per state and arm at the end, each with its own noise; the runs of an arm share
            them. In the dream each run has one.
        num_envs: Episodes of an evaluation at once.
        arms: What is compared.
    """

    tasks: tuple[int, ...]
    arms: dict[str, Arm]
    policy: str = "small"
    cloned: str = ""
    libero: str = LIBERO
    sft_tasks: tuple[int, ...] = ()
    sft_failing: tuple[str, ...] = ("slip",)
    sft_steps: int = 3500
    sft_batch_size: int = 32
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
    scored_states: int = 4
    final_states: int = 50
    repeats: int = 3
    num_envs: int = 10


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
        arms={name: Arm("fa-grpo-forward", recall=r, false_positive_rate=f) for name, (r, f) in DEGRADED.items()},
        policy="small-k4",
        cloned=CLONED,
        groups=4,
        point_every=8,
        repeats=2,
    ),
}
"""`short`: one task, one arm; `cpu`: all arms, for two cores; `full`: for a GPU; `reward`: a degraded one."""
