"""Evaluation: episodes are run once each, intervals are Wilson's, official starts are welcome."""

import math

import numpy as np
import pytest
import torch

from prophet_gym.errors import InvalidStartError, UnknownOptionError
from prophet_gym.estimates import wilson
from prophet_gym.evaluation._playing import Played
from prophet_gym.specs import InitialState
from prophrl_algos._named import make_env
from prophrl_algos.acting import flow
from prophrl_algos.evaluate import EpisodeResult, Evaluation, evaluate
from prophrl_algos.flow import FlowSchedule


def result(success, scored=True, instruction="lift"):
    return EpisodeResult(success, float(success), scored, 1, {"instruction": instruction})


def test_unjudged_episodes_are_no_failures():
    found = Evaluation((result(True), result(False, scored=False), result(True), result(False)))
    assert found.success == pytest.approx(2 / 3)
    assert found.interval == wilson(2, 3).interval
    nothing = Evaluation((result(False, scored=False),))
    assert math.isnan(nothing.success)
    assert nothing.interval == (0.0, 1.0)


def test_tasks_apart():
    found = Evaluation((result(True), result(False, instruction="push"), result(True))).per_task()
    assert {name: (each.success, len(each.episodes)) for name, each in found.items()} == {
        "lift": (1.0, 2),
        "push": (0.0, 1),
    }


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_every_episode_is_run_once_whatever_the_number_of_rows(dream, tiny, reward_model, num_envs):
    episodes = [{"task": task, "start": start} for task in (0, 1) for start in (0, 2)] + [{"task": 1, "start": 1}]
    env = dream(num_envs, reward_model=reward_model(level=200))
    found = evaluate(tiny(), env, episodes)
    asked = [(each["task"], each["start"]) for each in episodes]
    assert [(e.start["task"], e.start["start"]) for e in found.episodes] == asked
    assert [e.chunks for e in found.episodes] == [3] * 5
    # Five episodes of three chunks; only rows that a first reset must begin may rest beside them.
    assert sum(env.world_model.batch_sizes) == 15


def test_results_do_not_depend_on_the_number_of_rows(dream, tiny, reward_model):
    policy, table = tiny(), []
    for num_envs in (1, 3):
        found = evaluate(policy, dream(num_envs, reward_model=reward_model(level=20)), 6, seed=4)
        table.append([(e.success, e.returns, e.chunks, e.start["start"]) for e in found.episodes])
    assert table[0] == table[1]


def test_official_starts_are_what_it_is_for(dream, tiny):
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    env = dream(2, starts=[InitialState(frames, "lift", split="official")])
    found = evaluate(tiny(), env, 2)
    assert {e.start["split"] for e in found.episodes} == {"official"}


def test_another_schedule_may_be_evaluated(dream, tiny, reward_model):
    policy = tiny()
    quiet = evaluate(policy, dream(4, reward_model=reward_model(level=20)), 8).metrics()
    noisy = evaluate(policy, dream(4, reward_model=reward_model(level=20)), 8, schedule=FlowSchedule(3, 0.7)).metrics()
    assert quiet != noisy


@pytest.mark.parametrize("episodes", [[], [{"task": 0}, {"start": 1}]])
def test_bad_episodes_are_refused(dream, tiny, episodes):
    with pytest.raises(ValueError, match="at least one episode, and all must have the same reset options"):
        evaluate(tiny(), dream(1), episodes)


def test_an_env_that_resets_itself_is_refused(dream, tiny):
    with pytest.raises(ValueError, match="must not reset by itself"):
        evaluate(tiny(), dream(1, autoreset_mode="NextStep"), 1)


def test_no_weights_change(dream, tiny):
    policy = tiny()
    before = [weight.clone() for weight in policy.parameters()]
    evaluate(policy, dream(2), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_everything_is_checked_before_anything_is_run(dream, tiny):
    env = dream(2)
    # The last episode, of another wave, is past the end of its task's starts.
    episodes = [{"task": 0, "start": start} for start in range(3)] + [{"task": 0, "start": 1000}]
    with pytest.raises(
        InvalidStartError, match=r"options\['start'\] must be in 0\.\.\d+, the initial states of task 0, got 1000"
    ):
        evaluate(tiny(), env, episodes)
    assert env.world_model.batch_sizes == []
    with pytest.raises(UnknownOptionError, match="unknown task 7"):
        evaluate(tiny(), env, [{"task": 0, "start": 0}] * 2 + [{"task": 7, "start": 0}])
    assert env.world_model.batch_sizes == []


def test_a_flow_policy_acts_alike_beside_others_and_alone():
    env = make_env("Prophet-LIBERO-v0", 1, starts="train")
    act = flow(env, "small-k4", noise_level="0.5")
    images = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)

    def episodes(*seeds):
        return [Played({"instruction": "pick up the milk"}, np.random.default_rng(seed)) for seed in seeds]

    together = act({"image": images}, episodes(1, 2))
    assert together.shape == (2, 8, 7)
    assert np.allclose(act({"image": images[1:]}, episodes(2)), together[1:], atol=1e-4)
    assert not np.allclose(act({"image": images[1:]}, episodes(3)), together[1:], atol=1e-2)


def test_a_table_has_the_mean_return_where_rewards_say_more_than_success():
    from prophrl_algos.cli._evaluate import _rates

    def table(returns):
        results = [
            EpisodeResult(success=False, returns=each, scored=True, start={"instruction": "lift"}) for each in returns
        ]
        return _rates(Evaluation(tuple(results)))

    assert "mean return 0.75  lift" in table([0.5, 1.0])
    assert "return" not in table([0.0, 0.0])
    assert len(table([0.0, 0.0]).splitlines()) == 1  # one task is not told twice


def test_the_smallest_evaluation_says_what_it_shows():
    from prophrl_algos.cli._evaluate import Args, _worked

    episode = EpisodeResult(scored=True, chunks=30, start={"instruction": "lift"})
    said = _worked(Args(policy="small-k4"), Evaluation((episode,)))
    assert said.startswith("the installation works: small-k4 acted in a dream of 30 chunks")
    assert "one episode says nothing of the policy" in said
    assert "%" not in said
