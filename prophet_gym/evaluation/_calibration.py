"""Calibration: how far a reward model is to be trusted, by its scores of videos whose truth the simulator knows.

A video is scored after every chunk (or once, at the end), on what the env would show the reward model then; the truth
is whether the task's own predicate holds at the latest frame. Scores of one episode depend on each other, so where they
are counted one by one, intervals come from resampling episodes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from prophet_gym.envs._sub_env import Row
from prophet_gym.estimates import RESAMPLES, Estimate, wilson
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel

CARD_NAME = "calibration.json"
AGES = (40, 80, 160, 240)
BINS = 10
RATES = {"precision": "precision", "recall": "recall", "false_positive_rate": "false positive rate"}


@dataclass(frozen=True)
class LabelledVideo:
    """Hold frames, real or dreamt, and at which of them the task is really done.

    Attributes:
        frames: Frame 0 is the initial one.
        success: The simulator's predicate at each frame of the same actions.
        instruction: The task in words.
        task: Its number.
        policy: Who acted, e.g. a script's mode.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    success: Bool[np.ndarray, " _"]
    instruction: str
    task: int = 0
    policy: str = ""

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.success):
            raise ValueError(f"each frame needs a label, got {len(self.frames)} frames, {len(self.success)} labels")


@dataclass(frozen=True)
class ScoredVideo:
    """Hold the scores of one video, in order.

    Attributes:
        age: Frames since the initial one at each score.
        called: Whether it was scored as a success.
        scored: Whether there was a score.
        probability: Stated probability of success, NaN where none was stated.
        truth: Whether the task was really done.
        ever: Whether the task was really done at any frame up to the last score.
        task: As in `LabelledVideo`.
        policy: As in `LabelledVideo`.
    """

    age: Int[np.ndarray, " n"]
    called: Bool[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    truth: Bool[np.ndarray, " n"]
    ever: bool
    task: int = 0
    policy: str = ""


def score_videos(
    reward_model: RewardModel,
    videos: Iterable[LabelledVideo],
    chunk: int,
    *,
    progress: Callable[[int], Any] | None = None,
) -> list[ScoredVideo]:
    """Show a reward model what the env would have shown it.

    Args:
        reward_model: Any reward model.
        videos: Taken one at a time. Frames after the last whole chunk are left out; a video shorter than a chunk has
            no score.
        chunk: Frames between two scores.
        progress: Told how many videos are through, after each.
    """
    results = []
    for video in videos:
        shown, ages = _shown(reward_model, video, chunk)
        output = reward_model.score([torch.from_numpy(frames) for frames in shown], [video.instruction] * len(shown))
        likely = np.full(len(shown), np.nan) if output.probability is None else output.probability.double().numpy()
        scored = output.scored.numpy()
        results.append(
            ScoredVideo(
                age=np.array(ages, dtype=np.int64),
                called=output.success.numpy(),
                scored=scored,
                probability=np.where(scored, likely, np.nan),
                truth=video.success[ages],
                ever=bool(video.success[: max(ages, default=-1) + 1].any()),
                task=video.task,
                policy=video.policy,
            )
        )
        if progress is not None:
            progress(1)
    return results


def _shown(reward_model: RewardModel, video: LabelledVideo, chunk: int) -> tuple[list[np.ndarray], list[int]]:
    # The env's own bookkeeping, so that calibration shows exactly the frames that training would.
    row = Row()
    row.begin(InitialState(video.frames[:1], video.instruction), 0, reward_model)
    ends = list(range(chunk, len(video.frames), chunk))
    shown, ages = [], []
    for end in ends:
        row.extend(video.frames[end - chunk + 1 : end + 1], reward_model, collect=False)
        if reward_model.when == "chunk" or end == ends[-1]:
            shown.append(row.video(reward_model))
            ages.append(end)
    return shown, ages


def calibrate(scored: Sequence[ScoredVideo], *, ages: Sequence[int] = AGES) -> dict[str, Any]:
    """Return how good a reward model is, as plain data.

    Returns:
        `episodes` (a video counts as called when any score calls it a success), `by_task`, `by_policy` (with the
        success rate that the reward model sees, and the true one), `verdicts`, `by_age` (frames since the initial one,
        up to and including each bound), `reliability`. Each rate is `mean`, `low`, `high`, `episodes`; None where there
        is nothing to count.
    """
    bounds = [0, *sorted(set(ages))]
    last = max((int(video.age.max()) for video in scored if len(video.age)), default=0)
    if last > bounds[-1]:
        bounds.append(last)
    return {
        "episodes": episode_rates(scored),
        "by_task": {
            str(task): episode_rates([v for v in scored if v.task == task]) for task in _sorted(scored, "task")
        },
        "by_policy": {
            str(name): episode_rates([v for v in scored if v.policy == name]) for name in _sorted(scored, "policy")
        },
        "verdicts": output_rates(scored),
        "by_age": {
            f"{low + 1}-{high}": output_rates(scored, low=low, high=high)
            for low, high in pairwise(bounds)
            if any(((video.age > low) & (video.age <= high)).any() for video in scored)
        },
        "reliability": reliability(scored),
    }


def episode_rates(scored: Sequence[ScoredVideo]) -> dict[str, Any]:
    """Return counts and rates over videos, with 95% Wilson intervals; `unjudged` counts those never scored."""
    heard = [video for video in scored if video.scored.any()]
    called = np.array([bool((video.called & video.scored).any()) for video in heard], bool)
    truth = np.array([video.ever for video in heard], bool)
    hits, false_positives = int((called & truth).sum()), int((called & ~truth).sum())
    return {
        "count": len(scored),
        "unjudged": len(scored) - len(heard),
        "successes": int(truth.sum()),
        "called": int(called.sum()),
        "right": hits,
        "precision": plain(wilson(hits, int(called.sum()))),
        "recall": plain(wilson(hits, int(truth.sum()))),
        "false_positive_rate": plain(wilson(false_positives, int((~truth).sum()))),
        "success_seen": plain(wilson(int(called.sum()), len(heard))),
        "success_true": plain(wilson(int(truth.sum()), len(heard))),
    }


def output_rates(scored: Sequence[ScoredVideo], *, low: int = -1, high: int | None = None) -> dict[str, Any]:
    """Return counts and rates over single scores at ages in (low, high], 95% intervals by resampling videos."""
    table = []
    for video in scored:
        here = (video.age > low) & (video.age <= (high if high is not None else np.iinfo(np.int64).max))
        heard = here & video.scored
        called, truth = video.called[heard], video.truth[heard]
        groups = (here & ~video.scored, truth, ~truth, called, called & truth, called & ~truth)
        table.append([group.sum() for group in groups])
    counts = np.array(table, dtype=np.float64).reshape(len(scored), 6)
    unscored, successes, failures, called, hits, false_positives = counts.T
    return {
        "count": int(unscored.sum() + successes.sum() + failures.sum()),
        "unjudged": int(unscored.sum()),
        "successes": int(successes.sum()),
        "called": int(called.sum()),
        "right": int(hits.sum()),
        "precision": plain(ratio(hits, called)),
        "recall": plain(ratio(hits, successes)),
        "false_positive_rate": plain(ratio(false_positives, failures)),
    }


def ratio(part: Float[np.ndarray, " e"], whole: Float[np.ndarray, " e"], seed: int = 0) -> Estimate:
    """Sum of `part` over sum of `whole`, its 95% interval by resampling episodes in which there is a whole.

    Example:
        >>> found = ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        >>> found.mean, found.low, found.high
        (0.5, 0.5, 0.5)
    """
    # Episodes without a whole have no rate, and a draw of them alone would divide by 0.
    some = whole > 0
    part, whole = part[some], whole[some]
    if not len(whole):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    # Episodes are drawn, not scores: those of one episode are not independent.
    picks = np.random.default_rng(seed).integers(len(whole), size=(RESAMPLES, len(whole)))
    low, high = np.quantile(part[picks].sum(1) / whole[picks].sum(1), [0.025, 0.975])
    return Estimate(float(part.sum() / whole.sum()), float(low), float(high), len(whole))


def reliability(scored: Sequence[ScoredVideo], bins: int = BINS) -> dict[str, Any] | None:
    """Return how often scores of a given probability are true, in equal bins; None where no probability is stated.

    Returns:
        `bins` (each with `low`, `high`, `count`, mean `probability` and the true `rate` with its interval) and `error`,
        the mean distance between the two, weighted by count (the expected calibration error).
    """
    likely = np.concatenate([video.probability for video in scored]) if scored else np.zeros(0)
    if np.isnan(likely).all():
        return None
    edges = np.linspace(0, 1, bins + 1)
    found, error, seen = [], 0.0, int((~np.isnan(likely)).sum())
    for low, high in pairwise(edges):
        inside = [
            (v.probability >= low) & ((v.probability < high) | ((high == 1) & (v.probability == 1))) for v in scored
        ]
        count = np.array([mask.sum() for mask in inside], dtype=np.float64)
        if count.sum() == 0:
            continue
        true = np.array([v.truth[mask].sum() for v, mask in zip(scored, inside, strict=True)], dtype=np.float64)
        mean = float(np.concatenate([v.probability[m] for v, m in zip(scored, inside, strict=True)]).mean())
        rate = ratio(true, count)
        error += abs(mean - rate.mean) * count.sum() / seen
        found.append(
            {"low": round(float(low), 6), "high": round(float(high), 6), "count": int(count.sum())}
            | {"probability": round(mean, 6), "rate": plain(rate)}
        )
    return {"bins": found, "error": round(error, 6)}


def plain(estimate: Estimate) -> dict[str, float | int | None]:
    """Return an estimate as plain numbers, None in place of NaN."""
    return {name: None if np.isnan(value) else round(value, 6) for name, value in asdict(estimate).items()}


def _sorted(scored: Sequence[ScoredVideo], name: str) -> list[Any]:
    return sorted({getattr(video, name) for video in scored})


SOURCES = {"real": "recorded", "dream": "dream"}
"""A card's key of a source -> what tables and plots call it."""


def summary(card: Mapping[str, Any]) -> list[list[str]]:
    """Return rows `source, videos scored, precision, recall, false positive rate` of a card, for tables."""
    found = [(source, card[source]["episodes"]) for source in SOURCES if source in card]
    return [
        [
            SOURCES[source],
            f"{rates['count'] - rates['unjudged']}/{rates['count']}",
            *(_interval(rates[name]) for name in RATES),
        ]
        for source, rates in found
    ]


def grouped(card: Mapping[str, Any], source: str, group: str) -> list[list[str]]:
    """Return rows `name, count, precision, recall, false positive rate` of groups of a source, e.g. `by_age`."""
    return [
        [name, str(rates["count"]), *(_interval(rates[rate]) for rate in RATES)]
        for name, rates in card.get(source, {}).get(group, {}).items()
    ]


def _interval(rate: Mapping[str, Any]) -> str:
    return "-" if rate["mean"] is None else f"{rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"
