"""Votes and answers: every rule by hand, early stopping against all orders of all answers."""

from itertools import product

import pytest

from prophet_gym.rewards.voting import Votes, parse_answer


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
        (r"Not \box{Failure}. So \box{Success}", True),
        (r"\boxed{\textbf{Success}}", True),
        # both, as the question quotes them: neither was chosen
        (r"I must end with \box{Success} or \box{Failure}.", None),
        ("\\box{Success}\n\\box{Failure}", None),
        (r"**\box{Failure}** / **\box{Success}**", None),
        ("Success", None),
        (r"\box{Succ", None),
        ("", None),
        ("box" * 10_000, None),
    ],
)
def test_only_an_answer_that_ends_in_its_box_counts(text, answer):
    assert parse_answer(text) is answer


@pytest.mark.parametrize(
    ("answers", "verdict", "to_ask"),
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
def test_five_samples_without_retries(answers, verdict, to_ask):
    votes = Votes(samples=5).add(answers)
    assert (votes.verdict, votes.to_ask) == (verdict, to_ask)


def test_a_tie_of_an_even_number_is_no_verdict():
    votes = Votes(samples=4).add([True, True, False, False])
    assert (votes.verdict, votes.to_ask, votes.share) == (None, 0, 0.5)


def test_unreadable_answers_are_asked_for_again_as_often_as_allowed():
    votes = Votes(samples=3, retries=2).add([None, True])
    assert votes.to_ask == 1
    votes = votes.add([None])
    assert votes.to_ask == 1
    assert votes.add([True]).verdict is True
    assert votes.add([None]).to_ask == 1
    assert votes.add([None, None]).to_ask == 0
    assert Votes(samples=3, retries=2).add([None] * 4).to_ask == 0


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
                votes = votes.add(asked)
            assert votes.verdict is expected, (samples, retries, answers)


@pytest.mark.parametrize(("samples", "retries"), [(0, 0), (3, -1)])
def test_bad_numbers(samples, retries):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        Votes(samples, retries)
