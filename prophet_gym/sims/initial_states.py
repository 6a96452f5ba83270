"""Films where episodes start: the pictures and instructions that a checkpoint's start sets hold."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from prophet_gym.embodiments.kinematics import ToolPose, matrix_to_euler, quaternion_to_matrix
from prophet_gym.embodiments.start_poses import pose_extra
from prophet_gym.sims.simulator import LiberoSim
from prophet_gym.specs import InitialState

TRAIN_SEED = 1_000_000
"""Placement seeds of the `train` starts begin here, far from those of recordings."""
OFFICIAL_STATES = 50


def render_initial_states(
    suite: str, task: int, split: Literal["train", "official"], count: int, *, look: str, size: int = 128
) -> Iterator[InitialState]:
    """Yields the first `count` starts of a task, with the pose of the hand.

    Args:
        suite: E.g. `libero_object`.
        task: Number of the task.
        split: `official`, the benchmark's own states; `train`, random placements.
        count: At most 50 for `official`.
        look: Of the simulator.
        size: Of the picture, pixels.

    Raises:
        ValueError: More official starts than there are.
    """
    if split == "official" and count > OFFICIAL_STATES:
        raise ValueError(f"a task has {OFFICIAL_STATES} official starts, got count={count}")
    sim = LiberoSim(suite, task, look=look, size=size)
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


def _hand(sim: LiberoSim) -> ToolPose:
    """Where the hand is and points; starts wait until the gripper is open."""
    turn = quaternion_to_matrix(sim.gripper_quaternion()[None])
    return ToolPose(sim.gripper_position()[None], matrix_to_euler(turn), np.ones(1))
