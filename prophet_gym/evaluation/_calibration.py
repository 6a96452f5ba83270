"""Calibration: how far a reward model is to be trusted, by its scores of videos whose truth the simulator knows.

The truth of a score is whether the task's own predicate holds at the latest frame.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from prophet_gym.data._episode import LabelledVideo
from prophet_gym.envs._sub_env import Row
from prophet_gym.estimates import Estimate, bootstrap, wilson
from prophet_gym.evaluation._report import as_json, interval
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel

CARD_NAME = "calibration.json"
RATES = {"precision": "precision", "recall": "recall", "false_positive_rate": "false positive rate"}
SOURCES = {"real": "recorded", "dream": "dream"}
"""A card's key of a source -> what tables call it."""


@dataclass(frozen=True)
class ScoredVideo:
    """Hold the scores of one video, in order: whether each `called` a success, and the truth.

    `age` counts frames since the initial one; `probability` is NaN where none was stated; `ever` says whether the task
    was really done at any frame up to the last score.
    """

    age: Int[np.ndarray, " n"]
    called: Bool[np.ndarray, " n"]
    scored: Bool[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    truth: Bool[np.ndarray, " n"]
    ever: bool
    task: int = 0
    policy: str = ""


def score_videos(reward_model: RewardModel, videos: Iterable[LabelledVideo], chunk: int) -> list[ScoredVideo]:
    """Show a reward model what the env would have shown it, one video at a time.

    A score comes every `chunk` frames: those after the last whole chunk are left out.
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
    return results


def _shown(reward_model: RewardModel, video: LabelledVideo, chunk: int) -> tuple[list[np.ndarray], list[int]]:
    # The env's own bookkeeping, so that calibration shows exactly the frames that training would.
    row = Row()
    row.begin(InitialState(video.frames[:1], video.instruction), 0, reward_model)
    ends = list(range(chunk, len(video.frames), chunk))
    shown, ages = [], []
    for end in ends:
        row.extend(video.frames[end - chunk + 1 : end + 1], collect=False)
        if reward_model.when == "chunk" or end == ends[-1]:
            shown.append(row.take(row.video))
            ages.append(end)
    return shown, ages


def calibrate(scored: Sequence[ScoredVideo], *, ages: Sequence[int] = (40, 80, 160, 240)) -> dict[str, Any]:
    """Measure how often a reward model is right; return plain data.

    Returns:
        Rates over videos: `episodes` (a video is called a success if any of its scores says so), `by_task`, `by_policy`
        (with the success rate by the reward model and the true one). Rates over single scores: `verdicts`, all of them,
        and `by_age`, by frames since the initial one up to each bound. And `reliability`, how often the stated
        probabilities are right. Each rate has `mean`, `low`, `high` and `episodes`; it is None if nothing is counted.
    """
    bounds = [0, *sorted(set(ages))]
    last = max((int(video.age.max()) for video in scored if len(video.age)), default=0)
    if last > bounds[-1]:
        bounds.append(last)

    def by(name: str) -> dict[str, Any]:
        groups = sorted({getattr(video, name) for video in scored})
        return {str(group): episode_rates([v for v in scored if getattr(v, name) == group]) for group in groups}

    return {
        "episodes": episode_rates(scored),
        "by_task": by("task"),
        "by_policy": by("policy"),
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
    called = np.array([(video.called & video.scored).any() for video in heard], bool)
    truth = np.array([video.ever for video in heard], bool)
    unscored, every = np.ones(len(scored) - len(heard)), np.ones(len(heard))

    def rate(part: np.ndarray, whole: np.ndarray) -> Estimate:
        return wilson(int(part.sum()), int(whole.sum()))

    return _rates(rate, (unscored, truth, ~truth, called, called & truth, called & ~truth)) | {
        "success_seen": as_json(rate(called, every)),
        "success_true": as_json(rate(truth, every)),
    }


def output_rates(scored: Sequence[ScoredVideo], *, low: int = -1, high: float | int = np.inf) -> dict[str, Any]:
    """Return counts and rates over single scores at ages in (low, high], 95% intervals by resampling videos."""
    table = []
    for video in scored:
        here = (video.age > low) & (video.age <= high)
        heard = here & video.scored
        called, truth = video.called[heard], video.truth[heard]
        groups = (here & ~video.scored, truth, ~truth, called, called & truth, called & ~truth)
        table.append([group.sum() for group in groups])
    return _rates(ratio, list(np.array(table, dtype=np.float64).reshape(len(scored), 6).T))


def _rates(rate: Callable[[np.ndarray, np.ndarray], Estimate], counts: Sequence[np.ndarray]) -> dict[str, Any]:
    unscored, successes, failures, called, hits, false_positives = counts
    return {
        "count": int(unscored.sum() + successes.sum() + failures.sum()),
        "unjudged": int(unscored.sum()),
        "successes": int(successes.sum()),
        "called": int(called.sum()),
        "right": int(hits.sum()),
        "precision": as_json(rate(hits, called)),
        "recall": as_json(rate(hits, successes)),
        "false_positive_rate": as_json(rate(false_positives, failures)),
    }


def ratio(part: Float[np.ndarray, " e"], whole: Float[np.ndarray, " e"], seed: int = 0) -> Estimate:
    """Return the sum of `part` over the sum of `whole`, its 95% interval by resampling episodes."""
    # Episodes are drawn, not scores: those of one episode are not independent. One without a whole has no rate, and a
    # draw of such alone would divide by 0.
    return bootstrap(part, np.where(whole > 0, whole, np.nan), statistic=np.divide, seed=seed)


def reliability(scored: Sequence[ScoredVideo], bins: int = 10) -> dict[str, Any] | None:
    """Return how often scores of a given probability are true, in equal bins; None where no probability is stated.

    `error` is the mean distance between the two, weighted by count (the expected calibration error).
    """
    likely = np.concatenate([np.zeros(0), *(video.probability for video in scored)])
    seen = int((~np.isnan(likely)).sum())
    if not seen:
        return None
    true = np.concatenate([video.truth for video in scored])
    owner = np.repeat(np.arange(len(scored)), [len(video.age) for video in scored])
    found, error = [], 0.0
    for low, high in pairwise(np.linspace(0, 1, bins + 1)):
        inside = (likely >= low) & ((likely < high) | ((high == 1) & (likely == 1)))
        if not inside.any():
            continue
        count, right = (np.bincount(owner[mask], minlength=len(scored)) for mask in (inside, inside & true))
        mean, rate = float(likely[inside].mean()), ratio(right.astype(float), count.astype(float))
        error += abs(mean - rate.mean) * count.sum() / seen
        found.append(
            {"low": round(float(low), 6), "high": round(float(high), 6), "count": int(count.sum())}
            | {"probability": round(mean, 6), "rate": as_json(rate)}
        )
    return {"bins": found, "error": round(error, 6)}


def summary(card: Mapping[str, Any]) -> list[list[str]]:
    """Return rows `source, videos scored, precision, recall, false positive rate` of a card, for tables."""
    found = {SOURCES[source]: card[source]["episodes"] for source in SOURCES if source in card}
    return [
        [label, f"{rates['count'] - rates['unjudged']}/{rates['count']}", *_intervals(rates)]
        for label, rates in found.items()
    ]


def grouped(card: Mapping[str, Any], source: str, group: str) -> list[list[str]]:
    """Return rows `name, count, precision, recall, false positive rate` of groups of a source, e.g. `by_age`."""
    groups = card.get(source, {}).get(group, {})
    return [[name, str(rates["count"]), *_intervals(rates)] for name, rates in groups.items()]


def _intervals(rates: Mapping[str, Any]) -> list[str]:
    return [interval(rates[name], 2) for name in RATES]
