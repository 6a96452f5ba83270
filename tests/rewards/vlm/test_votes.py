"""Voting over a model's answers, on a scripted model that writes down what it was asked."""

import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from prophet_gym.rewards import FunctionReward, Prompt, Reply, VlmReward
from prophet_gym.rewards._vlm.votes import spread
from prophet_gym.testing import check_reward_model

YES, NO, ODD, SILENT = r"It is in. \box{Success}", r"It is not. \box{Failure}", "perhaps", None
PROMPT = Prompt("Done? $instruction")


class Scripted:
    """Answers the questions about an instruction in the order of its script."""

    name = "scripted"

    def __init__(self, **scripts):
        self.scripts = scripts
        self.asked = []

    def answer(self, questions):
        self.asked.append(questions)
        replies = []
        for question in questions:
            word = json.loads(question.parts[-1].removeprefix("Done? "))
            said = self.scripts[word].pop(0)
            replies.append(Reply(said, problem="" if said else "no answer"))
        return replies


def clip(frames: int, size: int = 4) -> torch.Tensor:
    return (
        torch.arange(frames, dtype=torch.int64)
        .remainder(256)
        .to(torch.uint8)
        .view(-1, 1, 1, 1)
        .repeat(1, size, size, 3)
    )


def test_each_video_is_asked_about_until_it_is_decided():
    model = Scripted(a=[YES, YES, YES], b=[NO, YES, NO, NO], c=[YES, ODD, NO, NO, SILENT, NO])
    reward_model = VlmReward(model, prompt=PROMPT, samples=5, retries=2)
    output = reward_model.score([clip(3), clip(2), clip(1)], ["a", "b", "c"])
    assert output.reward.tolist() == [1.0, 0.0, 0.0]
    assert output.scored.tolist() == [True, True, True]
    assert output.success.tolist() == [True, False, False]
    assert output.probability.tolist() == [1.0, 0.25, 0.25]
    assert [len(turn) for turn in model.asked] == [9, 3, 1]
    assert dict(reward_model.counts) == {"scored": 3, "unparsable": 1, "unanswered": 1}


@pytest.mark.parametrize(
    "script", [[ODD] * 9, [SILENT] * 9, [YES, YES, NO, NO, ODD, ODD, ODD, ODD]], ids=["unreadable", "silent", "tie"]
)
def test_what_is_not_decided_is_no_failure(script):
    reward_model = VlmReward(Scripted(a=list(script)), prompt=PROMPT, samples=4, retries=2)
    with pytest.warns(RuntimeWarning, match="can be read") if script[0] is ODD else nullcontext():
        output = reward_model.score([clip(3)], ["a"])
    assert (output.reward.tolist(), output.scored.tolist()) == ([0.0], [False])
    assert not output.success.any()
    assert reward_model.counts["unscored"] == 1


def test_answers_none_of_which_can_be_read_are_warned_of_once():
    long = "I see a can. " * 50 + "So my answer is: it is in!"
    model = Scripted(a=[long] * 4, b=[YES, ODD, SILENT, YES], c=[ODD] * 4)
    reward_model = VlmReward(model, prompt=PROMPT, samples=3, retries=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one that can be read is enough
        reward_model.score([clip(1)], ["b"])
    with pytest.warns(RuntimeWarning) as caught:
        reward_model.score([clip(3)], ["a"])
    (warning,) = [str(each.message) for each in caught]
    assert "no answer of scripted about 'a' can be read, of 4 samples" in warning
    assert "So my answer is: it is in!'" in warning
    assert r"must end in \box{Success} or \box{Failure}" in warning
    assert len(warning) < 700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward_model.score([clip(3)], ["c"])  # said once, counted for ever
    assert reward_model.counts["unparsable"] == 9


def test_a_video_without_frames_is_not_asked_about():
    model = Scripted(a=[YES])
    output = VlmReward(model, prompt=PROMPT, samples=1).score([clip(0), clip(1)], ["b", "a"])
    assert (output.reward.tolist(), output.scored.tolist()) == ([0.0, 1.0], [False, True])
    assert len(model.asked) == 1
    empty = VlmReward(model, prompt=PROMPT).score([], [])
    assert len(empty.reward) == len(empty.scored) == 0


@pytest.mark.parametrize("frames", [1, 2, 7, 1000])
def test_frames_are_shown_evenly_with_their_steps(frames):
    model = Scripted(a=[YES])
    VlmReward(model, prompt=PROMPT, samples=1, stride=5, shown=6).score([clip(frames)], ["a"])
    *parts, question = model.asked[0][0].parts
    labels, images = parts[::2], parts[1::2]
    assert question == 'Done? "a"'
    assert labels[-1] == "Last step:"
    assert len(labels) == min(frames, 6)
    for label, image in zip(labels[:-1], images[:-1], strict=True):
        step = int(label.removeprefix("Step ").removesuffix(":"))
        assert int(image[0, 0, 0]) == step // 5 % 256
    assert int(images[-1][0, 0, 0]) == (frames - 1) % 256
    gaps = np.diff([int(label[5:-1]) for label in labels[:-1]])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 5


def test_spread_keeps_the_ends():
    assert spread(1000, 4) == [0, 333, 666, 999]
    assert spread(5, 1) == [4]


def test_a_question_has_its_own_seed_and_the_same_one_next_time():
    def seeds():
        model = Scripted(a=[YES, NO, NO], b=[YES, NO, NO])
        VlmReward(model, prompt=PROMPT, samples=3).score([clip(2), clip(2)], ["a", "b"])
        return [question.seed for turn in model.asked for question in turn]

    assert seeds() == seeds()
    assert len(set(seeds())) == 6


def test_a_judge_of_a_pure_model_keeps_the_contract():
    class Bright:
        name = "bright"

        def answer(self, questions):
            return [Reply(YES if question.parts[1].float().mean() > 127 else NO) for question in questions]

    check_reward_model(VlmReward(Bright(), samples=3))


def test_bad_arguments():
    with pytest.raises(ValueError, match="stride must be an integer of at least 1, got 0"):
        VlmReward(Scripted(), stride=0)
    with pytest.raises(ValueError, match="samples must be an integer of at least 1, got 0"):
        VlmReward(Scripted(), samples=0)


def test_done_is_what_the_judge_says_where_it_says():
    from prophet_gym.world_model import RewardOutput

    plain = RewardOutput(torch.tensor([1.0, 0.4, 1.0]), torch.tensor([True, True, False]))
    assert plain.success.tolist() == [True, False, False]
    said = RewardOutput(plain.reward, plain.scored, done=torch.tensor([False, True, True]))
    assert said.success.tolist() == [False, True, False]
    check_reward_model(FunctionReward(lambda video, text: 0.5))
