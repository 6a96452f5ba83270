"""The loop that all training goes through learns, resumes to the same weights, and its schedule is what it says."""

import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prophet_gym.train import _fit
from prophet_gym.train._fit import FitConfig, fit
from prophet_gym.train._run_folder import results_of

pytest.importorskip("tensorboard")


def run(folder, steps, stop_after=None, decay=0.3, minutes=math.inf):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(model, index, generator):
        if stop_after is not None and index == stop_after:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    config = FitConfig(
        steps=steps, learning_rate=0.05, warmup=5, save_every=0.0, weight_decay=0.0, decay=decay, minutes=minutes
    )
    return fit(model, loss, config, folder, name="line")


def newest(folder, part="progress.json"):
    path = sorted(folder.glob("states/line/step-*"))[-1] / part
    return json.loads(path.read_text()) if part.endswith("json") else load_file(path)


def test_it_learns(tmp_path):
    average = run(tmp_path, 400)
    torch.testing.assert_close(average.weight, torch.ones(1, 3), atol=0.05, rtol=0)


def test_the_results_of_a_run_have_its_steps_and_its_loss(tmp_path):
    run(tmp_path / "short", 20)
    run(tmp_path / "long", 400)
    short, long = (results_of(tmp_path / name)["trained"]["line"] for name in ("short", "long"))
    assert (short["steps"], long["steps"]) == (20, 400)
    assert 0 < long["loss"] < short["loss"]
    assert results_of(tmp_path / "nothing")["trained"] == {}


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole", 40)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 40, stop_after=17)
    resumed = run(tmp_path / "killed", 40)
    assert torch.equal(whole.weight, resumed.weight)


def test_schedule_warms_up_stays_and_falls():
    config = FitConfig(steps=100, learning_rate=1.0, warmup=10, decay=0.2)
    rates = [config.rate(i) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(model, index, generator):
        loss = model(torch.randn(4, 3, generator=generator)).square().mean()
        return (loss * float("nan") if index == 3 else loss), {}

    config = FitConfig(steps=9, learning_rate=0.01, save_every=0.0)
    with pytest.raises(FloatingPointError, match="step 3"):
        fit(model, loss, config, tmp_path, name="line")
    assert newest(tmp_path)["step"] == 3
    assert all(torch.isfinite(value).all() for value in newest(tmp_path, "model.safetensors").values())


def test_time_ends_a_run_and_more_of_it_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", 30, decay=0.0)
    seconds = iter(range(10_000))
    monkeypatch.setattr(_fit.time, "monotonic", lambda: float(next(seconds)))
    run(tmp_path / "short", 30, decay=0.0, minutes=0.25)
    first = newest(tmp_path / "short")
    assert 0 < first["step"] < 15
    assert first["seconds"] == pytest.approx(15, abs=2)
    run(tmp_path / "short", 30, decay=0.0, minutes=0.25)  # all of it is used
    assert newest(tmp_path / "short")["step"] == first["step"]
    resumed = run(tmp_path / "short", 30, decay=0.0, minutes=60.0)
    assert torch.equal(whole.weight, resumed.weight)


def test_the_rate_falls_towards_the_end_of_steps_or_time_whichever_is_nearer():
    config = FitConfig(steps=100, learning_rate=1.0, warmup=1, decay=0.2)
    assert config.rate(50, used=0.5) == 1.0
    assert config.rate(50, used=0.9) == pytest.approx(0.5)
    assert config.rate(95, used=0.9) == pytest.approx(0.25)
    assert config.rate(50, used=1.0) == 0.0


def test_without_tensorboard_there_is_one_warning_and_the_same_weights(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", 5)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(RuntimeWarning, match="TensorBoard is not installed") as caught:
        without = run(tmp_path / "without", 5)
    assert len(caught) == 1
    assert torch.equal(whole.weight, without.weight)
    assert not (tmp_path / "without" / "tensorboard").exists()
