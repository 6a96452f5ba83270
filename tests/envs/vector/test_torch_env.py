"""Torch output: the same dream, as tensors where the world model is."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper

from prophet_gym.envs import (
    OneActionPerChunkVector,
    OneActionPerStepVector,
    ProphetTorchVectorEnv,
    ProphetVectorEnv,
    StackFrames,
    ViewedVector,
)
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 2


def arguments(num_envs: int = 3, **kwargs: Any) -> tuple[tuple, dict[str, Any]]:
    reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 2] < 60), max_frames=3, stride=2)
    given = (CountingWorldModel(chunk=CHUNK), counting_starts(), num_envs)
    return given, {"reward_model": reward_model, "max_episode_steps": 3, **kwargs}


def numpy(value: Any) -> Any:
    """Tensors as arrays, wherever they are."""
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy()
    if isinstance(value, dict):
        return {name: numpy(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [numpy(entry) for entry in value]
    return value


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equals_the_numpy_env_in_every_mode(mode):
    given, named = arguments(autoreset_mode=mode)
    envs, tensors = ProphetVectorEnv(*given, **named), ProphetTorchVectorEnv(*given, **named)
    assert_same(numpy(tensors.reset(seed=0)[0]), envs.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for step in range(12):
        actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        found, expected = tensors.step(torch.from_numpy(actions)), envs.step(actions)
        assert all(isinstance(part, torch.Tensor) for part in (*found[0].values(), *found[1:4]))
        assert found[1].dtype == torch.float32
        if "frames" in found[4]:
            assert found[4]["frames"].dtype == torch.uint8
        assert_same(numpy(found[0]), expected[0], f"step {step}")
        assert_same(numpy(found[1]).astype(float), expected[1])
        assert_same([numpy(flags) for flags in found[2:4]], list(expected[2:4]))
        assert_same(numpy(found[4]), numpy(expected[4]), f"info of step {step}")


def test_observations_are_their_own():
    given, named = arguments(reward_model=None)
    envs = ProphetTorchVectorEnv(*given, **named)
    observation = envs.reset(seed=0, options={"start": 0})[0]["image"]
    observation.fill_(7)
    image = envs.step(torch.zeros(3, CHUNK, 7))[0]["image"]
    image.fill_(9)
    assert envs.step(torch.zeros(3, CHUNK, 7))[0]["image"][:, 0, 0, 0].tolist() == [2 * CHUNK] * 3


def test_snapshots_pass_between_both_kinds():
    given, named = arguments(reward_model=FunctionReward(lambda video, _: video.float().mean() / 512, max_frames=3))
    envs, tensors = ProphetVectorEnv(*given, **named), ProphetTorchVectorEnv(*given, **named)
    envs.reset(seed=0)
    actions = np.zeros(envs.action_space.shape, np.float32)
    envs.step(actions)
    tensors.set_state([envs.get_state(row) for row in range(3)])
    assert [tensors.get_state(row) for row in range(3)] == [envs.get_state(row) for row in range(3)]
    found, expected = tensors.step(actions), envs.step(actions)
    np.testing.assert_array_equal(found[0]["image"].numpy(), expected[0]["image"])
    np.testing.assert_allclose(found[1].numpy(), expected[1], rtol=1e-6)


def test_rendered_images_are_arrays():
    given, named = arguments(render_mode="rgb_array_list")
    envs = ProphetTorchVectorEnv(*given, **named)
    envs.reset(seed=0)
    envs.step(torch.zeros(3, CHUNK, 7))
    assert all(isinstance(frame, np.ndarray) for frames in envs.render() for frame in frames)


def test_wrappers_of_arrays_refuse_tensors_and_wrappers_of_actions_do_not_mind():
    given, named = arguments(autoreset_mode=AutoresetMode.SAME_STEP)
    make = lambda: ProphetTorchVectorEnv(*given, **named)  # noqa: E731
    refusing = {
        "ViewedVector": lambda: ViewedVector(make(), StackFrames(2)),
        "OneActionPerStepVector": lambda: OneActionPerStepVector(FlattenAgain(make())),
    }
    for name, wrap in refusing.items():
        with pytest.raises(ValueError, match=f"{name} works on arrays"):
            wrap()
    plain, held = make(), OneActionPerChunkVector(make(), (0,), (0,) * 7)
    for envs in (plain, held):
        envs.reset(seed=0)
    expected = plain.step(torch.full((3, CHUNK, 7), 0.5) * torch.eye(7)[0])[0]["image"]
    one = torch.full((3, 1), 0.5, requires_grad=True, dtype=torch.bfloat16)
    assert torch.equal(held.step(one)[0]["image"], expected)


class FlattenAgain(VectorWrapper):
    """Something in between."""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_leaves_the_device():
    class OnDevice(CountingWorldModel):
        def encode(self, frames):
            return {name: tensor.cuda() for name, tensor in super().encode(frames).items()}

        def rollout(self, state, actions, *, generators):
            chunk = super().rollout({name: t.cpu() for name, t in state.items()}, actions, generators=generators)
            moved = {name: tensor.cuda() for name, tensor in chunk.state.items()}
            return type(chunk)(moved, chunk.frames.cuda())

    envs = ProphetTorchVectorEnv(OnDevice(chunk=CHUNK), counting_starts(), 2)
    assert envs.reset(seed=0)[0]["image"].is_cuda
    image, *rest, info = envs.step(torch.zeros(2, CHUNK, 7, device="cuda"))
    assert all(part.is_cuda for part in (image["image"], info["frames"], *rest))
    _, info = envs.reset(options={"reset_mask": torch.tensor([True, False], device="cuda")})
    assert info["_task"].tolist() == [True, False]
