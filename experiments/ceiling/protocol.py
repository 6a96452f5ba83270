"""Everything that is fixed before a run, as plain data: the clone, the settings of learning, and what is measured."""

from dataclasses import dataclass

from experiments.reinforce_in_dream.protocol import LIBERO, Arm, Size

LADDER = (16, 24, 40, 60, 80, 100, 150)
"""Numbers of demonstrations to clone, of both tasks together; the next is tried where success is not as wanted."""
WANTED = (0.3, 0.6)
"""Success of the clone from the official states, so that there are failures to mend and successes to learn from."""
DEMONSTRATIONS_SEED = 11
"""Seed of the experts' placements, as of the bundled policy's demonstrations."""

SIZE = Size(
    tasks=(3, 5),
    arms={},
    policy="small-k4",
    sft_tasks=(3, 5),
    sft_failing=(),
    sft_steps=2000,
    updates=80,
    point_every=10,
)
"""Two tasks of libero_object; groups, optimizer steps and discount are those of `reinforce_in_dream`.

The arms are in `ARMS`: others may be added later to the same folder, since each run checks its own settings.
"""


@dataclass(frozen=True)
class Settings:
    """Say how an arm learns in the simulator from `train` states, with the true reward.

    Attributes:
        arm: Algorithm, FlowScale, noise, clipping and KL.
        rate: Learning rate.
        mixed: Replace groups that always or hardly ever succeed.
    """

    arm: Arm
    rate: float = 5e-5
    mixed: bool = False


def path_scored(algo: str = "fa-grpo", noise_level: float = 0.2, beta: float = 0.01) -> Arm:
    """Return FA-GRPO with FlowScale on sampled paths, as the paper has it, in the simulator."""
    return Arm(algo, 0.5, env=LIBERO, noise_level=noise_level, beta=beta)


ARMS = {
    "path": Settings(path_scored()),
    "path-fast": Settings(path_scored(), rate=2e-4),
    "path-mixed": Settings(path_scored(), mixed=True),
    "path-loud": Settings(path_scored(noise_level=0.5)),
    "path-cps": Settings(path_scored("fa-grpo-cps")),
    "path-free": Settings(path_scored(beta=0.0)),
    "forward": Settings(Arm("fa-grpo-forward", env=LIBERO)),
}
"""`path` first; the others differ from it in one thing each, and are tried in this order where it does not gain."""
