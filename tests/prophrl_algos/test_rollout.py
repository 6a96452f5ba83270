"""Groups of rollouts on the counting dream, where starts, lengths and costs are known."""

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper

from benchmarks.toys import BanditVectorEnv
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState
from prophrl_algos.flow import FlowSchedule, rescore
from prophrl_algos.rollout import Grouping, GroupPlan, begin_from_starts, collect

SCHEDULE = FlowSchedule(3, 0.5)


def gather(policy, env, groups=2, group_size=4, seed=5, **kwargs):
    return collect(policy, env, SCHEDULE, GroupPlan(groups, group_size, Grouping(**kwargs)), seed=seed)


class Recording(VectorWrapper):
    """Writes down what a vector env was asked and what it said."""

    def __init__(self, env):
        super().__init__(env)
        self.resets, self.live, self.infos, self.actions = [], [], [], []

    def reset(self, **kwargs):
        result = self.env.reset(**kwargs)
        self.resets.append(kwargs)
        self.infos.append(result[1])
        return result

    def step(self, actions):
        result = self.env.step(actions)
        self.actions.append(actions)
        self.live.append(result[4]["live"].copy())
        return result


@pytest.mark.parametrize("by_starts", [False, True])
def test_rows_of_a_group_share_their_start_and_nothing_else(dream, tiny, by_starts):
    env = Recording(dream())
    kwargs = {"begin": begin_from_starts} if by_starts else {}
    found = gather(tiny(), env, **kwargs)
    info = env.infos[0]
    for first in (0, 4):
        places = {(info["task"][row], info["start"][row]) for row in range(first, first + 4)}
        assert len(places) == 1
    assert found.groups.tolist() == [0] * 4 + [1] * 4
    first = found.path.latents[:8, 0]
    assert len({tuple(row.flatten().tolist()) for row in first}) == 8
    seeds = env.resets[0]["seed"]
    assert len(set(seeds)) == (8 if by_starts else 2)


def test_what_is_stored_is_what_was_seen_and_done(dream, tiny, reward_model):
    env, policy = Recording(dream(reward_model=reward_model(level=200))), tiny()
    found = gather(policy, env)
    assert found.trajectory.tolist() == list(range(8)) * 3
    assert found.mask.all()
    assert found.frames == 8 * 3 * 2
    for step in range(3):
        rows = slice(8 * step, 8 * step + 8)
        expected = policy.decode(found.path.x0[rows], found.obs).clamp(-1, 1).numpy()
        np.testing.assert_array_equal(env.actions[step], expected)
    assert found.obs["image"].dtype == torch.uint8
    again = rescore(policy, found.obs, found.path, grad=False)
    assert (again.log_prob - found.path.log_prob).abs().max() < 1e-4


def test_ended_rows_cost_nothing_and_store_nothing(dream, tiny, reward_model):
    env = dream(reward_model=reward_model(level=0), max_episode_steps=6)
    found = gather(tiny(), env)
    lengths = torch.bincount(found.trajectory, minlength=8)
    assert lengths.min() < 6
    # The success of a row at its first greener frame ends it; the model dreams live rows only.
    assert sum(env.world_model.batch_sizes) == int(lengths.sum())
    assert torch.equal(found.success, found.returns >= 1)
    assert found.scored.all()


def test_a_later_success_is_worth_less_with_a_discount(dream, tiny, reward_model):
    found = gather(tiny(), dream(reward_model=reward_model(level=0), max_episode_steps=6), discount=0.5)
    lengths = torch.bincount(found.trajectory, minlength=8)
    assert len(set(lengths.tolist())) > 1
    assert torch.equal(found.returns, 0.5 ** (lengths - 1.0) * found.success)


def test_a_row_without_a_verdict_at_its_end_is_not_valid(dream, tiny, reward_model):
    found = gather(tiny(), dream(reward_model=reward_model(scored=False)))
    assert not found.scored.any()
    assert (found.returns == 0).all()


def test_the_same_seed_gives_the_same_rollouts_and_another_others(dream, tiny):
    policy = tiny()
    one, two, other = (gather(policy, dream(), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.path.latents, two.path.latents)
    assert not torch.equal(one.path.latents[:8], other.path.latents[:8])


def test_more_groups_than_places_follow_one_another_and_equal_all_at_once(dream, tiny):
    policy = tiny()
    wide, narrow = gather(policy, dream(16), groups=4), gather(policy, dream(8), groups=4)
    assert torch.equal(wide.groups, narrow.groups)
    assert wide.returns.tolist() == narrow.returns.tolist()
    for rollout in range(16):
        here, there = (r.path.latents[r.trajectory == rollout] for r in (wide, narrow))
        torch.testing.assert_close(here, there)


def test_a_place_is_refilled_while_the_other_goes_on(dream, tiny):
    class Uneven(type(dream())):
        """The first four rows end after one chunk."""

        def _at_horizon(self, row):
            return self._rows[row].elapsed >= (1 if row < 4 else 4)

    plain = dream(max_episode_steps=4)
    env = Recording(Uneven(plain.world_model, plain.starts, 8, max_episode_steps=4, autoreset_mode="Disabled"))
    found = gather(tiny(), env, groups=3)
    assert [int(mask.sum()) for mask in env.live] == [8, 8, 4, 4]
    assert env.resets[1]["options"]["reset_mask"].tolist() == [True] * 4 + [False] * 4
    assert found.started == 3
    assert torch.bincount(found.trajectory).tolist() == [1] * 4 + [4] * 4 + [1] * 4


class TestFiltering:
    def test_groups_that_teach_nothing_are_resampled(self, tiny):
        env = BanditVectorEnv(8, target=(0.0, 0.0), width=0.9, chunk=2)
        found = gather(tiny(), env, groups=3, seed=6, keep=(0.1, 0.9))
        share = found.success.float().view(3, 4).mean(1)
        assert ((share >= 0.1) & (share <= 0.9)).all()
        assert 3 < found.started <= 6
        assert found.frames == found.started * 4 * 2

    def test_twice_as_many_end_it_and_the_last_groups_are_kept_as_they_come(self, tiny):
        found = gather(tiny(), BanditVectorEnv(8, chunk=2, target=(9.0, 9.0)), keep=(0.5, 0.9))
        assert found.started == 4
        assert len(found.returns) == 8

    @pytest.mark.parametrize("bounds", [(0.9, 0.1), (-0.1, 0.5), (0.5, float("nan"))])
    def test_bounds_that_keep_nothing_are_refused(self, bounds):
        with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
            Grouping(keep=bounds)


class TestRefusals:
    @pytest.mark.parametrize(
        ("env", "kwargs", "message"),
        [
            ({"num_envs": 6}, {}, "num_envs=6 must be a multiple of group_size=4"),
            ({"num_envs": 16}, {}, "leave some of num_envs=16 unused"),
            ({}, {"group_size": 1}, "a group needs at least 2 rollouts"),
            ({"autoreset_mode": "NextStep"}, {}, "must not reset by itself"),
            ({"max_episode_steps": None}, {}, "episodes must end"),
        ],
    )
    def test_an_env_that_does_not_fit_is_refused_before_anything_is_dreamt(self, dream, tiny, env, kwargs, message):
        made = dream(**env)
        with pytest.raises(ValueError, match=message):
            gather(tiny(), made, **kwargs)
        assert made.world_model.batch_sizes == []

    def test_a_policy_that_decodes_to_other_commands_is_refused_before_anything_is_dreamt(self, dream, tiny):
        env = dream()
        with pytest.raises(
            ValueError, match=r"decodes to chunks \(actions, dimensions\) of \(2, 1\), the env takes \(2, 2\)"
        ):
            gather(tiny(action_dim=1), env)
        assert env.world_model.batch_sizes == []

    def test_official_starts_are_refused_even_behind_a_wrapper(self, dream, tiny):
        frames = np.zeros((1, 8, 8, 3), np.uint8)
        env = dream(starts=[InitialState(frames, "lift", split="official")])
        with pytest.raises(InvalidStartError, match="nothing is trained from the official starts"):
            gather(tiny(), Recording(env))
        assert env.world_model.batch_sizes == []

    def test_a_group_of_different_instructions_is_refused(self, dream, tiny):
        def mixed(env, *_):
            return env.reset(options={"task": np.arange(env.num_envs) % 2, "start": 0})

        with pytest.raises(InvalidStartError, match="rollouts of a group must share their initial state"):
            gather(tiny(), dream(), begin=mixed)
