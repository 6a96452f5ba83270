"""The judge of reaching: rewards by hand, marks in instructions."""

import pytest
import torch

from prophet_gym.rewards import ReachReward, mark_of, reach_instruction
from prophet_gym.testing import check_reward_model


def first_pixel(frames: torch.Tensor) -> torch.Tensor:
    """Right and down are the first two colours of the first pixel, in hundredths."""
    return frames[:, 0, 0, :2].float() / 100


def frame(right: int, down: int) -> torch.Tensor:
    return torch.tensor([right, down, 0], dtype=torch.uint8).expand(1, 4, 4, 3).contiguous()


def test_the_reward_falls_with_the_distance_in_the_last_frame():
    reward_model = ReachReward(first_pixel, width=0.5)
    video = torch.cat([frame(90, 90), frame(50, 60)])
    marks = [(0.5, 0.6), (0.8, 0.2), (0.5, 0.85), (0.0, 0.0)]
    output = reward_model.score([video] * 4, [reach_instruction(mark) for mark in marks])
    torch.testing.assert_close(output.reward, torch.tensor([0.999, 0.0, 0.5, 1 - 0.61**0.5 / 0.5]))
    assert output.scored.all()
    assert not (output.reward >= 1).any()


def test_no_frames_no_verdict():
    text = reach_instruction((0.5, 0.5))
    output = ReachReward(first_pixel).score([frame(1, 1)[:0], frame(50, 50)], [text] * 2)
    assert (output.reward.tolist(), output.scored.tolist()) == ([0.0, pytest.approx(0.999)], [False, True])
    assert len(ReachReward(first_pixel).score([], []).reward) == 0


def test_it_is_a_judge():
    texts = [reach_instruction((0.1 * row, 0.5)) for row in range(3)]
    check_reward_model(
        ReachReward(first_pixel), videos=[frame(10, 20), frame(30, 0), frame(99, 50)], instructions=texts
    )


def test_marks_travel_in_instructions():
    assert mark_of(reach_instruction((0.125, 1))) == (0.125, 1.0)
    with pytest.raises(ValueError, match="got 'pick up the milk'"):
        mark_of("pick up the milk")
    with pytest.raises(ValueError, match=r"inside the image, both numbers in 0..1, got 0.2, 1.5"):
        reach_instruction((0.2, 1.5))
    with pytest.raises(ValueError, match="must be a finite number above 0, got 0"):
        ReachReward(first_pixel, width=0.0)
