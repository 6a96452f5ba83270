"""Steps of the flow against golden numbers, closed forms and torch.distributions (reference.md section 3)."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.distributions import Normal, kl_divergence

from benchmarks.toys import TinyFlowPolicy
from prophrl_algos.flow import (
    FlowSchedule,
    FlowSpec,
    TensorContext,
    cps_step,
    every_step,
    flow_sde_step,
    one_random_step,
    sample,
)
from prophrl_algos.flow._sde import gaussian_entropy, gaussian_kl, gaussian_log_prob

DATA = Path(__file__).parents[2] / "data"


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", ["flow_sde_K4_a0.5", "flow_sde_K10_a0.7"])
def test_every_step_equals_the_original_implementation(name):
    with safe_open(DATA / f"{name}.safetensors", "pt") as golden:
        about = golden.metadata()
        sigmas, level = golden.get_tensor("sigmas"), float(about["noise_level"])
        for step in range(int(about["K"])):
            read = partial(part, golden, step)
            mean, std = flow_sde_step(
                read("sample"), read("velocity"), sigmas[step], sigmas[step + 1], noise_level=level, t_clamp=sigmas[1]
            )
            torch.testing.assert_close(mean, read("mean"), atol=1e-5, rtol=0)
            torch.testing.assert_close(std, read("step_std"), atol=1e-5, rtol=0)
            found = gaussian_log_prob(read("prev_sample"), mean, std)
            torch.testing.assert_close(found, read("log_prob_elementwise"), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.flatten(1).mean(1), read("log_prob_mean"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [flow_sde_step, cps_step])
def test_without_noise_a_step_is_the_ode(step):
    x, v = numbers(3, 2, 2), numbers(3, 2, 2, seed=1)
    mean, std = step(x, v, 0.75, 0.5, noise_level=0.0, t_clamp=0.75)
    torch.testing.assert_close(mean, x - 0.25 * v)
    assert (std == 0).all()


def test_one_time_per_row_and_one_noise_level_per_dimension():
    x, v, level = numbers(2, 3, 2), numbers(2, 3, 2, seed=1), torch.tensor([0.5, 0.0])
    times = torch.tensor([1.0, 0.5])[:, None, None]
    mean, std = flow_sde_step(x, v, times, times / 2, noise_level=level, t_clamp=0.5)
    for row, (t, t_next) in enumerate([(1.0, 0.5), (0.5, 0.25)]):
        for column in range(2):
            alone, spread = flow_sde_step(
                x[row, :, column], v[row, :, column], t, t_next, noise_level=float(level[column]), t_clamp=0.5
            )
            torch.testing.assert_close(mean[row, :, column], alone)
            torch.testing.assert_close(std[row, :, column], spread)
    assert (std[..., 1] == 0).all()


def test_half_precision_is_computed_in_float32():
    mean, std = flow_sde_step(
        numbers(4).bfloat16(), numbers(4, seed=1).bfloat16(), 0.5, 0.25, noise_level=0.5, t_clamp=0.75
    )
    assert mean.dtype == std.dtype == torch.float32


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_noise_that_cannot_be_is_refused(level):
    with pytest.raises(ValueError, match=f"noise_level must be at least 0 and at most 1, got {level}"):
        cps_step(numbers(2), numbers(2), 0.5, 0.25, noise_level=level, t_clamp=0.9)


def part(golden, step, what):
    return golden.get_tensor(f"k{step}.{what}")


def recursion(steps, level, mean0, sd):
    """Mean and sd of x' = x (1 - g^2 dt/2t) - (gain x + shift)(1 + g^2 (1 - t)/2t) dt + g sqrt(dt) z at any K."""
    times = [1 - step / steps for step in range(steps)] + [0.0]
    mean, variance = 0.0, 1.0
    for t, t_next in pairwise(times):
        gain, shift = field(t, mean0, sd)
        dt, noise = t - t_next, level**2 * t / (1 - (times[1] if t == 1 else t))
        moved = (1 + noise * (1 - t) / (2 * t)) * dt
        slope = 1 - noise * dt / (2 * t) - gain * moved
        mean, variance = slope * mean - shift * moved, slope**2 * variance + noise * dt
    return mean, math.sqrt(variance)


def field(t, mean0, sd):
    """v(x, t) = gain x + shift of the flow from N(0, 1) to N(mean0, sd^2)."""
    variance = (1 - t) ** 2 * sd**2 + t**2
    gain = (t - (1 - t) * sd**2) / variance
    return gain, -mean0 - gain * (1 - t) * mean0


@pytest.mark.parametrize(("steps", "sde", "ode"), [(4, 0.820, 0.720), (10, 0.931, 0.879), (1000, 1.003, 0.999)])
def test_terminal_spread_is_the_published_one(steps, sde, ode):
    assert recursion(steps, 0.5, 0.0, 1.0)[1] == pytest.approx(sde, abs=1e-3)
    assert recursion(steps, 0.0, 0.0, 1.0)[1] == pytest.approx(ode, abs=1e-3)


class Linear(TinyFlowPolicy):
    """Its velocity is that of the flow from N(0, 1) to N(0.7, 0.5^2), exactly."""

    def encode(self, obs, *, grad):
        return TensorContext()

    def velocity(self, ctx, x, t):
        gain, shift = field(t[:, None, None], 0.7, 0.5)
        return gain * x + shift


@pytest.mark.parametrize(("steps", "width"), [(4, 40_000), (10, 40_000), (1000, 10_000)])
def test_samples_have_the_moments_of_the_linear_recursion(steps, width):
    policy = Linear(FlowSpec(horizon=1, latent_dim=width, action_dim=width, exec_steps=1, num_steps=steps), hidden=1)
    x = sample(policy, {}, FlowSchedule(steps, 0.5), [torch.Generator().manual_seed(1)]).x0
    mean, sd = recursion(steps, 0.5, 0.7, 0.5)
    assert abs(x.mean().item() - mean) < 3 * sd / math.sqrt(width)
    assert abs(x.var().item() - sd**2) < 3 * sd**2 * math.sqrt(2 / width)


def test_at_a_thousand_steps_the_samples_are_the_data():
    mean, sd = recursion(1000, 0.5, 0.7, 0.5)
    assert mean == pytest.approx(0.7, rel=0.01)
    assert sd**2 == pytest.approx(0.5**2, rel=0.01)


def test_cps_keeps_the_marginals_of_the_exact_flow():
    # x0 and x1 of data that is a single point are exact, so the spread at t' is t' at any noise level.
    x, t, t_next = numbers(200_000), 0.8, 0.4
    point = 0.3
    sample = (1 - t) * point + t * x
    mean, std = cps_step(sample, x - point, t, t_next, noise_level=0.6)
    after = mean + std * numbers(200_000, seed=1)
    assert after.mean().item() == pytest.approx((1 - t_next) * point, abs=3e-3)
    assert after.std().item() == pytest.approx(t_next, rel=5e-3)


def test_densities_are_those_of_torch_distributions():
    x, mean, std = numbers(50), numbers(50, seed=1), numbers(50, seed=2).exp()
    other_mean, other_std = numbers(50, seed=3), numbers(50, seed=4).exp()
    here, there = Normal(mean, std), Normal(other_mean, other_std)
    torch.testing.assert_close(gaussian_log_prob(x, mean, std), here.log_prob(x))
    torch.testing.assert_close(gaussian_kl(mean, std, other_mean, other_std), kl_divergence(here, there))
    torch.testing.assert_close(gaussian_entropy(std), here.entropy())


def test_kl_against_monte_carlo():
    mean, std = torch.tensor([0.3]), torch.tensor([0.5])
    other_mean, other_std = torch.tensor([-0.2]), torch.tensor([0.7])
    x = mean + std * numbers(400_000)
    pairs = [(each.expand_as(x) for each in pair) for pair in ((mean, std), (other_mean, other_std))]
    here, there = (gaussian_log_prob(x, *pair) for pair in pairs)
    gap = here - there
    error = gap.std().item() / math.sqrt(len(x))
    assert abs(gap.mean().item() - gaussian_kl(mean, std, other_mean, other_std).item()) < 4 * error


def test_deterministic_steps_have_no_density_and_no_bad_gradient():
    mean = torch.zeros(3, requires_grad=True)
    std = torch.tensor([0.5, 0.0, 0.5], requires_grad=True)
    logp = gaussian_log_prob(torch.ones(3), mean, std)
    assert logp[1] == 0
    logp.sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(std.grad).all()
    assert mean.grad[1] == 0
    kl = gaussian_kl(mean.detach(), std.detach(), mean.detach() + 1, std.detach())
    assert kl.tolist() == [2.0, 0.0, 2.0]


class TestSchedule:
    def test_step_stds_at_a_half_are_the_published_ones(self):
        expected = [0.5, 0.474, 0.316, 0.242, 0.194, 0.158, 0.129, 0.104, 0.079, 0.053]
        schedule, still = FlowSchedule(10, 0.5), torch.zeros(1, 10, 1, 1)
        std = schedule.moments(still, still, torch.ones(1, 10, dtype=torch.bool))[1]
        assert std.flatten().tolist() == pytest.approx(expected, abs=6e-4)

    def test_steps_that_are_not_stochastic_follow_the_ode(self):
        schedule, x, v = FlowSchedule(4, 0.5), numbers(2, 4, 3, 2), numbers(2, 4, 3, 2, seed=1)
        chosen = torch.tensor([[True, False, False, False], [False, False, True, False]])
        mean, std = schedule.moments(x, v, chosen)
        assert ((std > 0).all((2, 3)) == chosen).all()
        torch.testing.assert_close(mean[0, 1:], x[0, 1:] - 0.25 * v[0, 1:])

    def test_one_random_step_per_row_is_uniform_and_its_rows_own(self):
        generators = [torch.Generator().manual_seed(seed) for seed in range(400)]
        chosen = one_random_step(generators, 4)
        assert (chosen.sum(1) == 1).all()
        assert (chosen.sum(0) > 70).all()
        alone = one_random_step([torch.Generator().manual_seed(7)], 4)
        assert torch.equal(alone[0], chosen[7])
        assert every_step(generators, 4).all()

    def test_no_steps_are_refused(self):
        with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
            FlowSchedule(0)

    @pytest.mark.parametrize("level", [-0.1, float("nan")])
    def test_negative_noise_is_refused(self, level):
        with pytest.raises(ValueError, match="noise_level must be at least 0"):
            FlowSchedule(4, level)
