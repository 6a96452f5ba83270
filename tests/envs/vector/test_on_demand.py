"""`render="chunk"`: frames are decoded only where somebody looks, and nothing else changes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.prophet import tiny_prophet
from prophet_gym.rewards import FunctionReward, SuccessHead, SuccessHeadConfig
from prophet_gym.rewards._classifier import has_run, next_frames
from prophet_gym.testing import check_world_model, counting_starts
from prophet_gym.world_model import Footage

STARTS = counting_starts(size=(64, 64))


class Decoding:
    """Counts the frames that a world model decodes."""

    def __init__(self, model):
        self.model, self.decoded = model, 0
        self.decodable, self.chunk, self.frame_size = model.decodable, model.chunk, model.frame_size
        self.action_dim = model.action_dim
        self.encode, self.advance, self.uncertainty = model.encode, model.advance, model.uncertainty

    def rollout(self, state, actions, *, generators):
        self.decoded += actions.shape[0] * actions.shape[1]
        return self.model.rollout(state, actions, generators=generators)

    def decode(self, state, ages):
        self.decoded += len(ages)
        return self.model.decode(state, ages)


@pytest.fixture(scope="module")
def prophet():
    return tiny_prophet()


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return SuccessHead(SuccessHeadConfig(image_size=16, width=4, clearly_not=0.0)).eval()


def trusting(head):
    """A head that takes all frames between two that do not count as done as not done."""
    other = SuccessHead(replace(head.config, clearly_not=1.0))
    other.load_state_dict(head.state_dict())
    return other.eval()


def episodes(prophet, reward_model, render, steps=8, **options):
    model = Decoding(prophet)
    envs = ProphetVectorEnv(
        model, STARTS, 3, reward_model=reward_model, render=render, autoreset_mode="Disabled", **options
    )
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    actions = rng.uniform(-1, 1, (steps, *envs.action_space.shape)).astype(np.float32)
    seen = [envs.step(chunk) for chunk in actions]
    return seen, model.decoded, envs


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_rewards_and_images_are_those_of_decoding_everything(prophet, head, quantile):
    everything, _, _ = episodes(prophet, head, "step")
    sure = [
        head.probabilities(torch.from_numpy(info["frames"][0]), "count task 0")
        for *_, info in everything
        if info["live"][0]
    ]
    judge = head.with_threshold(float(torch.cat(sure).quantile(quantile)))
    whole, all_frames, _ = episodes(prophet, judge, "step")
    lean, frames, _ = episodes(prophet, judge, "chunk")
    for one, other in zip(whole, lean, strict=True):
        assert np.abs(one[0]["image"].astype(int) - other[0]["image"]).max() <= 1
        for a, b in zip(one[1:4], other[1:4], strict=True):
            assert a.tolist() == b.tolist()
        assert "frames" in one[4] or not one[4]["live"].any()
        assert "frames" not in other[4]
        assert "uncertainty" not in other[4]
        assert one[4]["success"].tolist() == other[4]["success"].tolist()
        assert one[4]["executed"].tolist() == other[4]["executed"].tolist()
    assert frames < all_frames


def test_without_success_three_frames_of_eight_are_decoded_or_one(prophet, head):
    head = head.with_threshold(1.0)
    for each, decoded in ((head, 3), (trusting(head), 1)):
        _, frames, _ = episodes(prophet, each, "chunk")
        assert frames == 3 * 8 * decoded


@pytest.mark.parametrize(("video", "done"), [("....####..", False), ("......####", True), (".......###", True)])
def test_frames_between_two_that_are_clearly_not_done_are_not_looked_at(head, video, done):
    frames = {sign: torch.full((16, 16, 3), value, dtype=torch.uint8) for sign, value in ((".", 20), ("#", 220))}
    sure = {sign: head.probabilities(frame[None], "count").item() for sign, frame in frames.items()}
    if sure["."] > sure["#"]:
        frames["."], frames["#"] = frames["#"], frames["."]
    head = head.with_threshold(max(sure.values()))
    seen = set()

    def look(wanted):
        seen.update(wanted[0])
        return [torch.stack([frames[video[number]] for number in wanted[0]])]

    footage = Footage([10], [{1, 9}], look)
    assert trusting(head).score_on_demand(footage, ["count"]).success.item() is done
    assert done or seen == {1, 9}
    assert head.score_on_demand(footage, ["count"]).success.item() is True


def test_a_reward_model_that_does_not_choose_is_shown_what_it_asks_for(prophet):
    def brightness(frames, _instruction):
        return float(frames.float().mean())

    shown = FunctionReward(brightness, stride=3, max_frames=5)
    whole, _, _ = episodes(prophet, shown, "step")
    lean, frames, _ = episodes(prophet, shown, "chunk")
    for one, other in zip(whole, lean, strict=True):
        np.testing.assert_allclose(one[1], other[1], atol=0.5)
    assert frames <= 3 * (8 * 8 / 3 + 8)


def test_a_snapshot_goes_from_one_to_the_other(prophet, head):
    _, _, envs = episodes(prophet, head.with_threshold(1.0), "chunk", steps=2)
    _, _, other = episodes(prophet, head.with_threshold(1.0), "step", steps=1)
    snapshot = envs.get_state(1)
    actions = np.zeros(envs.action_space.shape, np.float32)
    for each in (envs, other):
        each.set_state(snapshot)
    one, two = envs.step(actions), other.step(actions)
    assert np.abs(one[0]["image"].astype(int) - two[0]["image"]).max() <= 1
    assert one[1].tolist() == two[1].tolist()
    assert envs.get_state(0) == envs.get_state(0)


def test_uncertainty_is_computed_where_it_ends_episodes(prophet):
    whole, _, _ = episodes(prophet, None, "step", max_uncertainty=float("inf"))
    lean, _, _ = episodes(prophet, None, "chunk", max_uncertainty=float("inf"))
    for one, other in zip(whole, lean, strict=True):
        np.testing.assert_allclose(one[4]["uncertainty"], other[4]["uncertainty"], rtol=1e-3)


def test_the_contract_of_world_models_covers_it(prophet):
    check_world_model(Decoding(prophet), tolerance=2)

    class Late(Decoding):
        def decode(self, state, ages):
            return super().decode(state, (ages + 1).clamp(max=self.decodable - 1)) ^ 8

    with pytest.raises(AssertionError, match="decode and uncertainty must give what rollout gives: frames differ"):
        check_world_model(Late(prophet), tolerance=2)


def test_what_needs_every_frame_says_so(prophet):
    with pytest.raises(ValueError, match="it needs render='step'"):
        ProphetVectorEnv(prophet, STARTS, render="chunk", render_mode="rgb_array_list")
    with pytest.raises(ValueError, match="render"):
        ProphetVectorEnv(prophet, STARTS, render="never")


@pytest.mark.parametrize("run", [1, 2, 3, 4])
def test_next_frames_find_every_run_and_no_other(run):
    for truth in product([False, True], repeat=8):
        known: dict[int, bool] = {}
        while wanted := next_frames(8, run, known, free=[7]):
            known |= {frame: truth[frame] for frame in wanted}
        assert has_run(known, run) == has_run(dict(enumerate(truth)), run)
    known = {}
    while wanted := next_frames(30, run, known, free=[]):
        known |= dict.fromkeys(wanted, False)
    assert len(known) == 30 // run


def test_a_video_shorter_than_a_run_is_no_success(head):
    footage = Footage(
        [2], [{0, 1}], lambda wanted: [torch.zeros(len(places), 16, 16, 3, dtype=torch.uint8) for places in wanted]
    )
    output = head.with_threshold(0.001).score_on_demand(footage, ["count"])
    assert output.reward.tolist() == [0.0]
    assert output.scored.tolist() == [True]
