"""Render where episodes start: the images and instructions that a checkpoint's initial states hold."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Literal

import numpy as np

from prophet_gym.embodiments._embodiment import pose_extra
from prophet_gym.embodiments._kinematics import ToolPose, matrix_to_euler, quaternion_to_matrix
from prophet_gym.sims._require import check_cameras, check_split
from prophet_gym.sims.simulator import check_task
from prophet_gym.specs import CAMERAS, FIRST_CAMERA, WRIST_CAMERA, InitialState

TRAIN_SEED = 1_000_000
"""Placement seeds of the `train` starts begin here, far from those of recordings."""


def render_initial_states(
    suite: str,
    task: int,
    split: Literal["train", "official"],
    count: int,
    *,
    look: str,
    size: int = 128,
    cameras: Sequence[str] = (FIRST_CAMERA,),
) -> Iterator[InitialState]:
    """Yield the first `count` starts of a task, with the pose of the hand: official ones, or random placements.

    With both cameras, `extra` also has the wrist camera's image and the robot's state.
    """
    simulator = check_task(suite, task, look)
    check_split(suite, split)
    cameras = check_cameras(suite, cameras)
    if split == "official" and count > simulator.official_states:
        raise ValueError(f"a task has {simulator.official_states} official starts, got count={count}")
    with closing(simulator(suite, task, look=look, size=size)) as sim:
        for index in range(count):
            sim.reset(**({"official": index} if split == "official" else {"seed": TRAIN_SEED + index}))
            turn = quaternion_to_matrix(sim.gripper_quaternion()[None])
            # The gripper is open: starts wait for it.
            hand = ToolPose(sim.gripper_position()[None], matrix_to_euler(turn), np.ones(1))
            seen = {}
            if len(cameras) > 1:
                seen = {CAMERAS[WRIST_CAMERA]: sim.render_wrist()[None], "state": sim.robot_state().astype(np.float32)}
            yield InitialState(
                frames=sim.render()[None],
                instruction=sim.instruction,
                suite=suite,
                task=task,
                index=index,
                split=split,
                extra={"gripper_position": np.asarray(sim.gripper_position(), np.float32), **pose_extra(hand), **seen},
            )
