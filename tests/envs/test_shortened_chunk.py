"""Shorter chunks around a longer model's: what is shown, what goes on, what is refused."""

import numpy as np
import pytest
import torch

from prophet_gym.embodiments import get_embodiment
from prophet_gym.envs import ProphetEnv, ProphetVectorEnv, ShortenedChunk
from prophet_gym.envs._initial_states import InitialStates
from prophet_gym.prophet import tiny_full_prophet, tiny_prophet
from prophet_gym.testing import CountingWorldModel, check_world_model, counting_starts
from prophet_gym.world_model import Chunk, State

NO_OP = get_embodiment("libero").no_op


class Cuttable(CountingWorldModel):
    """A counting model that says how far it had counted after any frame, and what it was asked for."""

    def rollout(self, state, actions, *, generators):
        self.asked = actions.clone()
        return super().rollout(state, actions, generators=generators)

    def cut(self, state: State, chunk: Chunk, steps: int) -> State:
        raised = chunk.frames[:, steps - 1, 0, 0].to(torch.int64) - state["start"][:, 0, 0]
        return {"start": state["start"].clone(), "raised": raised % 256}


def generators(rows):
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def test_the_rest_is_held_with_the_last_gripper_and_the_count_goes_on_from_what_was_shown():
    inner = Cuttable(chunk=8, noise=False)
    model = ShortenedChunk(inner, 3, no_op=NO_OP)
    state = model.encode(torch.zeros(2, 1, 8, 8, 3, dtype=torch.uint8))
    actions = torch.full((2, 3, 7), 0.1)
    actions[:, :, 6] = torch.tensor([[-1.0, 1.0, 0.5], [-1.0, -1.0, -0.25]])
    for before in (0, 3):
        chunk = model.rollout(state, actions, generators=generators(2))
        assert chunk.frames[0, :, 0, 0].tolist() == [[before + j, 10 * (before + j), 0] for j in (1, 2, 3)]
        state = chunk.state
    assert inner.asked[:, 3:, :6].abs().max() == 0
    assert inner.asked[:, 3:, 6].tolist() == [[0.5] * 5, [-0.25] * 5]
    assert chunk.approximate


def test_keeps_the_contract_of_a_world_model():
    check_world_model(ShortenedChunk(Cuttable(chunk=8), 3, no_op=NO_OP))


def test_info_says_that_a_step_is_approximate():
    envs = ProphetVectorEnv(ShortenedChunk(Cuttable(chunk=8), 3, no_op=NO_OP), counting_starts(), num_envs=2)
    assert envs.single_action_space.shape == (3, 7)
    envs.reset(seed=0)
    info = envs.step(np.zeros((2, 3, 7), np.float32))[4]
    assert info["approximate"].tolist() == info["_approximate"].tolist() == [True, True]
    assert info["executed"].tolist() == [3, 3]
    exact = ProphetEnv(Cuttable(chunk=8), counting_starts())
    exact.reset(seed=0)
    assert exact.step(np.zeros((8, 7), np.float32))[4]["approximate"] is False


def test_the_full_prophet_goes_on_after_the_frames_that_were_shown():
    prophet = tiny_full_prophet()
    model = ShortenedChunk(prophet, 2, no_op=NO_OP)
    frames = torch.randint(0, 256, (1, 1, 32, 32, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    actions = torch.rand(1, 2, 7, generator=torch.Generator().manual_seed(4)) * 2 - 1
    held = torch.cat([actions, torch.zeros(1, 2, 7)], dim=1)
    held[:, 2:, 6] = actions[:, 1:, 6]
    state = model.encode(frames)
    whole = prophet.rollout(state, held, generators=generators(1))
    cut = model.rollout(state, actions, generators=generators(1))
    assert torch.equal(cut.frames, whole.frames[:, :2])
    assert torch.equal(cut.state["frames"], torch.cat([state["frames"][:, 2:], whole.frames[:, :2]], dim=1))


@pytest.mark.parametrize(
    ("model", "chunk", "message"),
    [
        (Cuttable(chunk=8), 8, "must be less than the world model's 8"),
        (Cuttable(chunk=8), 0, "chunk must be an integer of at least 1, got 0"),
        (CountingWorldModel(chunk=8), 4, "state cannot be cut inside a chunk.*Use chunk=8"),
        (tiny_prophet(), 4, "state cannot be cut inside a chunk.*Use chunk=8"),
    ],
)
def test_what_cannot_be_cut_is_refused_at_once(model, chunk, message):
    with pytest.raises(ValueError, match=message):
        ShortenedChunk(model, chunk, no_op=NO_OP)


def test_actions_of_the_longer_chunk_are_refused():
    model = ShortenedChunk(Cuttable(chunk=8), 3, no_op=NO_OP)
    state = model.encode(torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"shape \(b, 3, 7\), got \(1, 8, 7\)"):
        model.rollout(state, torch.zeros(1, 8, 7), generators=generators(1))


def test_starts_reach_the_inner_model():
    class Reader(Cuttable):
        def encode_initial_states(self, frames, starts):
            return {"start": frames[:, -1] + starts[0].index, "raised": torch.zeros(len(frames), 3, dtype=torch.int64)}

    env = ProphetEnv(
        ShortenedChunk(Reader(chunk=8, noise=False), 2, no_op=NO_OP), InitialStates([counting_starts(1, 3)[2]])
    )
    env.reset(seed=0)
    frames = env.step(np.zeros((2, 7), np.float32))[4]["frames"]
    assert frames[:, 0, 0, 0].tolist() == [8 + 2 + 1, 8 + 2 + 2]


def test_a_gripper_that_the_longer_model_tracks_is_tracked():
    class Tracking(Cuttable):
        def read_gripper(self, state):
            return state["raised"].float() / 100

    env = ProphetEnv(ShortenedChunk(Tracking(chunk=8), 3, no_op=NO_OP), counting_starts(), proprioception=True)
    env.reset(seed=0)
    position = env.step(np.zeros((3, 7), np.float32))[0]["gripper_position"]
    assert position[0] == pytest.approx(0.03)
    with pytest.raises(ValueError, match="ShortenedChunk does not; leave it out"):
        ProphetEnv(ShortenedChunk(Cuttable(chunk=8), 3, no_op=NO_OP), counting_starts(), proprioception=True)
