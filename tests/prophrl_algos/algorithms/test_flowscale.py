"""Weights of FlowScale and what they do to the gradient of each flow step (reference.md section 5)."""

import pytest
import torch

from prophrl_algos.algorithms.flowscale import FlowScale, flowscale_weights, scale_gradients
from prophrl_algos.flow import FlowSchedule
from prophrl_algos.flow._sde import gaussian_log_prob

WHOLE = FlowScale(alpha=0.0, w_min=0.0, w_max=100.0)
TABLE = {4: [1.51, 1.30, 0.75, 0.43], 10: [2.22, 2.11, 1.41, 1.07, 0.86, 0.70, 0.57, 0.46, 0.35, 0.23]}


def stds(steps, level=0.5):
    still = torch.zeros(1, steps, 1, 1)
    return FlowSchedule(steps, level).moments(still, still, torch.ones(1, steps, dtype=torch.bool))[1].flatten()


@pytest.mark.parametrize("steps", [4, 10])
def test_unmixed_weights_are_the_published_ones(steps):
    assert flowscale_weights(stds(steps), WHOLE).tolist() == pytest.approx(TABLE[steps], abs=6e-3)


def test_alpha_mixes_towards_one_and_the_bounds_hold():
    raw = flowscale_weights(stds(10), WHOLE)
    mixed = flowscale_weights(stds(10), FlowScale())
    torch.testing.assert_close(mixed, (0.5 * raw + 0.5).clamp(0.5, 2.0))
    assert flowscale_weights(stds(10), FlowScale(alpha=1.0)).tolist() == [1.0] * 10
    bounded = flowscale_weights(stds(10), FlowScale(alpha=0.0))
    assert (bounded.min(), bounded.max()) == (0.5, 2.0)


def test_deterministic_steps_get_nothing_and_do_not_count():
    with_last = torch.cat([stds(4), torch.zeros(1)])
    found = flowscale_weights(with_last, FlowScale())
    torch.testing.assert_close(found[:4], flowscale_weights(stds(4), FlowScale()))
    assert found[4] == 0


def test_weights_carry_no_gradient():
    noise = stds(4).requires_grad_()
    assert not flowscale_weights(noise, FlowScale()).requires_grad


def test_the_value_is_the_same_to_the_bit_and_the_gradient_is_scaled():
    logp = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * 1e3
    logp.requires_grad_()
    weights = torch.tensor([1.7, 1.1, 0.7, 0.3])
    scaled = scale_gradients(logp, weights.double())
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, logp)
    scaled.sum().backward()
    torch.testing.assert_close(logp.grad, weights[:, None, None].expand_as(logp))


@pytest.mark.parametrize(
    ("settings", "spread"),
    [(None, 10.7), (FlowScale(), 4.1), (FlowScale(alpha=0.0), 2.7), (WHOLE, 1.1)],
)
def test_spread_of_the_gradient_over_steps_is_the_predicted_one(settings, spread):
    schedule = FlowSchedule(10, 0.5)
    x = torch.randn(2000, 10, 1, 1, generator=torch.Generator().manual_seed(0))
    velocity = torch.zeros_like(x).requires_grad_()
    mean, std = schedule.moments(x, velocity, torch.ones(2000, 10, dtype=torch.bool))
    noise = torch.randn(2000, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    logp = gaussian_log_prob((mean + std * noise).detach(), mean, std)
    if settings is not None:
        logp = scale_gradients(logp, flowscale_weights(std[0, :, 0, 0], settings))
    logp.sum().backward()
    norms = velocity.grad.abs().mean((0, 2, 3))
    assert (norms.max() / norms.min()).item() == pytest.approx(spread, rel=0.04)
