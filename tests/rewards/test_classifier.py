"""The dense judge of the success head: sums, holds and windows by hand."""

import torch

from prophet_gym.rewards import RelativeReward, SuccessHead, SuccessHeadConfig
from prophet_gym.rewards._classifier import consecutive_probability
from prophet_gym.testing import check_reward_model


class Bright(SuccessHead):
    """A frame's brightness is its probability."""

    def probabilities(self, frames, instruction):
        return frames.float().mean((1, 2, 3)) / 255


def video(*percent: int) -> torch.Tensor:
    return torch.tensor([round(2.55 * p) for p in percent], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3)


def reward_model(min_consecutive: int, chunk: int, threshold: float = 0.8) -> RelativeReward:
    return RelativeReward(Bright(SuccessHeadConfig(min_consecutive=min_consecutive, threshold=threshold)), chunk=chunk)


def test_rewards_of_an_episode_add_up():
    levels = torch.randint(0, 256, (1 + 5 * 4,), generator=torch.Generator().manual_seed(0))
    episode = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3).contiguous()
    dense = reward_model(min_consecutive=3, chunk=4)
    windows = [episode[: 1 + 4 * (i + 1)][-dense.max_frames :] for i in range(5)]
    total = sum(float(dense.score([window], ["x"]).reward) for window in windows)
    assert abs(total - float(levels[-3:].min() - levels[0]) / 255) < 1e-5


def test_success_is_held_and_nothing_is_held_before_it_can_be():
    dense = reward_model(min_consecutive=3, chunk=4)
    output = dense.score(
        [video(0, 90, 90, 90, 0), video(90, 90, 0, 90, 90), video(90, 90), video(0, 10, 20, 30, 40)], ["x"] * 4
    )
    assert output.done.tolist() == [True, False, False, False]
    assert output.success.tolist() == [True, False, False, False]
    assert torch.allclose(output.reward, torch.tensor([0.0, -0.9, 0.0, 0.2]), atol=5e-3)
    assert torch.allclose(output.probability, torch.tensor([0.0, 0.0, 0.9, 0.2]), atol=5e-3)


def test_no_frames_no_verdict():
    for one in (reward_model(min_consecutive=2, chunk=2), Bright(SuccessHeadConfig(min_consecutive=1, threshold=0.0))):
        output = one.score([video(), video(90)], ["x", "x"])
        assert output.scored.tolist() == [False, True]
        assert not output.success[0]
        assert float(output.reward[0]) == 0.0
        assert len(one.score([], []).reward) == 0


def test_held_probability_is_a_running_minimum():
    values = torch.tensor([0.9, 0.2, 0.5, 0.7, 0.6])
    assert torch.equal(consecutive_probability(values, 3), torch.tensor([0.9, 0.2, 0.2, 0.2, 0.5]))
    assert torch.equal(consecutive_probability(values, 1), values)


def test_the_contract():
    torch.manual_seed(0)
    check_reward_model(RelativeReward(SuccessHead().eval()), tolerance=1e-4)
