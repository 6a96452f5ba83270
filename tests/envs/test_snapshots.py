"""Branch and replay: a row that was saved goes on as if nothing had been between."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.errors import InvalidStartError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts
from prophet_gym.world_model import Chunk

CHUNK = 2


def make(num_envs: int = 3, **kwargs: Any) -> ProphetVectorEnv:
    model = kwargs.pop("world_model", None) or CountingWorldModel(chunk=CHUNK)
    return ProphetVectorEnv(model, kwargs.pop("starts", counting_starts()), num_envs, **kwargs)


def still(envs: Any) -> np.ndarray:
    return np.zeros(envs.action_space.shape, np.float32)


def reward_model(**kwargs: Any) -> FunctionReward:
    """Half the red that it sees: tells which frames it was shown."""
    return FunctionReward(lambda video, _: float(video[..., 0].float().mean()) / 512, **kwargs)


@pytest.mark.parametrize("window", [{"max_frames": 1}, {"max_frames": 4, "stride": 3}, {"max_frames": 99}])
def test_all_that_follows_is_as_before(window):
    envs = make(max_episode_steps=5, reward_model=reward_model(**window), autoreset_mode="SameStep")
    envs.reset(seed=1)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, *envs.action_space.shape)).astype(np.float32)
    for action in actions[:3]:
        envs.step(action)
    saved = [envs.get_state(row) for row in range(3)]
    expected = [envs.step(action) for action in actions]
    for other in (envs, make(max_episode_steps=5, reward_model=reward_model(**window), autoreset_mode="SameStep")):
        other.set_state(saved)
        assert_same([other.step(action) for action in actions], expected)


def test_a_snapshot_continues_in_another_sub_env_beside_others():
    envs, other = make(), make(2)
    envs.reset(seed=0), other.reset(seed=50)
    before = envs.step(still(envs))[0]
    observation, infos = other.set_state(envs.get_state(2), indices=[0])
    np.testing.assert_array_equal(observation["image"][0], before["image"][2])
    assert infos["_task"].tolist() == [True, False]
    assert infos["start"][0] == envs._rows[2].start.index
    expected, found = envs.step(still(envs)), other.step(still(other))
    np.testing.assert_array_equal(found[4]["frames"][0], expected[4]["frames"][2])


def test_a_group_begins_at_the_same_moment():
    envs = make(8)
    envs.reset(seed=0)
    envs.step(still(envs))
    moment = envs.get_state(5)
    observation, _ = envs.set_state(moment)
    assert (observation["image"] == observation["image"][0]).all()
    actions = still(envs)
    actions[:, 0, 0] = np.linspace(0, 0.7, 8)
    frames = envs.step(actions)[4]["frames"]
    np.testing.assert_array_equal(frames[..., 2], np.broadcast_to(frames[:1, ..., 2], frames.shape[:-1]))
    green = frames[:, 0, 0, 0, 1].astype(int)
    assert (green - green[0]).tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    envs.set_state(moment, seed=3)
    blue = envs.step(still(envs))[4]["frames"][:, :, 0, 0, 2]
    assert len({tuple(row) for row in blue.tolist()}) == 8


def test_new_randomness_of_a_branch_is_reproducible():
    results = []
    for _ in range(2):
        envs = make()
        envs.reset(seed=0)
        envs.set_state(envs.get_state(1), indices=[0, 2], seed=[7, None])
        results.append(envs.step(still(envs)))
    assert_same(*results)
    frames = results[0][4]["frames"]
    np.testing.assert_array_equal(frames[1], frames[2])
    assert (frames[0] != frames[1]).any()


def test_an_ended_episode_stays_ended_and_its_flags_are_not_repeated():
    envs = make(1, max_episode_steps=1, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step(still(envs))
    saved = envs.get_state()
    envs.reset()
    envs.set_state(saved)
    *_, truncated, infos = envs.step(still(envs))
    assert not truncated.any()
    assert not infos["live"].any()


def test_the_single_env_branches_too():
    env = ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), max_episode_steps=3)
    env.reset(seed=4)
    env.step(still(env))
    saved = env.get_state()
    expected = [env.step(still(env)), env.step(still(env)), env.reset(), env.step(still(env))]
    other = ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), max_episode_steps=3)
    other.set_state(saved)
    assert_same([other.step(still(env)), other.step(still(env)), other.reset(), other.step(still(env))], expected)
    assert expected[1][3]


def test_a_snapshot_of_prophet_continues_bit_equal_in_another_process(tmp_path):
    start = InitialState(
        np.full((2, 64, 64, 3), 90, np.uint8), "lift", extra={"gripper_position": np.arange(3.0, dtype=np.float32)}
    )
    envs = make(2, world_model=tiny_prophet(), starts=[start])
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (2, *envs.action_space.shape)).astype(np.float32)
    envs.step(actions[0])
    saved = [envs.get_state(row) for row in range(2)]
    expected = [envs.step(action)[4]["frames"] for action in actions]
    for row, data in enumerate(saved):
        (tmp_path / f"{row}.safetensors").write_bytes(data)
    np.savez(tmp_path / "dream.npz", actions=actions, frames=np.stack(expected))
    code = f"""
import numpy as np, pathlib
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.prophet import tiny_prophet
from prophet_gym.specs import InitialState
folder = pathlib.Path({str(tmp_path)!r})
dream = np.load(folder / "dream.npz")
envs = ProphetVectorEnv(tiny_prophet(), [InitialState(np.zeros((1, 64, 64, 3), np.uint8), "")], 2)
_, infos = envs.set_state([(folder / f"{{row}}.safetensors").read_bytes() for row in range(2)])
assert infos["instruction"].tolist() == ["lift", "lift"]
for action, frames in zip(dream["actions"], dream["frames"], strict=True):
    assert np.array_equal(envs.step(action)[4]["frames"], frames)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


def other_model() -> bytes:
    class Wider(CountingWorldModel):
        def encode(self, frames):
            return {**super().encode(frames), "more": torch.zeros(len(frames), 2)}

    envs = make(1, world_model=Wider(chunk=CHUNK), starts=counting_starts())
    envs.reset(seed=0)
    return envs.get_state()


def saved(**kwargs: Any) -> bytes:
    envs = make(1, **kwargs)
    envs.reset(seed=0)
    return envs.get_state()


@pytest.mark.parametrize(
    ("states", "kwargs", "error", "message"),
    [
        (b"", {}, InvalidStartError, "the bytes of get_state"),
        (b"nothing of that kind", {}, InvalidStartError, "the bytes of get_state"),
        (saved()[:-3], {}, InvalidStartError, "the bytes of get_state"),
        (other_model(), {}, InvalidStartError, "is it of this model"),
        (saved(), {}, InvalidStartError, "the reward model that it was saved under"),
        (saved(reward_model=reward_model(max_frames=4)), {"indices": [0, 0]}, ValueError, "different numbers in 0..2"),
        (saved(reward_model=reward_model(max_frames=4)), {"indices": [3]}, ValueError, "different numbers in 0..2"),
        ([saved(reward_model=reward_model(max_frames=4))] * 2, {}, ValueError, "one each, 3, got 2"),
        (
            saved(reward_model=reward_model(max_frames=4)),
            {"seed": [1]},
            ValueError,
            "sub-environment to set, length=3, got 1",
        ),
    ],
)
def test_a_bad_state_is_one_clear_error_and_changes_nothing(states, kwargs, error, message):
    envs, untouched = make(reward_model=reward_model(max_frames=4)), make(reward_model=reward_model(max_frames=4))
    for each in (envs, untouched):
        each.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.set_state(states, **kwargs)
    assert_same(envs.step(still(envs)), untouched.step(still(untouched)))


def test_a_state_of_another_model_is_refused_at_first_too():
    envs = make(1)
    with pytest.raises(InvalidStartError, match="is it of this model"):
        envs.set_state(other_model())
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(still(envs))
    envs.set_state(bytearray(saved()))
    assert envs.step(still(envs))[4]["live"].tolist() == [True]


def test_starts_may_lie_in_memory_as_they_like():
    frames = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    for own in (frames.transpose(0, 2, 1, 3), frames[..., ::-1], np.asfortranarray(frames)):
        envs = make(1)
        extra = {"turned": np.asfortranarray(np.ones((2, 3))), "number": np.float32(2)}
        envs.reset(options={"starts": InitialState(own, "own", extra=extra)})
        image, info = make(1).set_state(envs.get_state())
        assert np.array_equal(image["image"][0], own[-1])
        assert info["instruction"].tolist() == ["own"]


def test_nothing_to_save_or_go_on_from_before_reset():
    with pytest.raises(gym.error.ResetNeeded):
        make().get_state()
    with pytest.raises(gym.error.ResetNeeded, match="all sub-environments"):
        make().set_state(saved(), indices=[0])
    envs = make()
    envs.reset()
    with pytest.raises(ValueError, match=r"index must be in 0\.\.2, got 3"):
        envs.get_state(3)


class Levelled(CountingWorldModel):
    """A counting model with numbers in its state that could be anything."""

    def encode(self, frames):
        return {**super().encode(frames), "level": torch.zeros(len(frames), 2)}

    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        return Chunk({**chunk.state, "level": state["level"] + 1}, chunk.frames)


def edited(
    data: bytes, *, facts: dict[str, Any] | None = None, start: dict[str, Any] | None = None, **tensors
) -> bytes:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = json.loads(header["__metadata__"]["row"])
    told |= facts or {}
    told["start"] |= start or {}
    return save(
        load(data) | {name.replace("__", "."): value for name, value in tensors.items()}, {"row": json.dumps(told)}
    )


WRONG = {
    "an image of another size": (
        {"image": torch.zeros(4, 4, 3, dtype=torch.uint8)},
        "'image' .* must be uint8 frames of",
    ),
    "an image of floats": ({"image": torch.zeros(8, 8, 3)}, "'image' .* must be uint8 frames of"),
    "a flat image": ({"image": torch.zeros(8, 8, dtype=torch.uint8)}, "'image' .* must be uint8 frames of"),
    "start frames of another size": (
        {"start__frames": torch.zeros(1, 4, 4, 3, dtype=torch.uint8)},
        "frames of an initial state must be",
    ),
    "a window of floats": ({"window": torch.zeros(1, 8, 8, 3)}, "'window' .* must be uint8 frames of"),
    "a state that is not a number": ({"state__level": torch.full((1, 2), torch.nan)}, "'level'. .* must be finite"),
    "a state without bound": ({"state__level": torch.full((1, 2), torch.inf)}, "'level'. .* must be finite"),
    "a state of two rows": ({"state__level": torch.zeros(2, 2)}, "is it of this model"),
    "a state of other numbers": ({"state__raised": torch.zeros(1, 3)}, "'raised'. .* must be torch.int64"),
    "noise of another generator": ({"generator": torch.zeros(3, dtype=torch.uint8)}, "the snapshot is damaged"),
    "a text for a count": ({"facts": {"elapsed": "3"}}, "'elapsed' .* integer of at least 0, got '3'"),
    "a fraction of a count": ({"facts": {"elapsed": 0.5}}, "'elapsed' .* integer of at least 0, got 0.5"),
    "a negative count": ({"facts": {"elapsed": -1}}, "'elapsed' .* integer of at least 0, got -1"),
    "a count past 64 bits": ({"facts": {"seen": 2**63}}, "'seen' .* integer of at least 1, got 9223372036854775808"),
    "no frame seen": ({"facts": {"seen": 0}}, "'seen' .* integer of at least 1, got 0"),
    "a number for a flag": ({"facts": {"ended": 1}}, "'ended' .* true or false, got 1"),
    "a flag for a place": ({"facts": {"queue_index": True}}, "'queue_index' .* integer of at least 0, got True"),
    "no state of randomness": ({"facts": {"np_random": {"bit_generator": "PCG64"}}}, "the snapshot is damaged"),
    "other randomness": ({"facts": {"np_random": {"bit_generator": "MT19937"}}}, "the snapshot is damaged"),
    "a task past 64 bits": ({"start": {"task": 2**63}}, "the task of an initial state must be a 64-bit integer"),
    "a start of none": ({"start": {"index": None}}, "the index of an initial state must be a 64-bit integer|damaged"),
    "a fact too many": ({"start": {"more": 1}}, "'start' of the snapshot must hold"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_snapshot_is_checked_whole_before_anything_changes(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what users read, who have no such checks
    change, message = WRONG[name]
    envs, twin = (make(2, world_model=Levelled(chunk=CHUNK), reward_model=reward_model(max_frames=4)) for _ in range(2))
    for each in (envs, twin):
        each.reset(seed=0)
    with pytest.raises(InvalidStartError, match=message):
        envs.set_state([envs.get_state(0), edited(envs.get_state(1), **change)])
    assert_same([envs.step(still(envs)) for _ in range(3)], [twin.step(still(twin)) for _ in range(3)])
    envs.set_state([edited(twin.get_state(0)), twin.get_state(1)])
    assert_same(envs.step(still(envs)), twin.step(still(twin)))
