"""The real simulator in the trainer's hands: the same interface as the dream."""

from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophet_gym.errors import InvalidStartError
from prophet_gym.sims import _recorder as recorder
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator
from prophrl_algos._named import make_env
from prophrl_algos.cli import _record as record
from prophrl_algos.cli._options import Load
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSpec
from prophrl_algos.rollout import Grouping, GroupPlan, begin_from_starts, collect
from prophrl_algos.trainer import Trainer, TrainerConfig

pytestmark = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]
SHORT = {"max_episode_steps": 2, "chunk": 2, "size": 64}
SPEC = FlowSpec(horizon=2, latent_dim=7, action_dim=7, exec_steps=2, num_steps=3)


def trainer(env):
    policy = TinyFlowPolicy(SPEC, hidden=16)
    config = TrainerConfig(groups=1, group_size=2, beta=0.0)
    return Trainer(policy, torch.optim.AdamW(policy.parameters()), env, config, grouping=Grouping(begin_from_starts))


def test_a_group_of_the_real_simulator_shares_its_placement_and_is_learnt_from():
    env = make_env("LIBERO-Object-v0", 2, starts="train", tasks=[3], options=SHORT)
    made = trainer(env)
    rollouts = collect(made.policy, env, made.schedule(), GroupPlan(1, 2, Grouping(begin_from_starts)), seed=7)
    first = rollouts.obs["image"][:2]
    assert torch.equal(first[0], first[1])
    later = rollouts.obs["image"][2:]
    assert not torch.equal(later[0], later[1])
    assert rollouts.frames == 2 * 2 * 2
    assert rollouts.scored.all()
    rollouts.returns[0] = 1.0
    assert made.update(rollouts)["optimizer_steps"] == 1
    env.close()


def test_official_states_are_refused_by_the_trainer_and_run_in_evaluation():
    env = make_env("LIBERO-Object-v0", 2, starts="official", tasks=[3], options=SHORT)
    with pytest.raises(InvalidStartError, match="nothing is trained from the official starts"):
        trainer(env)
    found = evaluate(TinyFlowPolicy(SPEC, hidden=16), env, [{"task": 3, "start": start} for start in (0, 7)])
    assert [int(np.asarray(e.start["start"])) for e in found.episodes] == [0, 7]
    assert [e.chunks for e in found.episodes] == [2, 2]
    env.close()


def test_a_policy_is_recorded_as_scripts_are(monkeypatch):
    monkeypatch.setattr(recorder, "MAX_STEPS", 20)
    sim = LiberoSimulator("libero_object", 3)
    actor = partial(record.act, "benchmarks.toys:tiny", None, Load(), 0.5)
    episode, views = recorder.record_views(sim, 4, 9, actor=actor)
    again, _ = recorder.record_views(sim, 4, 9, actor=actor, cameras=())
    other, _ = recorder.record_views(sim, 5, 9, actor=actor, cameras=())
    scripted, _ = recorder.record_views(sim, 4, 9, "expert", cameras=())
    sim.close()
    assert (episode.sim.mode, len(episode), len(views["agentview"])) == ("policy", 20, 21)
    np.testing.assert_array_equal(episode.actions, again.actions)
    np.testing.assert_array_equal(episode.sim.init_state, scripted.sim.init_state)
    assert not np.array_equal(episode.actions, other.actions)
    assert not np.array_equal(episode.actions, scripted.actions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "episodes must be an integer of at least 1, got 0"),
        ({"workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"noise_level": -1.0}, "noise_level must be a finite number of at least 0, got -1.0"),
    ],
)
def test_nothing_to_record_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        record.main(record.Args(out=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
