"""Calibration: counts by hand, intervals, and an oracle that must come out perfect."""

import json

import numpy as np
import pytest
import torch

from prophet_gym.evaluation._calibration import (
    LabelledVideo,
    ScoredVideo,
    calibrate,
    episode_rates,
    output_rates,
    ratio,
    reliability,
    score_videos,
)
from prophet_gym.rewards import FunctionReward
from prophet_gym.world_model import RewardOutput


def scored_video(called, truth, scored=None, probability=None, task=0, policy="", chunk=8) -> ScoredVideo:
    count = len(called)
    return ScoredVideo(
        age=chunk * np.arange(1, count + 1),
        called=np.array(called, bool),
        scored=np.ones(count, bool) if scored is None else np.array(scored, bool),
        probability=np.full(count, np.nan) if probability is None else np.array(probability, np.float64),
        truth=np.array(truth, bool),
        ever=bool(np.any(truth)),
        task=task,
        policy=policy,
    )


VIDEOS = [
    scored_video([0, 1, 1], [0, 0, 1], task=0, policy="expert"),
    scored_video([0, 0, 1], [0, 0, 0], task=0, policy="weak"),
    scored_video([0, 0, 0], [0, 1, 1], task=1, policy="expert"),
    scored_video([0, 0, 0], [0, 0, 0], task=1, policy="weak"),
    scored_video([1, 1, 1], [0, 0, 0], scored=[0, 0, 0], task=1, policy="weak"),
]


def test_episodes_count_once():
    found = episode_rates(VIDEOS)
    assert {name: found[name] for name in ("count", "unjudged", "successes", "called", "right")} == {
        "count": 5,
        "unjudged": 1,
        "successes": 2,
        "called": 2,
        "right": 1,
    }
    assert [found[name]["mean"] for name in ("precision", "recall", "false_positive_rate")] == [0.5, 0.5, 0.5]
    assert found["precision"]["low"] == pytest.approx(0.0945, abs=1e-3)
    assert (found["success_seen"]["mean"], found["success_true"]["mean"]) == (0.5, 0.5)


def test_verdicts_count_one_by_one_and_by_age():
    found = output_rates(VIDEOS)
    assert (found["count"], found["unjudged"], found["successes"], found["called"], found["right"]) == (15, 3, 3, 3, 1)
    assert found["precision"]["mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["false_positive_rate"]["mean"] == pytest.approx(2 / 9, abs=1e-6)
    late = output_rates(VIDEOS, low=16, high=24)
    assert (late["count"], late["successes"], late["called"], late["right"]) == (5, 2, 2, 1)
    early = output_rates(VIDEOS, low=0, high=8)
    assert (early["successes"], early["called"]) == (0, 0)
    assert early["precision"]["mean"] is None
    assert early["false_positive_rate"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "episodes": 4}


def test_the_card_has_all_groups_and_is_plain():
    card = calibrate(VIDEOS, ages=(8, 16))
    assert list(card["by_age"]) == ["1-8", "9-16", "17-24"]
    assert card["by_task"]["1"]["unjudged"] == 1
    assert card["by_policy"]["expert"]["recall"]["mean"] == 0.5
    assert card["reliability"] is None
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert calibrate([])["episodes"]["precision"]["mean"] is None


def test_reliability_of_a_judge_that_is_right_and_of_one_that_is_not():
    rng = np.random.default_rng(0)
    likely = rng.random((400, 5))
    honest = [scored_video(p > 0.5, rng.random(5) < p, probability=p) for p in likely]
    found = reliability(honest)
    assert len(found["bins"]) == 10
    assert found["error"] < 0.04
    for place in found["bins"]:
        assert place["low"] <= place["probability"] <= place["high"]
        assert abs(place["rate"]["mean"] - place["probability"]) < 0.12
    boastful = [scored_video([1], [0], probability=[0.95]), scored_video([1], [1], probability=[0.95])]
    assert reliability(boastful)["error"] == pytest.approx(0.45)
    certain = reliability([scored_video([1, 0], [1, 0], probability=[1.0, 0.0])])
    assert [place["count"] for place in certain["bins"]] == [1, 1]


def test_ratio_covers_what_it_estimates():
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(100):
        whole = rng.integers(1, 6, size=60).astype(float)
        part = rng.binomial(whole.astype(int), 0.7).astype(float)
        found = ratio(part, whole, seed=trial)
        inside += found.low <= 0.7 <= found.high
    assert inside >= 88


def frames_of(successes: list[int]) -> LabelledVideo:
    rng = np.random.default_rng(len(successes))
    frames = rng.integers(256, size=(len(successes), 4, 4, 3), dtype=np.uint8)
    return LabelledVideo(frames, np.array(successes, bool), "x", task=len(successes), policy="p")


def test_an_oracle_is_perfect_and_sees_what_the_env_would_show():
    videos = [frames_of([0] * 9 + [1] * 8), frames_of([0] * 20), frames_of([0] * 3)]
    truth = {
        frame.tobytes(): float(done)
        for video in videos
        for frame, done in zip(video.frames, video.success, strict=True)
    }
    oracle = FunctionReward(lambda video, text: truth[video[-1].numpy().tobytes()])
    card = calibrate(score_videos(oracle, videos, 4))
    assert card["episodes"]["precision"]["mean"] == card["episodes"]["recall"]["mean"] == 1.0
    assert card["episodes"]["unjudged"] == 1  # shorter than a chunk
    assert card["verdicts"]["count"] == 4 + 4
    assert card["verdicts"]["successes"] == 2


def test_a_judge_at_the_end_is_asked_once_about_what_it_wants():
    seen = []

    def look(video, text):
        seen.append((len(video), text))
        return 1.0

    videos = [frames_of([0] * 18), frames_of([0] * 16 + [1])]
    reward_model = FunctionReward(look, when="end", stride=5, max_frames=3)
    found = score_videos(reward_model, videos, 8)
    assert seen == [(3, "x"), (3, "x")]
    assert [v.age.tolist() for v in found] == [[16], [16]]
    assert [v.truth.tolist() for v in found] == [[False], [True]]


def test_probabilities_of_unjudged_rows_do_not_count():
    class Unsure:
        when, stride, max_frames = "chunk", 1, 1

        def score(self, videos, instructions):
            count = len(videos)
            return RewardOutput(
                torch.zeros(count), torch.zeros(count, dtype=torch.bool), probability=torch.full((count,), 0.9)
            )

    (found,) = score_videos(Unsure(), [frames_of([0] * 9)], 4)
    assert np.isnan(found.probability).all()


def test_labels_must_fit():
    with pytest.raises(ValueError, match="9 frames, 8 labels"):
        LabelledVideo(np.zeros((9, 4, 4, 3), np.uint8), np.zeros(8, bool), "x")
