"""What an action must be, at the boundary of every env: real numbers of the space's shape, rounding forgiven."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import RescaleAction

from prophet_gym.embodiments import get_embodiment
from prophet_gym.envs import ProphetEnv, ProphetVectorEnv
from prophet_gym.envs._require import require_actions
from prophet_gym.errors import InvalidActionError
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 2
BRIDGE = get_embodiment("bridge").action_spec


def bridge() -> ProphetEnv:
    return ProphetEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), action_spec=BRIDGE)


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_rounding_of_a_rescaled_action_is_forgiven_and_clipped(edge):
    env = RescaleAction(bridge(), -1, 1)
    env.reset(seed=0)
    assert env.step(np.full((CHUNK, 7), edge, np.float32))[4]["executed"] == CHUNK
    low, high = np.float32(BRIDGE.low), np.float32(BRIDGE.high)
    past = np.nextafter(np.stack([low, high]), np.float32([[-np.inf], [np.inf]]))
    np.testing.assert_array_equal(
        require_actions(past, gym.spaces.Box(np.stack([low] * 2), np.stack([high] * 2))), [low, high]
    )


def test_the_message_shows_the_digits_that_differ():
    env = bridge()
    env.reset(seed=0)
    action = np.zeros((CHUNK, 7), np.float32)
    action[0, 0] = BRIDGE.high[0] * (1 + 1e-5)
    with pytest.raises(InvalidActionError) as told:
        env.step(action)
    bounds, _, given = str(told.value).partition(", got ")
    assert given.split()[0] not in bounds
    assert float(given.split()[0]) == pytest.approx(BRIDGE.high[0], rel=1e-4)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a later torch has no such tensors
    QUANTISED = torch.quantize_per_tensor(torch.zeros(CHUNK, 7), 0.1, 0, torch.qint8)
NO_NUMBERS = {
    "complex": np.zeros((CHUNK, 7), complex),
    "complex tensor": torch.zeros(CHUNK, 7, dtype=torch.complex64),
    "text": np.full((CHUNK, 7), "0"),
    "lists of text": [["0"] * 7] * CHUNK,
    "bool": np.zeros((CHUNK, 7), bool),
    "bool tensor": torch.zeros(CHUNK, 7, dtype=torch.bool),
    "objects": np.full((CHUNK, 7), None),
    "masked": np.ma.masked_array(np.zeros((CHUNK, 7)), np.eye(CHUNK, 7)),
    "lists of masked": [np.ma.masked_array(np.zeros(7), np.ones(7))] * CHUNK,
    "meta": torch.zeros(CHUNK, 7, device="meta"),
    "quantised": QUANTISED,
    "sparse": torch.zeros(CHUNK, 7).to_sparse(),
    "dates": np.zeros((CHUNK, 7), "datetime64[s]"),
    "too large for float32": np.full((CHUNK, 7), 1e300),
    "too large for float64": np.full((CHUNK, 7), np.longdouble(10) ** 400),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.filterwarnings("error")
def test_what_is_no_real_number_is_refused_and_changes_nothing(kind):
    env, twin = bridge(), bridge()
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"actions must (be|lie)"):
        env.step(NO_NUMBERS[kind])
    action = np.zeros((CHUNK, 7), np.float32)
    assert_same(env.step(action), twin.step(action))


@pytest.mark.parametrize(
    "action",
    [
        [[0] * 7] * CHUNK,
        np.zeros((CHUNK, 7), np.int8),
        torch.zeros(CHUNK, 7, dtype=torch.bfloat16, requires_grad=True),
        [torch.zeros(7)] * CHUNK,
        np.zeros((7, CHUNK), np.float16).T,
    ],
    ids=["lists", "int8", "bfloat16", "tensors", "turned"],
)
def test_real_numbers_of_any_kind_are_taken(action):
    envs = ProphetVectorEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), 1)
    envs.reset(seed=0)
    expected = envs.step(np.zeros((1, CHUNK, 7), np.float32))
    envs.reset(seed=0)
    batch = action[None] if isinstance(action, np.ndarray | torch.Tensor) else [action]
    assert_same(envs.step(batch), expected)
