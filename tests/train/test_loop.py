"""The loop learns, resumes to the same weights, and its schedule is what it says."""

import pytest
import torch
from torch import nn

from prophet_gym.train.loop import LoopConfig, learning_rate, train_loop

pytest.importorskip("tensorboard")


def run(folder, steps, stop_after=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def step(index, generator):
        if stop_after is not None and index == stop_after:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    config = LoopConfig(steps=steps, learning_rate=0.05, warmup=5, save_every=0.0, weight_decay=0.0)
    return train_loop(model, step, config, folder, name="line")


def test_it_learns(tmp_path):
    average = run(tmp_path, 400)
    torch.testing.assert_close(average.weight, torch.ones(1, 3), atol=0.05, rtol=0)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole", 40)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 40, stop_after=17)
    resumed = run(tmp_path / "killed", 40)
    assert torch.equal(whole.weight, resumed.weight)


def test_schedule_warms_up_stays_and_falls():
    config = LoopConfig(steps=100, learning_rate=1.0, warmup=10, decay=0.2)
    rates = [learning_rate(i, config) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def step(index, generator):
        loss = model(torch.randn(4, 3, generator=generator)).square().mean()
        return (loss * float("nan") if index == 3 else loss), {}

    config = LoopConfig(steps=9, learning_rate=0.01, save_every=0.0)
    with pytest.raises(FloatingPointError, match="step 3"):
        train_loop(model, step, config, tmp_path, name="line")
    state = torch.load(tmp_path / "line.pt", weights_only=True)
    assert state["step"] == 3
    assert all(torch.isfinite(value).all() for value in state["model"].values())
