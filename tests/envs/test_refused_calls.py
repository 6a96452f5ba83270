"""A call that fails, for whatever reason, leaves the env as it was: against a twin that was never asked."""

import gc
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from prophet_gym.envs import InitialStates, ProphetEnv, ProphetTorchVectorEnv, ProphetVectorEnv
from prophet_gym.errors import InvalidRewardError, InvalidStartError
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts
from prophet_gym.world_model import RewardOutput

CHUNK = 2
PICTURE = np.zeros((1, 8, 8, 3), np.uint8)


def make(num_envs: int = 3, **kwargs) -> ProphetVectorEnv:
    kwargs = {"max_episode_steps": 4, "autoreset_mode": "SameStep", **kwargs}
    world = kwargs.pop("world_model", None) or CountingWorldModel(chunk=CHUNK)
    return ProphetVectorEnv(world, counting_starts(), num_envs, **kwargs)


def actions(seed: int, num_envs: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (num_envs, CHUNK, 7)).astype(np.float32)


class Flaky:
    """A reward model that fails when it is told to; its rewards say which frames it saw."""

    when, stride, max_frames = "chunk", 1, 3

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def score(self, videos, instructions):
        if self.error is not None:
            raise self.error
        shades = torch.stack([video.float().mean() for video in videos]) / 512
        return RewardOutput(shades, torch.ones(len(videos), dtype=torch.bool))


class Answering(Flaky):
    """A reward model with a given answer."""

    def __init__(self, rewards, scored=None) -> None:
        super().__init__()
        self.rewards, self.scored = torch.as_tensor(rewards), scored

    def score(self, videos, instructions):
        scored = torch.ones(len(self.rewards), dtype=torch.bool) if self.scored is None else torch.tensor(self.scored)
        return RewardOutput(self.rewards, scored)


@pytest.mark.parametrize("error", [RuntimeError("no answer"), KeyboardInterrupt()])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("render_mode", [None, "rgb_array_list"])
def test_a_reward_model_that_fails_loses_no_chunk(error, mode, render_mode):
    flaky = Flaky()
    envs = make(reward_model=flaky, autoreset_mode=mode, render_mode=render_mode)
    twin = make(reward_model=Flaky(), autoreset_mode=mode, render_mode=render_mode)
    envs.reset(seed=0), twin.reset(seed=0)
    for step in range(4 if mode == "Disabled" else 7):
        flaky.error = error if step % 2 else None
        if flaky.error is not None:
            with pytest.raises(type(error)):
                envs.step(actions(step))
            flaky.error = None
        assert_same(envs.step(actions(step)), twin.step(actions(step)))
        assert envs.usage == twin.usage
    if render_mode:
        assert_same(envs.render(), twin.render())


def test_a_world_model_that_fails_loses_no_episode_of_a_queue():
    class Broken(CountingWorldModel):
        fails = False

        def encode(self, frames):
            if self.fails:
                raise RuntimeError("out of memory")
            return super().encode(frames)

    world = Broken(chunk=CHUNK)
    envs, twin = make(2, world_model=world, max_episode_steps=1), make(2, max_episode_steps=1)
    for each in (envs, twin):
        each.reset(seed=0, options={"queue": list(counting_starts())})
    world.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        envs.step(actions(0, 2))
    with pytest.raises(RuntimeError, match="out of memory"):
        envs.reset(seed=3)
    world.fails = False
    while not twin.finished:
        assert_same(envs.step(actions(0, 2)), twin.step(actions(0, 2)))
    assert envs.finished


@pytest.mark.parametrize(
    ("rewards", "scored", "message"),
    [
        (
            [0.0, float("nan"), 0.0],
            None,
            r"this Answering scored the sub-environments \[0, 1, 2\]: .*got nan for video 1 of 3",
        ),
        ([0.0, 0.0, float("inf")], None, "finite number in float32, got inf for video 2 of 3"),
        (torch.tensor([1e300, 0, 0], dtype=torch.float64), None, "got 1e\\+300 for video 0 of 3"),
        ([float("nan"), 0.0, 0.0], [False, True, True], "got nan for video 0 of 3"),
        ([0.5, 0.0, 0.0], [False, True, True], "not scored .* must be 0, .* 0.5 for sub-environment 0"),
        ([0.5, 0.0], None, "one reward for each of the 3 videos"),
    ],
)
@pytest.mark.parametrize("kind", [ProphetVectorEnv, ProphetTorchVectorEnv])
def test_a_reward_that_is_none_is_refused_by_name_and_the_step_is_not_taken(kind, rewards, scored, message):
    envs = kind(CountingWorldModel(chunk=CHUNK), counting_starts(), 3, reward_model=Answering(rewards, scored))
    twin = kind(CountingWorldModel(chunk=CHUNK), counting_starts(), 3, reward_model=Answering([0.0] * 3))
    envs.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(InvalidRewardError, match=message):
        envs.step(actions(0))
    assert [envs.get_state(row) for row in range(3)] == [twin.get_state(row) for row in range(3)]


@pytest.mark.parametrize("answer", [None, torch.zeros(3), [0.0, 0.0, 0.0]])
def test_an_output_that_is_none_is_refused_and_the_step_is_not_taken(answer):
    class Mute(Answering):
        def score(self, videos, instructions):
            return answer

    envs = make(reward_model=Mute([0.0] * 3))
    envs.reset(seed=0)
    before = [envs.get_state(row) for row in range(3)]
    with pytest.raises(InvalidRewardError, match="score of this Mute must return a RewardOutput"):
        envs.step(actions(0))
    assert [envs.get_state(row) for row in range(3)] == before


def test_a_function_that_returns_more_than_float32_holds_is_refused():
    env = ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), reward_model=FunctionReward(lambda *_: 1e300))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must return a number that float32 can hold, or None, got 1e\+300"):
        env.step(actions(0, 1)[0])


def strange(**fields) -> InitialState:
    """A start as a user makes it who runs without the type checks of the tests."""
    state = InitialState(PICTURE, "x")
    for name, value in fields.items():
        object.__setattr__(state, name, value)
    return state


STRANGE = {
    "a task past 64 bits": {"starts": strange(task=2**63)},
    "mixed tasks": {"starts": [InitialState(PICTURE, "x", task=1), strange(task="1")]},
    "a task of None": {"starts": strange(task=None)},
    "a fraction of a start": {"starts": strange(index=0.5)},
    "a suite that is no text": {"starts": strange(suite=3)},
    "a start set that is no text": {"starts": strange(split=None)},
    "extras of text": {"starts": strange(extra={"gripper_position": "here"})},
    "extras that are no mapping": {"starts": strange(extra=[1])},
    "frames of no pixels": {"starts": strange(frames=PICTURE[:, :0])},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_start_is_refused_whole(name):
    envs, twin = make(2), make(2)
    envs.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(InvalidStartError, match=r"options\['starts'\], entry \d: the .* of an initial state must"):
        envs.reset(seed=1, options=STRANGE[name])
    with pytest.raises(InvalidStartError, match="of an initial state must"):
        InitialStates([state] if isinstance(state := STRANGE[name]["starts"], InitialState) else state)
    for step in range(5):
        assert_same(envs.step(actions(step, 2)), twin.step(actions(step, 2)))


def test_numbers_of_numpy_are_numbers_everywhere():
    start = strange(task=np.int64(3), index=np.uint8(4))
    envs, twin = make(1), make(1)
    _, info = envs.reset(seed=0, options={"starts": start})
    twin.reset(seed=0, options={"starts": InitialState(PICTURE, "x", task=3, index=4)})
    assert (info["task"].tolist(), info["start"].tolist()) == ([3], [4])
    assert envs.get_state() == twin.get_state()


def test_writing_into_ones_own_frames_changes_no_episode():
    frames = PICTURE.copy()
    envs = make(1)
    envs.reset(seed=0, options={"starts": InitialState(frames, "x")})
    before = envs.get_state()
    frames[:] = 99
    assert envs.get_state() == before
    queue = [InitialState(frames, "x"), InitialState(PICTURE.copy(), "y")]
    envs.reset(seed=0, options={"queue": queue})
    queue[1].frames[:] = 50
    for _ in range(4):
        observation = envs.step(actions(0, 1))[0]
    assert observation["image"].max() == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda env: env.reset(seed=0),
        lambda env: env.step(np.zeros(env.action_space.shape)),
        lambda env: env.render(),
        lambda env: env.get_state(),
        lambda env: env.set_state(b""),
    ],
    ids=["reset", "step", "render", "get_state", "set_state"],
)
@pytest.mark.parametrize("single", [False, True])
def test_a_closed_env_refuses_with_one_clear_error(single, call):
    env = ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts()) if single else make()
    env.reset(seed=0)
    env.close()
    env.close()
    assert env.closed
    with pytest.raises(gym.error.ClosedEnvironmentError, match=r"was called after close\(\); make the env again"):
        call(env)
    env.close()


def test_seven_hundred_envs_take_nothing_that_is_not_given_back():
    def held() -> tuple[int, int, int]:
        handles = Path("/proc/self/fd")
        gc.collect()
        return len(list(handles.iterdir())) if handles.is_dir() else 0, threading.active_count(), len(gc.get_objects())

    def dream(number: int) -> None:
        for count in range(number):
            envs = make(2, render_mode="rgb_array_list", reward_model=FunctionReward(lambda *_: 0.5))
            envs.reset(seed=count)
            envs.step(actions(count, 2))
            envs.close()

    dream(20)
    handles, threads, objects = held()
    dream(700)
    assert held()[:2] == (handles, threads)
    assert held()[2] - objects < 100


def test_frames_that_nobody_renders_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("prophet_gym.envs._sub_env.UNSEEN_FRAMES", 10)
    env = ProphetEnv(CountingWorldModel(chunk=4), counting_starts(), render_mode="rgb_array_list")
    env.reset(seed=0)
    zeros = np.zeros((4, 7), np.float32)
    env.step(zeros), env.step(zeros)
    with pytest.warns(UserWarning, match="10 frames wait for render") as told:
        env.step(zeros), env.step(zeros)
    assert len(told) == 1
    assert told[0].filename == __file__  # the line to change, though our own modules noticed
    assert "\x1b" not in str(told[0].message)  # no colours in a log
    expected = env.step(zeros)[4]["frames"]
    rendered = env.render()
    assert len(rendered) == 10
    assert_same(np.stack(rendered[-4:]), expected)
    assert env.render() == []


def test_a_refused_reset_does_not_prolong_an_episode_of_make():
    gym.register("CountingRefused-v0", entry_point="tests.counting:counting_env", max_episode_steps=3)
    try:
        env = gym.make("CountingRefused-v0", chunk=CHUNK)
        zeros = np.zeros((CHUNK, 7), np.float32)
        env.reset(seed=0)
        env.step(zeros)
        with pytest.raises(ValueError, match="unknown reset option"):
            env.reset(options={"tsk": 1})
        assert [env.step(zeros)[3] for _ in range(2)] == [False, True]
        env.reset()
        assert [env.step(zeros)[3] for _ in range(3)] == [False, False, True]
    finally:
        del gym.registry["CountingRefused-v0"]
