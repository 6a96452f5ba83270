"""The shipped checks pass on what keeps the contract and name what breaks it."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from prophet_gym._batches import concat_batches, scatter_batch, select_batch
from prophet_gym.rewards import FunctionReward, SuccessHead
from prophet_gym.testing import CountingWorldModel, assert_same, check_reward_model, check_world_model
from prophet_gym.world_model import Chunk, RewardOutput


def test_the_counting_model_keeps_the_contract():
    check_world_model(CountingWorldModel())
    check_world_model(CountingWorldModel(chunk=3, frame_size=(4, 6), action_dim=2, noise=False))


class Leaky(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        return super().rollout(state, actions - actions.mean(0), generators=generators)


class Positional(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        place = torch.arange(len(actions), dtype=torch.uint8).view(-1, 1, 1, 1, 1)
        return Chunk(chunk.state, chunk.frames + place)


class Mutating(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        state["raised"] += 1
        return chunk


class WritesActions(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        actions.zero_()
        return chunk


class WritesFrames(CountingWorldModel):
    def encode(self, frames):
        state = super().encode(frames)
        frames.zero_()
        return state


class GlobalNoise(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        torch.rand(1)
        return super().rollout(state, actions, generators=generators)


class Forgetful(CountingWorldModel):
    """Keeps a hidden clock instead of a state."""

    clock = 0

    def rollout(self, state, actions, *, generators):
        self.clock += 1
        chunk = super().rollout(state, actions, generators=generators)
        return Chunk(chunk.state, (chunk.frames.int() + self.clock).to(torch.uint8))


class FloatFrames(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        broken = Chunk(chunk.state, chunk.frames)
        object.__setattr__(broken, "frames", chunk.frames.float())
        return broken


class GrowingState(CountingWorldModel):
    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        return Chunk({**chunk.state, "more": actions.clone()}, chunk.frames)


class SharedState(CountingWorldModel):
    def encode(self, frames):
        return {name: tensor[:1] for name, tensor in super().encode(frames).items()}


class BlindEncoder(CountingWorldModel):
    """Encodes the mean image of the batch."""

    def encode(self, frames):
        return super().encode(frames.float().mean(0, keepdim=True).expand(frames.shape).to(torch.uint8))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Leaky(), "element 0 must not depend on the others of its batch"),
        (Positional(), "must not depend on"),
        (Mutating(), r"rollout must not change its arguments, but changed state\['raised'\]"),
        (WritesActions(), "changed actions"),
        (WritesFrames(), "encode must not change its arguments, but changed frames"),
        (GlobalNoise(), "from its generators alone"),
        (Forgetful(), "the same state, actions and seeds"),
        (FloatFrames(), "frames must be torch.uint8"),
        (GrowingState(), "keep its names, shapes and dtypes"),
        (SharedState(), "encode must return a batch of 3, got 1"),
        (BlindEncoder(), "encode must treat elements alone"),
        (CountingWorldModel(chunk=0), "chunk must be an integer of at least 1, got 0"),
    ],
)
def test_each_broken_model_is_named(model, message):
    with pytest.raises(AssertionError, match=message):
        check_world_model(model)


def test_our_judges_keep_the_contract():
    torch.manual_seed(0)
    check_reward_model(SuccessHead().eval())
    check_reward_model(FunctionReward(lambda video, _: float(video.float().mean()) / 255, max_frames=4))
    check_reward_model(FunctionReward(lambda video, text: None if "0" in text else 1.0, when="end"))


class Judge:
    when = "chunk"
    stride = 1
    max_frames = 2

    def score(self, videos: Sequence[torch.Tensor], instructions: Sequence[str]) -> RewardOutput:
        return RewardOutput(torch.zeros(len(videos)), torch.ones(len(videos), dtype=torch.bool))


class Curved(Judge):
    def score(self, videos, instructions):
        means = torch.stack([video.float().mean() for video in videos])
        return RewardOutput(means - means.mean(), torch.ones(len(videos), dtype=torch.bool))


class RewardsTheUnscored(Judge):
    def score(self, videos, instructions):
        return RewardOutput(torch.ones(len(videos)), torch.zeros(len(videos), dtype=torch.bool))


class Infinite(Judge):
    def score(self, videos, instructions):
        return RewardOutput(torch.full((len(videos),), torch.inf), torch.ones(len(videos), dtype=torch.bool))


class OneForAll(Judge):
    def score(self, videos, instructions):
        return RewardOutput(torch.zeros(1), torch.ones(1, dtype=torch.bool))


class Fickle(Judge):
    mood = 0.0

    def score(self, videos, instructions):
        self.mood += 1.0
        return RewardOutput(torch.full((len(videos),), self.mood), torch.ones(len(videos), dtype=torch.bool))


class Writes(Judge):
    def score(self, videos, instructions):
        videos[0].zero_()
        return super().score(videos, instructions)


class Sometimes(Judge):
    when = "sometimes"


class Backwards(Judge):
    stride = 0


@pytest.mark.parametrize(
    ("reward_model", "message"),
    [
        (Curved(), "video 0 must not depend on the others"),
        (RewardsTheUnscored(), "not scored must be 0.0"),
        (Infinite(), "finite"),
        (OneForAll(), r"reward must be torch.float32 \(3,\), got torch.float32 \(1,\)"),
        (Fickle(), "same output"),
        (Writes(), r"changed videos\[0\]"),
        (Sometimes(), "'chunk' or 'end', got 'sometimes'"),
        (Backwards(), "stride must be an integer of at least 1, got 0"),
    ],
)
def test_each_broken_judge_is_named(reward_model, message):
    with pytest.raises(AssertionError, match=message):
        check_reward_model(reward_model)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": np.zeros(2)}, {"a": np.ones(2)}, r"result\['a'\]: 2 of 2 numbers differ"),
        ({"a": 1}, {"b": 1}, r"only one of them has \['a', 'b'\]"),
        (np.zeros(2), np.zeros(2, np.float32), "float64 and float32"),
        ((1, 2), (1, 3), r"result\[1\]: 2 and 3"),
        (1, True, "int and bool"),
        (np.zeros(2), np.zeros(3), r"\(2,\) and \(3,\)"),
    ],
)
def test_assert_same_names_the_first_difference(one, other, message):
    assert_same(one, one)
    with pytest.raises(AssertionError, match=message):
        assert_same(one, other)


STATE = {"count": torch.arange(4), "grid": torch.arange(8.0).view(4, 2)}


class TestStateRows:
    def test_select_repeats_and_orders(self):
        chosen = select_batch(STATE, [3, 0, 3])
        assert chosen["count"].tolist() == [3, 0, 3]
        assert chosen["grid"].tolist() == [[6, 7], [0, 1], [6, 7]]

    def test_scatter_copies(self):
        part = {"count": torch.tensor([90, 91]), "grid": torch.tensor([[1.0, 1.0], [2.0, 2.0]])}
        changed = scatter_batch(STATE, [2, 0], part)
        assert changed["count"].tolist() == [91, 1, 90, 3]
        assert changed["grid"].tolist() == [[2, 2], [2, 3], [1, 1], [6, 7]]
        assert STATE["count"].tolist() == [0, 1, 2, 3]

    def test_merge_is_the_inverse_of_select(self):
        merged = concat_batches([select_batch(STATE, [0, 1]), select_batch(STATE, [2, 3])])
        assert all(torch.equal(merged[name], STATE[name]) for name in STATE)

    def test_states_that_do_not_fit(self):
        with pytest.raises(ValueError, match="at least one state"):
            concat_batches([])
        with pytest.raises(ValueError, match="same names"):
            concat_batches([STATE, {"count": torch.zeros(1)}])
        with pytest.raises(ValueError, match=r"\{'count': \(\), 'grid': \(2,\)\}"):
            scatter_batch(STATE, [0], {"count": torch.zeros(1), "grid": torch.zeros(1, 3)})
