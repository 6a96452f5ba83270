"""Votes and answers: every rule by hand, early stopping against all orders of all answers."""

import time
from itertools import product

import pytest

from prophet_gym.rewards._vlm.votes import Votes, parse_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\box{Success}", True),
        (r"\box{Failure}", False),
        ("The can lies beside it.\n\n\\box{Failure}\n", False),
        (r"So: **\boxed{Success}**.", True),
        (r"$\boxed{\text{Failure}}$", False),
        (r"\\box{success}", True),
        (r"\box{Success} or \box{Failure}? The can is in the basket. \box{Success}", True),
        (r"I must end with \box{Success} or \box{Failure}. First I look at", None),
        (r"\box{Success} But wait, the can is still in the air.", None),
        (r"\box{Maybe}", None),
        # two different boxes with words between: who is to say which one was chosen
        (r"Not \box{Failure}. So \box{Success}", None),
        (r"\box{Success} if it is in. It is not: \box{Failure}", None),
        (rf"\box{{Failure}} {'and so on ' * 10_000} \box{{Success}}", None),
        (r"\box{Success} \box{Failure} \box{Success}", None),
        (r"It is in, \box{Success}. I repeat: \box{Success}", True),
        (r"\boxed{\textbf{Success}}", True),
        # both, as the question quotes them: neither was chosen
        (r"I must end with \box{Success} or \box{Failure}.", None),
        ("\\box{Success}\n\\box{Failure}", None),
        (r"**\box{Failure}** / **\box{Success}**", None),
        ("Success", None),
        (r"\box{Succ", None),
        ("", None),
        ("box" * 10_000, None),
        # letters of other scripts that count as the same, case aside
        ("\\box{\u017fucce\u017f\u017f}", None),
        ("\\box{Fa\u0131lure}", None),
    ],
)
def test_only_an_answer_that_ends_in_its_box_counts(text, answer):
    assert parse_answer(text) is answer


@pytest.mark.parametrize("word", ["Success", "Failure"])
@pytest.mark.parametrize(
    "habit",
    [
        r"<|begin_of_box|>\box{@}<|end_of_box|>",
        "<|begin_of_box|>@<|end_of_box|>",
        r"<answer>\box{@}</answer>",
        "Seen. <answer> **@** </answer>\n<|im_end|>",
        r"\box{@}<|im_end|><|endoftext|>",
        r"\box{@}</s>",
        r"\boxed{@}<end_of_turn>",
        "\\box{@}<\uff5cend\u2581of\u2581sentence\uff5c>",
        r"\(\boxed{@}\)",
        r"$$\boxed{\mathbf{\text{@}}}$$",
        r"\[ \boxed{\mathrm{@}} \]",
        r"\text{\boxed{@}.}",
        "```\n\\box{@}\n```",
        "**Final answer:** _\\box{**@**}_",
        r'{"answer": "\\box{@}"}',
        r"<think>Not \box{Failure}, not \box{Success}.</think> \box{@}",
    ],
)
def test_what_models_put_around_their_answer_is_read(habit, word):
    assert parse_answer(habit.replace("@", word)) is (word == "Success")


@pytest.mark.parametrize(
    "text",
    [
        r"\box{Success}</think>",
        r"<think>It is in. \box{Success}",
        r"<think>\box{Failure}</think> That was <think>\box{Success}",
        r"\box{Success}<think>",
        r"\box{Success or Failure}",
        r"\box{\not{Success}}",
        "<answer>Success or Failure</answer>",
        "<answer>Success",
        "<|begin_of_box|>Success or<|end_of_box|>",
        r"\box{Success}<|im_end|><|im_start|>user",
    ],
)
def test_thoughts_and_what_is_not_over_are_no_answers(text):
    assert parse_answer(text) is None


PIECES = ["\\", "\\box{ ", "\\boxed{\\text{", " ", "<", "</a>", "<|", "}", "<answer>", "\\box{Success}", "\\text{"]


@pytest.mark.parametrize("start", ["", "\\box", "\\box{", r"\box{Success}", r"\box{Success "])
def test_a_long_answer_takes_time_in_proportion_to_its_length(start):
    began = time.process_time()
    for piece in PIECES:
        parse_answer(start + piece * (200_000 // len(piece)) + "x")
    assert time.process_time() - began < 30  # a hundredth of a second each; minutes where it grows with the square


@pytest.mark.parametrize(
    ("answers", "decision", "to_ask"),
    [
        ([], None, 3),
        ([True], None, 2),
        ([True, True, True], True, 0),
        ([False, True, False, False], False, 0),
        ([True, True, False, False], None, 1),
        ([True, True, None], None, 1),
        ([True, True, False, None, False], None, 0),
        ([None, None, None], None, 0),
        ([True, None, None], None, 2),
        ([True, False, None, None], None, 0),
    ],
)
def test_five_samples_without_retries(answers, decision, to_ask):
    votes = Votes(samples=5).add(*answers)
    assert (votes.decision, votes.to_ask) == (decision, to_ask)


def test_a_tie_of_an_even_number_is_no_verdict():
    votes = Votes(samples=4).add(True, True, False, False)
    assert (votes.decision, votes.to_ask, votes.success_rate) == (None, 0, 0.5)


def test_unreadable_answers_are_asked_for_again_as_often_as_allowed():
    votes = Votes(samples=3, retries=2).add(None, True)
    assert votes.to_ask == 1
    votes = votes.add(None)
    assert votes.to_ask == 1
    assert votes.add(True).decision is True
    assert votes.add(None).to_ask == 1
    assert votes.add(None, None).to_ask == 0
    assert Votes(samples=3, retries=2).add(*[None] * 4).to_ask == 0


def test_stopping_early_never_changes_the_verdict():
    for samples, retries in [(1, 0), (3, 1), (4, 0), (5, 0)]:
        for answers in product([True, False, None], repeat=samples + retries):
            readable = [answer for answer in answers if answer is not None][:samples]
            ayes, noes = readable.count(True), readable.count(False)
            # all answers, with no early stopping: unreadable ones use up the retries
            expected = True if ayes > samples / 2 else False if noes > samples / 2 else None
            votes, rest = Votes(samples, retries), list(answers)
            while votes.to_ask:
                asked, rest = rest[: votes.to_ask], rest[votes.to_ask :]
                votes = votes.add(*asked)
            assert votes.decision is expected, (samples, retries, answers)


@pytest.mark.parametrize(("samples", "retries"), [(0, 0), (3, -1)])
def test_bad_numbers(samples, retries):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        Votes(samples, retries)
