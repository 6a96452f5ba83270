"""Prophet in a batch: within 2 of 255 levels of as many single envs, in every autoreset mode."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from prophet_gym.checkpoint import Checkpoint, bundled_checkpoints
from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.prophet import tiny_full_prophet, tiny_prophet
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophet_gym.testing import check_world_model

ROWS, STEPS = 3, 7
MODELS = {"small": (tiny_prophet, 64), "full": (tiny_full_prophet, 32)}


def starts(size: int) -> list[InitialState]:
    source = np.random.default_rng(0)
    pose = {"gripper_position": np.zeros(3, np.float32)}
    return [
        InitialState(source.integers(256, size=(1, size, size, 3), dtype=np.uint8), f"{chunks}", extra=pose)
        for chunks in (1, 2, 9)
    ]


def close(found: Any, expected: Any, where: str) -> None:
    """Equal; images within 2 levels, uncertainty within 2 in 255."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key in expected:
            close(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        for row, pair in enumerate(zip(found, expected, strict=True)):
            close(*pair, f"{where}[{row}]")
    elif isinstance(expected, np.ndarray) and expected.dtype == np.uint8:
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2, where
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, atol=2 / 255, rtol=2 / 255, err_msg=where)
    elif isinstance(expected, tuple | list):
        for place, pair in enumerate(zip(found, expected, strict=True)):
            close(*pair, f"{where}[{place}]")
    else:
        assert np.array_equal(found, expected), where


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", MODELS)
def test_equals_single_envs_whose_episodes_end_at_different_times(kind, mode):
    build, size = MODELS[kind]
    model = build()
    # an episode is done after as many chunks as its instruction says, or cut off after three
    reward_model = FunctionReward(lambda video, text: float(len(video) > model.chunk * int(text)), max_frames=99)

    def single() -> ProphetEnv:
        return ProphetEnv(model, starts(size), reward_model=reward_model, max_episode_steps=3)

    ours = ProphetVectorEnv(
        model, starts(size), ROWS, reward_model=reward_model, max_episode_steps=3, autoreset_mode=mode
    )
    theirs = SyncVectorEnv([single] * ROWS, autoreset_mode=mode)
    close(ours.reset(seed=1), theirs.reset(seed=1), "reset")
    rng = np.random.default_rng(1)
    ends = []
    for step in range(STEPS):
        actions = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
        found, expected = ours.step(actions), theirs.step(actions)
        close(found, expected, f"step {step}")
        over = found[2] | found[3]
        ends.append(over.tolist())
        if mode == AutoresetMode.DISABLED and over.any():
            masked = [envs.reset(options={"reset_mask": over}) for envs in (ours, theirs)]
            close(*masked, f"reset after step {step}")
    assert any(0 < sum(end) < ROWS for end in ends)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif("libero_small" not in bundled_checkpoints(), reason="no checkpoint is bundled")
def test_the_bound_holds_on_a_gpu():
    check_world_model(Checkpoint.named("bundled").world_model("cuda"), tolerance=2)
