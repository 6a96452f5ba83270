"""Fuzzed calls of the envs on the counting model: each works, or is refused by name and changes nothing."""

import json
import struct
from typing import Any

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest
import torch

from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.envs._snapshots import unpack_row
from prophet_gym.errors import ProphetError
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK, ROWS = 2, 2
REFUSED = (ProphetError, ValueError, gym.error.ResetNeeded)
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**200, -(2**70), 0.5, 1e300, float("nan"), float("inf")),
    *("", "a", "0", b"ab", [], {}, [[]], [None], (), ["a"], [0], [1, 0], [True, False], [0.5, 1], [2**63, 0], [0, "a"]),
    *([[0], [1, 2]], {"a": 1}, np.int64(1), np.uint8(1), np.float32(0.5), np.array([0, 1]), np.array([0.0, 1.0])),
    *(np.array([True, False]), np.array(["a", "b"]), np.array([None, 1]), np.zeros((2, 2), int), range(2), object()),
    *(np.ma.masked_array([0, 1], [0, 1]), torch.tensor([0, 1]), torch.tensor([True, False]), 3 + 4j, slice(2), float),
    *(torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64), np.datetime64("2020-01-01")),
]
PARTS = ("world_model", "starts", "reward_model", "max_episode_steps", "render_mode", "action_spec")
NUMBERS = ("proprioception", "max_uncertainty", "fps")


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Without the type checks of the tests, which would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def make(mode: str = "SameStep") -> ProphetVectorEnv:
    reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 2]) / 300, max_frames=2)
    return ProphetVectorEnv(
        CountingWorldModel(chunk=CHUNK),
        counting_starts(),
        ROWS,
        reward_model=reward_model,
        max_episode_steps=3,
        autoreset_mode=mode,
    )


def pair(random: np.random.Generator) -> tuple[ProphetVectorEnv, ProphetVectorEnv]:
    """An env and its twin, somewhere in an episode."""
    mode = str(random.choice(["SameStep", "NextStep", "Disabled"]))
    envs, twin = make(mode), make(mode)
    seed, ran = int(random.integers(1000)), int(random.integers(4))
    for each in (envs, twin):
        each.reset(seed=seed)
        for step in range(ran):
            each.step(good(step))
    return envs, twin


def good(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (ROWS, CHUNK, 7)).astype(np.float32)


def pick(random: np.random.Generator) -> Any:
    return ODD[int(random.integers(len(ODD)))]


def same_from_here(envs: ProphetVectorEnv, twin: ProphetVectorEnv) -> None:
    """Both dream on alike, over the end of the episode and into the next."""
    for step in range(4):
        assert_same(envs.step(good(step)), twin.step(good(step)))
    assert_same(envs.reset(), twin.reset())


def sane(result: tuple) -> None:
    observation, *numbers, infos = result
    assert observation["image"].shape == (ROWS, 8, 8, 3)
    assert observation["image"].dtype == np.uint8
    for number in numbers:
        assert number.shape == (ROWS,)
        assert np.isfinite(number.astype(float)).all()
    assert {"task", "start"} <= set(infos)


def refused_or_sane(envs: ProphetVectorEnv, twin: ProphetVectorEnv, call: Any) -> None:
    """The call gives a sane result, or is refused with a message and leaves the env as its twin is."""
    refusal, result = None, None
    try:
        result = call(envs)
    except REFUSED as error:
        refusal = str(error).strip()
    if result is None:
        assert refusal
        same_from_here(envs, twin)
    else:
        sane(result)
        sane(envs.step(good(0)))


def test_actions(cases):
    for random in cases(15):
        envs, twin = pair(random)
        action: Any = good(int(random.integers(100)))
        kind = int(random.integers(8))
        if kind == 0:
            action = pick(random)
        elif kind == 1:
            action = action.astype(str(random.choice(["f2", "f8", "c8", "i1", "?", "U8", "O", "M8[s]"])))
        elif kind == 2:
            action = action.reshape(-1)[: int(random.integers(1, action.size))]
        elif kind == 3:
            action.flat[int(random.integers(action.size))] = random.choice([np.nan, np.inf, -np.inf, 1e30, 1 + 2e-6])
        elif kind == 4:
            action = np.ma.masked_array(action, random.random(action.shape) < 0.1)
        elif kind == 5:
            dtype = [torch.float16, torch.bfloat16, torch.complex64, torch.int8, torch.bool][int(random.integers(5))]
            action = torch.from_numpy(action).to(dtype).to(["cpu", "meta"][int(random.integers(2))])
        elif kind == 6:
            action = action.tolist()
            action[int(random.integers(ROWS))][int(random.integers(CHUNK))] = pick(random)
        else:
            action = np.clip(action * (1 + 1e-7), -1 - 1e-7, 1 + 1e-7)
        refused_or_sane(envs, twin, lambda each, action=action: each.step(action))


def test_resets(cases):
    names = ["task", "start", "starts", "queue", "reset_mask", "tsk", 3, None]
    for random in cases(15):
        envs, twin = pair(random)
        options: Any = {
            names[int(random.integers(len(names)))]: pick(random) for _ in range(int(random.integers(1, 3)))
        }
        if random.random() < 0.2:
            options = pick(random)
        if random.random() < 0.3:
            states = [counting_starts()[int(random.integers(6))] for _ in range(int(random.integers(1, 5)))]
            options = {str(random.choice(["queue", "starts"])): states}
            for state in states[: int(random.integers(3))]:
                field = str(random.choice(["frames", "instruction", "suite", "task", "index", "split", "extra"]))
                object.__setattr__(state, field, pick(random))
        seed = pick(random) if random.random() < 0.4 else int(random.integers(9))
        refused_or_sane(envs, twin, lambda each, s=seed, o=options: each.reset(seed=s, options=o))


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """A snapshot with one thing changed: a byte, a length, a fact, a tensor."""
    kind = int(random.integers(5))
    if kind == 0:
        place = int(random.integers(len(data)))
        return data[:place] + bytes([int(random.integers(256))]) + data[place + 1 :]
    if kind == 1:
        return data[: int(random.integers(len(data)))] + random.bytes(int(random.integers(20)))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["row"])
    if kind == 2:
        part = facts if random.random() < 0.6 else facts["start"]
        name = str(random.choice(list(part)))
        part[name] = [None, True, -1, 2**63, 0.5, float("nan"), "x", [], {}, [[1]]][int(random.integers(10))]
    elif kind == 3:
        name = str(random.choice([name for name in header if name != "__metadata__"]))
        change = int(random.integers(3))
        if change == 0:
            del header[name]
        elif change == 1:
            header[name]["dtype"] = str(random.choice(["F32", "I8", "U8", "F16", "BOOL", "I64"]))
        else:
            header[name]["shape"] = [int(size) for size in random.permutation(header[name]["shape"])][::-1]
    else:
        facts["np_random"]["state"]["state"] = [0, -1, 2**127, 2**129, "a", None][int(random.integers(6))]
    header["__metadata__"]["row"] = json.dumps(facts)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_snapshots(cases):
    for random in cases(20):
        envs, twin = pair(random)
        data: Any = mutated(envs.get_state(int(random.integers(ROWS))), random)
        if random.random() < 0.1:
            data = pick(random)
        given = [data] * ROWS if random.random() < 0.5 else data
        refused_or_sane(envs, twin, lambda each, given=given: each.set_state(given))


def test_arguments(cases):
    for random in cases(10):
        given = {"world_model": CountingWorldModel(chunk=CHUNK), "starts": counting_starts()}
        given[str(random.choice(PARTS + NUMBERS))] = pick(random)
        refusal, env = "", None
        try:
            env = ProphetEnv(**given)
        except REFUSED as error:
            refusal = str(error).strip()
        if env is None:
            assert refusal
        else:
            assert env.reset(seed=0)[0]["image"].dtype == np.uint8


def test_a_snapshot_that_is_let_in_is_whole(cases):
    """Whatever passes has numbers that make sense, so that nothing breaks later."""
    like = CountingWorldModel(chunk=CHUNK).encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))
    for random in cases(10):
        envs, _ = pair(random)
        data = mutated(envs.get_state(), random)
        try:
            row, state = unpack_row(data, like, (8, 8), envs.reward_model)
        except ProphetError:
            continue
        assert row.image.shape == (8, 8, 3)
        assert isinstance(row.elapsed, int)
        assert row.elapsed >= 0
        assert set(state) == set(like)
