"""The trainer: microbatches, precision, references, metrics, refusals, and learning the bandit."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophet_gym.errors import CheckpointError, InvalidStartError
from prophet_gym.specs import InitialState
from prophrl_algos.algorithms import (
    ALGORITHMS,
    FA_GRPO,
    FA_GRPO_CPS,
    FLOW_GRPO,
    REINFLOW,
    FlowScale,
    leave_one_out_advantages,
    per_trajectory,
)
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSchedule, FlowSpec, sample
from prophrl_algos.rollout import Grouping, GroupPlan, collect
from prophrl_algos.rollout._groups import random_number
from prophrl_algos.trainer import Batch, Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=4)
SMALL = TrainerConfig(updates=3, groups=2, group_size=4, beta=0.0)


def make(config=SMALL, *, policy=None, algorithm=FA_GRPO, env=None, rate=1e-3, **kwargs):
    policy = policy or TinyFlowPolicy(SPEC, hidden=16)
    kernel = algorithm.kernel.parameters() if isinstance(algorithm.kernel, torch.nn.Module) else []
    optimizer = torch.optim.AdamW([*policy.parameters(), *kernel], lr=rate, betas=(0.9, 0.95))
    env = env or BanditVectorEnv(config.groups * config.group_size)
    return Trainer(policy, optimizer, env, config, algorithm=algorithm, **kwargs)


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.policy.parameters()])


class Untouched(BanditVectorEnv):
    """An env that nobody may begin."""

    def reset(self, **kwargs):
        raise AssertionError("something was generated")


LEAVE_ONE_OUT = replace(FA_GRPO, name="fa-grpo-loo", advantages=leave_one_out_advantages)
EVEN = replace(FLOW_GRPO, name="flow-grpo-even", loss_weights=per_trajectory)
EVERY = [*(algorithm.sized(SPEC) for algorithm in ALGORITHMS.values()), LEAVE_ONE_OUT, EVEN]


class TestUpdate:
    @pytest.mark.parametrize("algorithm", EVERY, ids=lambda algorithm: algorithm.name)
    def test_every_algorithm_starts_at_ratio_one_and_changes_the_policy(self, algorithm):
        trainer = make(replace(SMALL, microbatch=3), algorithm=algorithm, flowscale=FlowScale())
        before = weights(trainer)
        metrics = trainer.iterate()
        assert metrics["ratio_min"] == pytest.approx(1, abs=1e-4)
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)
        assert metrics["optimizer_steps"] == 1
        assert not torch.equal(before, weights(trainer))
        assert all(np.isfinite(value) for value in metrics.values())

    def test_microbatches_change_nothing_but_memory(self):
        found = []
        for microbatch in (64, 3):
            trainer = make(replace(SMALL, microbatch=microbatch, epochs=2))
            metrics = trainer.iterate()
            found.append((weights(trainer), metrics["loss"], metrics["gradient_norm"]))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
        assert found[0][1:] == pytest.approx(found[1][1:], abs=1e-5)

    def test_four_steps_are_four_and_move_the_ratio(self):
        metrics = make(replace(SMALL, epochs=2, minibatches=2), rate=1e-2).iterate()
        assert metrics["optimizer_steps"] == 4
        assert metrics["ratio_max"] > 1.01

    def test_one_step_of_fa_grpo_and_flow_grpo_is_the_same(self):
        config, moved = replace(SMALL, max_grad_norm=1e9), []
        for algorithm, rate in ((FA_GRPO, 0.1), (FLOW_GRPO, 0.1 * SPEC.num_steps)):
            policy = TinyFlowPolicy(SPEC, hidden=16)
            optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
            trainer = Trainer(policy, optimizer, BanditVectorEnv(8), config, algorithm=algorithm)
            before = weights(trainer)
            trainer.iterate()
            moved.append(weights(trainer) - before)
        assert moved[0].norm() > 1e-3
        torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-4)

    def test_leave_one_out_is_another_scale_of_the_gradient_in_one_group(self):
        moved = []
        for algorithm in (FA_GRPO, LEAVE_ONE_OUT):
            policy = TinyFlowPolicy(SPEC, hidden=16)
            optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
            config = replace(SMALL, groups=1, max_grad_norm=1e9)
            trainer = Trainer(policy, optimizer, BanditVectorEnv(4), config, algorithm=algorithm)
            before = weights(trainer)
            seed = random_number(0, 10, 0)
            returns = collect(policy, trainer.env, trainer.schedule(), GroupPlan(1, 4), seed=seed).returns
            trainer.iterate()
            moved.append(weights(trainer) - before)
        # (R - mean of the others) / ((R - mean) / std) = std n / (n - 1)
        torch.testing.assert_close(moved[1], moved[0] * returns.std() * 4 / 3, atol=1e-7, rtol=1e-3)

    def test_per_trajectory_advantages_of_a_group_cancel_however_long_its_rollouts_are(self, dream, tiny, reward_model):
        losses = {}
        for algorithm in (FA_GRPO, replace(FA_GRPO, name="even", loss_weights=per_trajectory)):
            for microbatch in (64, 3):
                env = dream(reward_model=reward_model(level=50), max_episode_steps=6)
                trainer = make(replace(SMALL, microbatch=microbatch), policy=tiny(), env=env, algorithm=algorithm)
                losses[algorithm.name, microbatch] = trainer.iterate()["loss"]
        assert abs(losses["even", 64]) < 1e-5
        assert abs(losses["fa-grpo", 64]) > 1e-3
        for name in ("even", "fa-grpo"):
            assert losses[name, 3] == pytest.approx(losses[name, 64], abs=1e-5)

    def test_groups_of_equal_return_take_no_step(self):
        trainer = make(env=BanditVectorEnv(8, width=1e9))
        before = weights(trainer)
        metrics = trainer.iterate()
        assert metrics["optimizer_steps"] == metrics["useful_rollouts"] == metrics["useful_frames"] == 0
        assert torch.equal(before, weights(trainer))
        assert trainer.done == 1

    def test_unjudged_rollouts_take_no_part(self, dream, tiny, reward_model):
        trainer = make(policy=tiny(), env=dream(reward_model=reward_model(scored=False)))
        assert trainer.iterate()["optimizer_steps"] == 0

    def test_flowscale_shows_in_the_gradient_of_every_step_and_not_in_the_loss(self):
        plain, scaled = make().iterate(), make(flowscale=FlowScale()).iterate()
        assert plain["loss"] == scaled["loss"]
        for step in range(4):
            name = f"{step:02d}"
            ratio = scaled[f"flow_gradient/{name}"] / plain[f"flow_gradient/{name}"]
            assert ratio == pytest.approx(scaled[f"flowscale/{name}"], rel=1e-5)
        assert plain["flowscale/00"] == 1

    def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(self):
        trainer = make()
        schedule = trainer.schedule()
        rollouts = collect(trainer.policy, trainer.env, schedule, GroupPlan(2, 4), seed=0)
        rollouts.path.latents[:, 1] = torch.nan
        before = weights(trainer)
        with pytest.raises(FloatingPointError, match="has norm nan"):
            trainer.update(rollouts)
        assert torch.equal(before, weights(trainer))


def decisions(policy, rows=5):
    """A batch by hand: paths that the policy sampled, advantages of both signs, some actions masked."""
    images = np.random.default_rng(0).integers(256, size=(rows, 4, 4, 3), dtype=np.uint8)
    obs = policy.prepare({"image": images}, ["lift"] * rows)
    path = sample(
        policy,
        obs,
        FlowSchedule(policy.spec.num_steps),
        [torch.Generator().manual_seed(r) for r in range(rows)],
    )
    mask = torch.ones(rows, policy.spec.exec_steps, dtype=torch.bool)
    mask[1, 1] = mask[3] = False
    return Batch(obs, path, mask, torch.linspace(-1, 1.5, rows), torch.ones(rows), torch.ones(policy.spec.num_steps))


class TestLoss:
    def gradient(self, trainer, value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(trainer.policy.parameters()))])

    def test_on_policy_its_gradient_is_reinforce(self, dream, tiny):
        """-sum M A log N(x'; mean, std) / count, with Flow-GRPO's step written out (reference.md 3 and 4)."""
        policy = tiny()
        trainer, batch = make(policy=policy, env=dream()), decisions(policy)
        total, times = torch.zeros(()), torch.linspace(1, 0, policy.spec.num_steps + 1)
        for row in range(len(batch.path)):
            obs = {name: tensor[row : row + 1] for name, tensor in batch.obs.items()}
            for k, t in enumerate(times[:-1].tolist()):
                x, after, dt = batch.path.latents[row, k], batch.path.latents[row, k + 1], 1 / policy.spec.num_steps
                v = policy.velocity(policy.encode(obs, grad=True), x[None], torch.tensor([t]))[0]
                g = 0.5 * (t / (1 - (times[1].item() if t == 1 else t))) ** 0.5
                mean = x * (1 - g**2 * dt / (2 * t)) - v * (1 + g**2 * (1 - t) / (2 * t)) * dt
                logp = torch.distributions.Normal(mean, g * dt**0.5).log_prob(after)[:2, :2]
                total = total - (batch.mask[row, :, None] * logp).sum() * batch.advantages[row]
        reinforce = self.gradient(trainer, total / (batch.mask.sum() * 2))
        found = self.gradient(trainer, trainer.loss(batch).loss)
        assert reinforce.norm() > 0.1
        torch.testing.assert_close(found, reinforce, rtol=1e-3, atol=1e-5)

    def test_nan_in_masked_entries_of_the_reference_never_leaks(self, dream, tiny):
        policy = tiny()
        trainer = make(replace(SMALL, beta=1.0), policy=policy, env=dream())
        batch = decisions(policy)
        mean = batch.path.scores.mean + 0.1
        hidden = ~batch.mask[:, None, :, None].expand_as(mean)
        found = []
        for fill in (0.0, torch.nan):
            reference = replace(batch.path.scores, mean=torch.where(hidden, fill, mean))
            terms = trainer.loss(replace(batch, reference=reference))
            found.append((terms.loss.item(), self.gradient(trainer, terms.loss)))
            assert terms.kl_sum > 0
        assert found[0][0] == found[1][0]
        assert torch.equal(found[0][1], found[1][1])

    def test_the_kl_is_weighted_as_the_rest(self, dream, tiny):
        policy = tiny()
        trainer = make(replace(SMALL, beta=1.0), policy=policy, env=dream())
        batch = replace(decisions(policy), advantages=torch.zeros(5))
        moved = replace(batch.path.scores, mean=batch.path.scores.mean + torch.arange(5.0)[:, None, None, None])
        only = replace(batch, reference=moved, loss_weights=(torch.arange(5) == 2).float())
        alone = batch.select(torch.tensor([2]), torch.device("cpu"))
        alone = replace(alone, reference=moved.select(torch.tensor([2])))
        assert trainer.loss(only).loss.item() == pytest.approx(trainer.loss(alone).loss.item(), rel=1e-4)


class TestPrecision:
    def test_in_bfloat16_the_first_ratio_is_exactly_one_in_the_updates_own_batches(self):
        config = replace(SMALL, groups=4, microbatch=3, minibatches=2)
        metrics = make(config, autocast=torch.bfloat16, rate=0.0).iterate()
        assert metrics["ratio_min"] == metrics["ratio_max"] == 1
        assert metrics["old_log_prob_drift"] >= 0

    def test_float32_needs_no_second_scoring(self):
        class Counting(TinyFlowPolicy):
            calls = 0

            def velocity(self, ctx, x, t):
                Counting.calls += 1
                return super().velocity(ctx, x, t)

        make(policy=Counting(SPEC, hidden=16)).iterate()
        assert Counting.calls == 4 + 1


class TestReference:
    def test_kl_starts_at_zero_and_holds_the_policy_back(self):
        drifted = []
        for beta in (1e-9, 30.0):
            policy = TinyFlowPolicy(SPEC, hidden=16)
            trainer = make(replace(SMALL, beta=beta, epochs=6), policy=policy, rate=1e-2)
            first = make(replace(SMALL, beta=beta), policy=copy.deepcopy(policy)).iterate()
            assert first["kl"] == pytest.approx(0, abs=1e-9)
            for _ in range(3):
                last = trainer.iterate()
            drifted.append(last["kl"])
        assert drifted[1] < 0.3 * drifted[0]

    def test_it_is_the_policy_that_learning_begins_with_also_after_a_resume(self):
        own = make(replace(SMALL, beta=0.1), rate=0.1)
        assert own.iterate()["kl"] == 0
        assert own.iterate()["kl"] > 1e-3
        # The weights that a resumed run is made with need not be those that it began with.
        other = TinyFlowPolicy(SPEC, hidden=16, seed=5)
        resumed = make(replace(SMALL, beta=0.1), policy=other, rate=0.1)
        resumed.load_state_dict(own.state_dict())
        assert resumed.iterate()["kl"] == own.iterate()["kl"]

    def test_that_of_another_policy_is_refused(self):
        kept = make(replace(SMALL, beta=0.1)).state_dict()["reference"]
        reference = make(replace(SMALL, beta=0.1)).reference
        with pytest.raises(CheckpointError, match=r"of another policy: into\.weight differ"):
            reference.load_state_dict({name: value for name, value in kept.items() if name != "into.weight"})


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"clip_low": 0.0}, "clip_low must be in"),
            ({"clip_high": -0.1}, "clip_high above 0"),
            ({"updates": 0}, "updates must be an integer of at least 1"),
            ({"microbatch": 0}, "microbatch must be an integer of at least 1"),
            ({"beta": -1.0}, "beta must be a finite number of at least 0"),
            ({"beta": float("nan")}, "beta must be a finite number of at least 0"),
            ({"noise_level": float("nan")}, "noise_level must be a finite number of at least 0"),
            ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
            ({"max_grad_norm": 0}, "max_grad_norm must be above 0"),
            ({"max_grad_norm": float("nan")}, "max_grad_norm must be above 0"),
        ],
    )
    def test_settings(self, change, message):
        with pytest.raises(ValueError, match=message):
            TrainerConfig(**change)

    @pytest.mark.parametrize("discount", [0, 1.1, float("nan")])
    def test_a_discount_that_grows(self, discount):
        with pytest.raises(ValueError, match=f"discount must be above 0 and at most 1, got {discount}"):
            Grouping(discount=discount)

    def test_there_are_at_most_twelve_settings(self):
        assert len(TrainerConfig.__dataclass_fields__) <= 12

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"config": replace(SMALL, noise_level=0)}, "noise_level must be above 0 for fa-grpo"),
            ({"algorithm": REINFLOW}, r"give the trainer algorithm\.sized\(policy\.spec\)"),
            ({"algorithm": FA_GRPO_CPS, "policy": TinyFlowPolicy(replace(SPEC, num_steps=1))}, "K=1: without noise"),
            ({"config": replace(SMALL, noise_level=1.5), "algorithm": FA_GRPO_CPS}, "noise_level must .* most 1"),
            ({"config": replace(SMALL, group_size=1)}, "a group needs at least 2 rollouts"),
            ({"env": Untouched(6)}, "num_envs=6 must be a multiple of group_size=4"),
            ({"env": Untouched(8, chunk=2)}, "horizon=1 is shorter than the env's chunk of 2"),
        ],
    )
    def test_what_does_not_fit_is_refused_before_anything_is_generated(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            make(**{"env": Untouched(8)} | kwargs)

    def test_a_policy_that_executes_other_chunks(self):
        policy = TinyFlowPolicy(replace(SPEC, horizon=3, exec_steps=3))
        with pytest.raises(ValueError, match="executes exec_steps=3 actions, the env's chunk has 1"):
            make(policy=policy)

    def test_official_starts(self, dream, tiny):
        frames = np.zeros((1, 8, 8, 3), np.uint8)
        env = dream(starts=[InitialState(frames, "lift", split="official")])
        with pytest.raises(InvalidStartError, match="official"):
            make(policy=tiny(), env=env)

    def test_an_optimizer_of_something_else(self):
        policy = TinyFlowPolicy(SPEC)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        with pytest.raises(ValueError, match=r"make it from policy.parameters\(\)"):
            Trainer(policy, optimizer, BanditVectorEnv(8), SMALL)

    def test_learned_noise_that_nobody_trains(self):
        policy = TinyFlowPolicy(SPEC)
        with pytest.raises(ValueError, match="learns its noise"):
            Trainer(
                policy, torch.optim.SGD(policy.parameters()), BanditVectorEnv(8), SMALL, algorithm=REINFLOW.sized(SPEC)
            )


def test_dropout_is_off_in_rollout_and_update():
    class Dropping(TinyFlowPolicy):
        def velocity(self, ctx, x, t):
            return torch.nn.functional.dropout(super().velocity(ctx, x, t), 0.5, self.training)

    metrics = make(policy=Dropping(SPEC, hidden=16).train()).iterate()
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)


def test_it_trains_in_the_dream(dream, tiny, reward_model):
    """Much greener than red after one action: its first number has to rise above 0.5."""
    config = TrainerConfig(updates=10, groups=4, group_size=8, epochs=4, beta=0.0)
    env = dream(32, chunk=1, max_episode_steps=1, reward_model=reward_model(level=50))
    trainer = make(config, policy=tiny(exec_steps=1), env=env, rate=1e-2)
    successes = [trainer.iterate()["success"] for _ in range(10)]
    assert np.mean(successes[-2:]) > np.mean(successes[:2]) + 0.2


def test_fa_grpo_solves_the_bandit():
    config = TrainerConfig(groups=8, group_size=8, epochs=4, beta=0.0)
    trainer = make(config, policy=TinyFlowPolicy(SPEC), flowscale=FlowScale(), rate=3e-3)
    env = BanditVectorEnv(32)
    before = evaluate(trainer.policy, env, 64).metrics()["return"]
    for _ in range(16):
        trainer.iterate()
    after = evaluate(trainer.policy, env, 64).metrics()["return"]
    assert before < 0.6
    assert after > 0.9
