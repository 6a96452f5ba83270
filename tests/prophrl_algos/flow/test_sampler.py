"""Sampling a path and scoring it again: the same numbers, whatever the batch."""

import numpy as np
import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophrl_algos.algorithms._reinflow import LearnedNoise
from prophrl_algos.flow import (
    FlowPath,
    FlowSchedule,
    FlowSpec,
    TensorContext,
    cps_step,
    every_step,
    flow_sde_step,
    no_step,
    one_random_step,
    rescore,
    sample,
    step_stds,
)

SPEC = FlowSpec(horizon=3, latent_dim=4, action_dim=2, exec_steps=2, num_steps=5)


def make(rows=6, **kwargs):
    policy = TinyFlowPolicy(SPEC, **kwargs)
    images = np.random.default_rng(0).integers(256, size=(rows, 6, 6, 3), dtype=np.uint8)
    return policy, policy.prepare({"image": images}, [f"lift {row}" for row in range(rows)])


def seeds(rows):
    return [torch.Generator().manual_seed(100 + row) for row in rows]


def test_a_path_is_the_sde_by_hand():
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5), seeds(range(6)))
    noise = torch.stack([torch.randn(6, 3, 4, generator=g) for g in seeds(range(6))])
    x, times = noise[:, 0], torch.linspace(1, 0, 6)
    with torch.no_grad():
        for step in range(5):
            v = policy.velocity(policy.encode(obs, grad=False), x, times[step].expand(6))
            mean, std = flow_sde_step(x, v, times[step], times[step + 1], noise_level=0.5, t_clamp=times[1])
            x = mean + std * noise[:, step + 1]
            torch.testing.assert_close(path.latents[:, step + 1], x)
            expected = torch.distributions.Normal(mean, std).log_prob(x)[:, :2, :2]
            torch.testing.assert_close(path.log_prob[:, step], expected)
    assert torch.equal(path.x0, path.latents[:, -1])


def test_rescoring_in_the_shapes_of_sampling_gives_the_same_bits():
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5), seeds(range(6)))
    scores = rescore(policy, obs, path, steps_per_call=1)
    assert torch.equal(scores.log_prob, path.log_prob)
    assert scores.log_prob.requires_grad


@pytest.mark.parametrize("steps_per_call", [None, 2, 5])
@pytest.mark.parametrize("choose", [every_step, one_random_step])
def test_rescoring_in_any_other_batching_is_within_1e_4(steps_per_call, choose):
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5, choose=choose), seeds(range(6)))
    rows = torch.tensor([4, 1])
    few = {name: tensor[rows] for name, tensor in obs.items()}
    again = rescore(policy, few, path.select(rows), steps_per_call=steps_per_call, grad=False)
    assert (again.log_prob - path.log_prob[rows]).sum(1).abs().max() < 1e-4
    assert not again.log_prob.requires_grad


def test_a_row_does_not_depend_on_the_rows_around_it():
    policy, obs = make()
    schedule = FlowSchedule(5, 0.5)
    path = sample(policy, obs, schedule, seeds(range(6)))
    alone = sample(policy, {name: tensor[3:4] for name, tensor in obs.items()}, schedule, seeds([3]))
    torch.testing.assert_close(alone.latents[0], path.latents[3])
    assert not torch.allclose(path.latents[2], path.latents[3])


def test_global_randomness_is_left_alone():
    policy, obs = make()
    before = torch.get_rng_state()
    sample(policy, obs, FlowSchedule(5), seeds(range(6)))
    assert torch.equal(before, torch.get_rng_state())


def test_no_stochastic_step_is_euler():
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5, choose=no_step), seeds(range(6)))
    x = path.latents[:, 0]
    with torch.no_grad():
        for step in range(5):
            x = x - policy.velocity(policy.encode(obs, grad=False), x, torch.full((6,), 1 - step / 5)) / 5
    torch.testing.assert_close(path.x0, x)
    assert (path.log_prob == 0).all()
    silent = sample(policy, obs, FlowSchedule(5, 0.0), seeds(range(6)))
    torch.testing.assert_close(silent.x0, x)


def test_only_the_random_step_has_a_density_and_a_gradient():
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5, choose=one_random_step), seeds(range(6)))
    assert ((path.log_prob != 0).all((2, 3)) == path.stochastic).all()
    assert (step_stds(path.scores, path.stochastic) > 0).sum() == path.stochastic.any(0).sum()


def test_the_last_cps_step_has_no_density():
    policy, obs = make()
    path = sample(policy, obs, FlowSchedule(5, 0.5, kernel=cps_step), seeds(range(6)))
    assert (path.log_prob[:, -1] == 0).all()
    assert (path.log_prob[:, :-1] != 0).all()
    assert (rescore(policy, obs, path, steps_per_call=1).log_prob == path.log_prob).all()


def test_learned_noise_starts_between_its_bounds_and_learns():
    policy, obs = make()
    kernel = LearnedNoise(4, 0.1, 0.24)
    path = sample(policy, obs, FlowSchedule(5, kernel=kernel), seeds(range(6)))
    torch.testing.assert_close(path.scores.std, torch.full_like(path.scores.std, (0.1 * 0.24) ** 0.5))
    scores = rescore(policy, obs, path, steps_per_call=1)
    assert torch.equal(scores.log_prob, path.log_prob)
    scores.log_prob.sum().backward()
    assert kernel.network[2].weight.grad.abs().sum() > 0
    with torch.no_grad():
        kernel.network[2].weight.normal_(0, 100)
    wild = sample(policy, obs, FlowSchedule(5, kernel=kernel), seeds(range(6))).scores.std
    assert wild.min() >= 0.1 - 1e-6
    assert wild.max() <= 0.24 + 1e-6


def test_the_prefix_is_encoded_once():
    class Counting(TinyFlowPolicy):
        encodings = velocities = 0

        def encode(self, obs, *, grad):
            self.encodings += 1
            return super().encode(obs, grad=grad)

        def velocity(self, ctx, x, t):
            self.velocities += 1
            return super().velocity(ctx, x, t)

    policy = Counting(SPEC)
    obs = make()[1]
    path = sample(policy, obs, FlowSchedule(5), seeds(range(6)))
    assert (policy.encodings, policy.velocities) == (1, 5)
    rescore(policy, obs, path)
    assert (policy.encodings, policy.velocities) == (2, 6)


def test_paths_of_one_schedule_are_joined_and_of_two_refused():
    policy, obs = make()
    one, two = FlowSchedule(5), FlowSchedule(5, 0.3)
    here = sample(policy, obs, one, seeds(range(6)))
    joined = FlowPath.cat([here, here])
    assert torch.equal(joined.select(torch.arange(6, 12)).latents, here.latents)
    with pytest.raises(ValueError, match="different schedules"):
        FlowPath.cat([here, sample(policy, obs, two, seeds(range(6)))])


def test_a_context_of_tensors_is_a_context():
    context = TensorContext(a=torch.arange(3.0, requires_grad=True))
    assert context.repeat_interleave(2)["a"].tolist() == [0, 0, 1, 1, 2, 2]
    assert context.select(torch.tensor([2, 0]))["a"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"exec_steps": 9}, "exec_steps=9 must be at most horizon=3"),
        ({"action_dim": 5}, "action_dim=5 must be at most latent_dim=4"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    sizes = {"horizon": 3, "latent_dim": 4, "action_dim": 2, "exec_steps": 2, "num_steps": 5}
    with pytest.raises(ValueError, match=message):
        FlowSpec(**sizes | change)


def test_paths_may_begin_nearer_to_the_centre_of_the_noise():
    policy, obs = make()
    noisy, still = (
        sample(policy, obs, FlowSchedule(5, 0.0, choose=no_step, initial_noise=scale), seeds(range(6)))
        for scale in (1.0, 0.5)
    )
    torch.testing.assert_close(still.latents[:, 0], 0.5 * noisy.latents[:, 0])
    centre = sample(policy, obs, FlowSchedule(5, 0.0, choose=no_step, initial_noise=0), seeds(range(6)))
    again = sample(policy, obs, FlowSchedule(5, 0.0, choose=no_step, initial_noise=0), seeds(range(6, 12)))
    assert torch.equal(centre.x0, again.x0)
    with pytest.raises(ValueError, match="initial_noise must be at least 0, got -1"):
        FlowSchedule(4, initial_noise=-1)
