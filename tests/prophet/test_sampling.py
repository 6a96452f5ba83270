"""Noise schedule and samplers: golden numbers of the original, exactness where it is promised, order of accuracy."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prophet_gym.prophet._flow import karras_sigmas, sample_ab2, sample_euler

GOLDEN = load_file(Path(__file__).parents[1] / "data" / "ab2_sampler.safetensors")


def golden_denoiser(x, sigma):
    return (GOLDEN["mu"] + x / (1 + sigma**2)) * torch.cos(0.1 * x / (1 + sigma))


def gaussian_denoiser(x, sigma):
    """The exact denoiser of data drawn from N(1, 1): the ODE from sigma to s keeps (x - 1) / sqrt(1 + sigma^2)."""
    return 1.0 + (x - 1.0) / (1 + sigma**2)


@pytest.mark.parametrize("steps", [4, 10, 35])
def test_schedule_and_sampler_match_the_original(steps):
    sigmas = karras_sigmas(steps)
    torch.testing.assert_close(sigmas, GOLDEN[f"steps{steps}.sigmas"], rtol=1e-9, atol=0)
    x = sample_ab2(golden_denoiser, GOLDEN[f"steps{steps}.x_init"], sigmas)
    torch.testing.assert_close(x, GOLDEN[f"steps{steps}.x_final"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", [sample_ab2, sample_euler])
def test_a_constant_clean_prediction_is_interpolated_exactly(sampler):
    clean, noise = torch.tensor([0.5, -2.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    x = sampler(lambda _x, _sigma: clean, clean + 200.0 * noise, karras_sigmas(5))
    torch.testing.assert_close(x, clean + 0.01 * noise)


@pytest.mark.parametrize(("sampler", "gain"), [(sample_ab2, 4.0), (sample_euler, 2.0)])
def test_halving_the_steps_shrinks_the_error_by_the_samplers_order(sampler, gain):
    start = torch.tensor([37.0], dtype=torch.float64)
    exact = 1.0 + (start - 1.0) * (1 + 0.1**2) ** 0.5 / (1 + 20.0**2) ** 0.5
    errors = [
        (sampler(gaussian_denoiser, start, karras_sigmas(steps, 0.1, 20.0)) - exact).abs().item() for steps in (80, 160)
    ]
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.15)


def test_euler_to_zero_ends_at_the_last_clean_prediction():
    seen = []

    def predict(x, sigma):
        seen.append(sigma)
        return gaussian_denoiser(x, sigma)

    x = sample_euler(predict, torch.tensor([30.0]), [20.0, 1.0, 0.0])
    assert seen == [20.0, 1.0]
    after_first = torch.tensor([0.05 * 30.0 + 0.95 * (1 + 29.0 / 401)])
    torch.testing.assert_close(x, gaussian_denoiser(after_first, 1.0))


def test_euler_is_the_rectified_flow_step():
    """In tau = sigma / (1 + sigma), with y = (1 - tau) x: y' = y - (tau - tau') (eps - x0)."""
    x, sigma, sigma_next = torch.tensor([1.7]), 3.0, 0.5
    clean = gaussian_denoiser(x, sigma)
    tau, tau_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
    velocity = (x - clean) / sigma - clean
    flow = (1 - tau) * x - (tau - tau_next) * velocity
    torch.testing.assert_close(sample_euler(gaussian_denoiser, x, [sigma, sigma_next]) * (1 - tau_next), flow)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"steps": 4, "sigma_min": 300.0}, {"steps": 4, "sigma_min": 0.0}, {"steps": 4, "order": 0.0}],
)
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        karras_sigmas(**wrong)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0]])
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas must"):
        sample_ab2(gaussian_denoiser, torch.zeros(1), sigmas)
