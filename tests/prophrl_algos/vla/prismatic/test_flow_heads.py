"""The flow around a mean has the velocity that its definition says, and leads to the mean."""

import pytest
import torch

from prophrl_algos.vla._action_head import flow_targets
from prophrl_algos.vla.prismatic._heads import TimeEmbedding, gaussian_velocity, rotated


@pytest.mark.parametrize("spread", [0.1, 0.7])
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_it_is_the_best_guess_of_noise_minus_action(spread, t):
    generator = torch.Generator().manual_seed(0)
    action = 0.3 + spread * torch.randn(200_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(200_000, generator=generator, dtype=torch.float64)
    x = (1 - t) * action + t * noise
    # least squares of noise - action on x_t: for Gaussians that is the conditional mean
    columns = torch.stack([torch.ones_like(x), x], 1)
    best = torch.linalg.lstsq(columns, (noise - action)[:, None]).solution
    places = torch.tensor([-1.0, 0.2, 2.0])
    expected = best[0] + best[1] * places
    found = gaussian_velocity(places[None, :, None], torch.tensor([t]), torch.full((1, 3, 1), 0.3), spread)
    torch.testing.assert_close(found.flatten().double(), expected, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_without_spread_any_number_of_euler_steps_leads_to_the_mean(steps):
    mean = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        x = x - gaussian_velocity(x, torch.full((2,), 1 - step / steps), mean, 0.0) / steps
    torch.testing.assert_close(x, mean, atol=1e-5, rtol=0)


def test_targets_lie_between_action_and_noise_and_are_denser_towards_noise():
    action = torch.full((500, 1, 2), 3.0)
    x, t, velocity = flow_targets(action, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x - t[:, None, None] * velocity, action.repeat_interleave(4, 0), atol=1e-4, rtol=0)
    assert t.mean() == pytest.approx(0.6, abs=0.03)


def test_time_does_nothing_before_training_and_all_times_differ_after():
    layer = TimeEmbedding(8)
    assert not layer(torch.tensor([0.1, 1.0])).any()
    torch.nn.init.normal_(layer.out.weight)
    felt = layer(torch.linspace(0, 1, 11)).flatten(1)
    assert torch.pdist(felt).min() > 1e-2


def test_positions_turn_pairs_and_are_rounded_as_they_were_trained():
    x = torch.zeros(1, 1, 600, 4)
    x[..., 0] = 1
    turned = rotated(x)
    assert turned[0, 0, 0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(turned[0, 0, 1, 0], torch.tensor(1.0).cos(), atol=4e-3, rtol=0)
    assert torch.equal(turned[0, 0, 513], turned[0, 0, 512])
