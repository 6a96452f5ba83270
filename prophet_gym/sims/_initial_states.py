"""Render where episodes start: the images and instructions that a checkpoint's initial states hold."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from prophet_gym.embodiments._kinematics import ToolPose, matrix_to_euler, quaternion_to_matrix
from prophet_gym.embodiments._start_poses import pose_extra
from prophet_gym.sims.simulator import Simulator, check_task
from prophet_gym.specs import InitialState

TRAIN_SEED = 1_000_000
"""Placement seeds of the `train` starts begin here, far from those of recordings."""


def render_initial_states(
    suite: str, task: int, split: Literal["train", "official"], count: int, *, look: str, size: int = 128
) -> Iterator[InitialState]:
    """Yield the first `count` starts of a task, with the pose of the hand.

    Args:
        suite: The name of the suite, e.g. `libero_object`.
        task: Number of the task.
        split: `official`, the benchmark's own states; `train`, random placements.
        count: For `official`, at most as many as the task has (LIBERO: 50).
        look: How the simulator is drawn.
        size: Height and width of the image, pixels.

    Raises:
        ValueError: There are fewer official starts.
    """
    simulator = check_task(suite, task, look)
    if split == "official" and count > simulator.official_states:
        raise ValueError(f"a task has {simulator.official_states} official starts, got count={count}")
    sim = simulator(suite, task, look=look, size=size)
    try:
        for index in range(count):
            if split == "official":
                sim.reset(official=index)
            else:
                sim.reset(seed=TRAIN_SEED + index)
            yield InitialState(
                frames=sim.render()[None],
                instruction=sim.instruction,
                suite=suite,
                task=task,
                index=index,
                split=split,
                extra={"gripper_position": np.asarray(sim.gripper_position(), np.float32), **pose_extra(_hand(sim))},
            )
    finally:
        sim.close()


def _hand(sim: Simulator) -> ToolPose:
    """Return where the hand is and points; starts wait until the gripper is open."""
    turn = quaternion_to_matrix(sim.gripper_quaternion()[None])
    return ToolPose(sim.gripper_position()[None], matrix_to_euler(turn), np.ones(1))
