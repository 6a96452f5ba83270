"""Carry what the wrapped env declares through every wrapper: metadata, spec, attributes, entries of info, JSON."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics, RescaleAction

from prophet_gym.envs import (
    EmbedInstruction,
    OneActionPerChunk,
    OneActionPerChunkVector,
    OneActionPerStep,
    OneActionPerStepVector,
    ProphetEnv,
    ProphetVectorEnv,
    StackFrames,
    View,
    Viewed,
    ViewedVector,
    one_hot_table,
    sub_env_info,
)
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts
from prophet_gym.world_model import Chunk

CHUNK = 3
TABLE = one_hot_table(start.instruction for start in counting_starts())
REST = (0,) * 7
DREAMT = {"frames", "uncertainty"}
"""Entries of a step that dreamt a chunk, and of no other."""


class Doubting(CountingWorldModel):
    """A counting model that is sure of everything."""

    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        return Chunk(chunk.state, chunk.frames, 0 * actions[:, 0, 0])


def early(video, instruction) -> float:
    """Done where the noise says so, so that episodes have different lengths."""
    return float(video[-1, 0, 0, 2] < 60)


def vector(mode: str = "Disabled", num_envs: int = 3, **kwargs: Any) -> ProphetVectorEnv:
    kwargs = {"reward_model": FunctionReward(early), "max_episode_steps": 3, "fps": 5.0, **kwargs}
    return ProphetVectorEnv(Doubting(chunk=CHUNK), counting_starts(), num_envs, autoreset_mode=mode, **kwargs)


def single(**kwargs: Any) -> ProphetEnv:
    kwargs = {"reward_model": FunctionReward(early), "max_episode_steps": 3, **kwargs}
    return ProphetEnv(Doubting(chunk=CHUNK), counting_starts(), **kwargs)


VECTOR: dict[str, Callable[[VectorEnv], VectorEnv]] = {
    "OneActionPerChunkVector": lambda envs: OneActionPerChunkVector(envs, (0, 1), REST),
    "OneActionPerStepVector": OneActionPerStepVector,
    "ViewedVector": lambda envs: ViewedVector(envs, StackFrames(2)),
    "two views": lambda envs: ViewedVector(ViewedVector(envs, StackFrames(2)), EmbedInstruction(TABLE)),
    "view of held actions": lambda envs: OneActionPerChunkVector(ViewedVector(envs, StackFrames(2)), (0, 1), REST),
    "view of single actions": lambda envs: OneActionPerStepVector(ViewedVector(envs, StackFrames(2))),
    "Gymnasium's statistics": RecordEpisodeStatistics,
    "Gymnasium's rescaling": lambda envs: RescaleAction(envs, np.float32(-2), np.float32(2)),
    "ours around Gymnasium's": lambda envs: OneActionPerChunkVector(RecordEpisodeStatistics(envs), (0, 1), REST),
}
SINGLE_ACTIONS = ("OneActionPerStepVector", "view of single actions")
SINGLE: dict[str, Callable[[gym.Env], gym.Env]] = {
    "OneActionPerChunk": lambda env: OneActionPerChunk(env, np.array([0, 1]), np.zeros(7)),
    "OneActionPerStep": OneActionPerStep,
    "StackFrames": lambda env: Viewed(env, StackFrames(np.int64(2))),
    "EmbedInstruction": lambda env: Viewed(env, EmbedInstruction(TABLE)),
    "all": lambda env: OneActionPerStep(Viewed(Viewed(env, StackFrames(2, 2)), EmbedInstruction(TABLE))),
}


@pytest.mark.parametrize("name", [name for name in VECTOR if "Gymnasium" not in name])
def test_vector_wrappers_keep_what_the_env_declares(name):
    mode = "SameStep" if name in SINGLE_ACTIONS else "Disabled"
    gym.register("CountingDeclared-v0", vector_entry_point=lambda num_envs, **_: vector(mode, num_envs))
    try:
        inner = gym.make_vec("CountingDeclared-v0", num_envs=3)
    finally:
        del gym.registry["CountingDeclared-v0"]
    envs = VECTOR[name](inner)
    envs.reset(seed=0)
    assert envs.metadata == inner.metadata
    assert envs.spec == inner.spec
    for declared in ("num_envs", "render_mode", "closed", "np_random_seed"):
        assert getattr(envs, declared) == getattr(inner, declared)
    for declared in ("autoreset_mode", "fps", "max_episode_steps", "elapsed", "usage", "finished"):
        assert getattr(envs, declared) == getattr(inner, declared)
    for declared in ("world_model", "reward_model", "starts"):
        assert getattr(envs, declared) is getattr(inner, declared)
    with pytest.raises(AttributeError, match="nor the wrapped env has an attribute 'no_such_thing'"):
        _ = envs.no_such_thing
    with pytest.raises(AttributeError, match=r"'get_state' is a method of the env that .* wraps.*: call it on"):
        envs.get_state()
    assert_same(copy.deepcopy(envs).step(envs.action_space.sample() * 0), envs.step(envs.action_space.sample() * 0))


@pytest.mark.parametrize("name", SINGLE)
def test_wrappers_of_single_envs_keep_what_the_env_declares(name):
    inner = single(render_mode="rgb_array_list")
    env = SINGLE[name](inner)
    assert env.metadata == inner.metadata
    assert env.render_mode == inner.render_mode
    for declared in ("world_model", "reward_model", "starts", "closed"):
        assert env.get_wrapper_attr(declared) is getattr(inner, declared)


@pytest.mark.parametrize("name", SINGLE)
def test_info_has_the_same_entries_at_every_step_of_a_single_env(name):
    env = SINGLE[name](single())
    seen = set()
    for seed in range(3):
        _, start = env.reset(seed=seed)
        for _ in range(4 * CHUNK):
            info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
            assert ("frames" in info) == (info["executed"] > 0)
            assert set(start) <= set(info)
            seen.add(frozenset(set(info) - DREAMT))
    assert len(seen) == 1
    assert {"task", "start", "executed", "scored", "success", "live", "approximate"} <= next(iter(seen))


ROWS = [
    (name, mode, queue)
    for name in VECTOR
    for mode in AutoresetMode
    for queue in (False, True)
    if not (queue and mode == AutoresetMode.DISABLED)
    and (name not in SINGLE_ACTIONS or mode == AutoresetMode.SAME_STEP)
]


@pytest.mark.parametrize(("name", "mode", "queue"), ROWS)
def test_info_has_the_same_entries_at_every_step_of_a_sub_env(name, mode, queue):
    envs = VECTOR[name](vector(mode.value, num_envs=2))
    options = {"queue": list(counting_starts())[:4]} if queue else None
    envs.reset(seed=0, options=options)
    steps, starts = set(), set()
    ended = np.zeros(2, bool)
    for _ in range(20):
        *_, terminated, truncated, infos = envs.step(np.zeros(envs.action_space.shape, np.float32))
        for row in range(2):
            info = sub_env_info(infos, row)
            info = info.get("final_info", info)
            began = ended[row] and mode == AutoresetMode.NEXT_STEP and "executed" not in info
            entries = frozenset(set(info) - DREAMT - {"episode", "pending", "final_obs", "final_info"})
            (starts if began else steps).add(entries)
        ended = terminated | truncated
    assert len(steps) == 1
    assert len(starts) <= 1
    wanted = {"task", "start", "executed", "scored", "success", "live", "approximate"}
    assert wanted <= next(iter(steps))
    assert all(entries == next(iter(steps)) - wanted | {"task", "start"} for entries in starts)


def test_observations_are_the_callers_own():
    env, twin = Viewed(single(), StackFrames(4)), Viewed(single(), StackFrames(4))
    envs, twins = (ViewedVector(vector("SameStep"), StackFrames(4)) for _ in range(2))
    for one, other in ((env, twin), (envs, twins)):
        one.reset(seed=0)[0]["image"][:] = 99
        other.reset(seed=0)
        zeros = np.zeros(one.action_space.shape, np.float32)
        for _ in range(6):
            mine, yours = one.step(zeros), other.step(zeros)
            assert_same(mine, yours)
            mine[0]["image"][:] = 99
            for key in ("frames", "final_obs"):
                value = mine[4].get(key)
                for part in value if value is not None and value.dtype == object else [value]:
                    if part is not None:
                        (part["image"] if isinstance(part, dict) else part)[:] = 99


@pytest.mark.parametrize("make", [single, vector], ids=["single", "vector"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copied_env_continues_by_itself(make, how):
    env, twin = make(), make()
    actions = [np.random.default_rng(seed).uniform(-1, 1, env.action_space.shape) for seed in range(6)]
    env.reset(seed=3), twin.reset(seed=3)
    env.step(actions[0]), twin.step(actions[0])
    other = how(env)
    for action in actions[1:]:
        other.step(-action)
    copied = how(env)
    for action in actions:
        expected = twin.step(action)
        assert_same(env.step(action), expected)
        assert_same(copied.step(action), expected)
    assert_same(copied.reset(), env.reset())


def test_a_deep_copy_shares_the_models_and_the_starts():
    env = single()
    other = copy.deepcopy(OneActionPerStep(env)).unwrapped
    assert other.world_model is env.world_model
    assert other.reward_model is env.reward_model
    assert other.starts is env.starts


@pytest.fixture
def counting_id():
    name = "CountingWrapped-v0"
    entry = "tests.counting:counting_env"
    gym.register(name, entry_point=entry, max_episode_steps=4, disable_env_checker=True)
    yield name
    del gym.registry[name]


@pytest.mark.parametrize("name", [name for name in SINGLE if "uncertainty" not in name.lower()])
def test_a_spec_with_our_wrappers_comes_back_from_json(counting_id, name):
    env = SINGLE[name](gym.make(counting_id, chunk=np.int64(CHUNK), size=(np.int32(8), 8), fps=np.float32(4)))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert [wrapper.name for wrapper in again.spec.additional_wrappers] == [
        wrapper.name for wrapper in env.spec.additional_wrappers
    ]
    assert_same(again.reset(seed=1), env.reset(seed=1))
    action = np.zeros(env.action_space.shape, np.float32)
    for _ in range(2 * CHUNK):
        assert_same(again.step(action), env.step(action))
    assert gym.make(EnvSpec.from_json(again.spec.to_json())).spec == again.spec


class Inverted(View):
    """A view that does not say what it was made with."""

    def __init__(self, level: int) -> None:
        self.level = level

    def space(self, spaces):
        return gym.spaces.Dict(dict(spaces))

    def begin(self, observation, info):
        return {**observation, "image": self.level - observation["image"]}

    extend = begin


def test_a_view_that_cannot_be_made_again_says_so(counting_id):
    env = Viewed(gym.make(counting_id), Inverted(255))
    spec = EnvSpec.from_json(env.spec.to_json())
    with pytest.raises(ValueError, match=r"Inverted cannot be made again from a spec: .* to View.__init__ by name"):
        gym.make(spec)
    for bad, message in (
        ({"view": "prophet_gym.envs.wrappers.views:Nothing", "arguments": {}}, "cannot be imported"),
        ({"view": "os:getcwd", "arguments": {}}, "'os:getcwd' must be a View"),
        ({"view": 3, "arguments": {}}, "must be a View, e.g."),
    ):
        with pytest.raises(ValueError, match=message):
            Viewed(single(), bad)


def test_single_actions_of_a_closed_env_are_refused():
    env, envs = OneActionPerStep(single()), OneActionPerStepVector(vector("SameStep"))
    for each in (env, envs):
        each.reset(seed=0)
        each.close()
        with pytest.raises(gym.error.ClosedEnvironmentError, match=r"step was called after close\(\)"):
            each.step(np.zeros(each.action_space.shape, np.float32))
