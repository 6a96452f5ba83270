"""A student learns to end each of its steps where its teacher's steps end, and its checkpoint dreams in fewer."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import FullProphet, Prophet, SmallProphet, tiny_full_prophet, tiny_prophet
from prophet_gym.prophet._flow import distillation_losses, flow_levels, nested_levels
from prophet_gym.prophet._full import euler_levels
from prophet_gym.prophet._transformer import Conditions, predict_clean
from prophet_gym.train._distill import Args, main
from prophet_gym.train._run_folder import steps_done

pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CONDITIONS = Conditions(given=numbers(2, 4, 1, 3, 3), history=None, actions=numbers(2, 4, 7), action_frames=None)
CLEAN, SOURCE = numbers(2, 4, 2, 3, 3, seed=1), numbers(2, 4, 2, 3, 3, seed=2)


def linear(latents, _label, **_conditions):
    """A flow whose velocity is 0.5 x: its paths bend."""
    return 0.5 * latents


def two_steps(latents, label, **_conditions):
    """One step in flow time that ends where two Euler steps of `linear` end, in a student of two steps of five."""
    time = label[:, 1].reshape(-1, 1, 1, 1, 1)
    half = 0.25 * torch.ones_like(time)
    after = latents - half * 0.5 * latents
    return (latents - (after - half * 0.5 * after)) / (2 * half)


def losses(student, teacher, levels):
    return distillation_losses(student, partial(predict_clean, teacher, CONDITIONS), CONDITIONS, CLEAN, SOURCE, levels)


def test_the_loss_is_zero_where_one_step_ends_where_two_of_the_teacher_end():
    levels = nested_levels(flow_levels, 2, 4)
    torch.testing.assert_close(losses(two_steps, linear, levels), torch.zeros(2), atol=1e-6, rtol=0)
    assert (losses(linear, linear, levels) > 1e-4).all()


def test_a_straight_flow_needs_one_step_of_any_number():
    def straight(latents, _label, **_conditions):
        return torch.cat([torch.zeros_like(latents[:, :, :1]), SOURCE - CLEAN], dim=2)

    for levels_of in (flow_levels, euler_levels):
        levels = nested_levels(levels_of, 2, 5)
        torch.testing.assert_close(losses(straight, straight, levels), torch.zeros(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("levels_of", [flow_levels, euler_levels])
def test_the_students_levels_are_among_those_its_teacher_passes(levels_of):
    levels = nested_levels(levels_of, 2, 5)
    assert [len(part) for part in levels] == [4, 4]
    ends = [float(part[0]) for part in levels] + [float(levels[-1][-1])]
    assert ends == pytest.approx(levels_of(2).tolist(), rel=1e-5)


@pytest.fixture(scope="module")
def small_teacher(tmp_path_factory):
    """A small Prophet of four steps, whose velocity depends on the flow time, and latents for it."""
    folder = tmp_path_factory.mktemp("small")
    prophet = tiny_prophet()
    config = replace(prophet.config, steps=4)
    SmallProphet(prophet.transformer, prophet.autoencoder, prophet.tracker, config).save_pretrained(folder)
    g = np.random.default_rng(0)
    LatentEpisodes(
        latents=np.cumsum(0.1 * g.normal(size=(80, 4, 8, 8)), axis=0).astype(np.float16),
        actions=g.uniform(-1, 1, (80, 7)).astype(np.float32),
        gripper=g.uniform(0, 1, (80, 4)).astype(np.float32),
        starts=np.array([0, 40, 80]),
    ).save(folder / "latents.npz")
    return folder


@pytest.fixture(scope="module")
def full_teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    prophet = tiny_full_prophet()
    config = replace(prophet.config, history_frames=1, steps=4)
    FullProphet(prophet.transformer, prophet.autoencoder, config).save_pretrained(folder, half=False)
    return folder


def arguments(teacher, out, **options) -> Args:
    settings = {"sampler_steps": 1, "steps": 2, "warmup": 1, "workers": 0, "learning_rate": 1e-2, "ema": 0.0}
    return Args(teacher=str(teacher), out=out, cpu=True, **{**settings, **options})


def with_latents(teacher, out):
    out.mkdir()
    os.symlink(teacher / "latents.npz", out / "latents.npz")
    return out


def logged(out) -> list[float]:
    """The losses in TensorBoard, of every twentieth step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard" / "distill"))
    events.Reload()
    return [event.value for event in events.Scalars("loss")]


def dream(prophet: Prophet) -> torch.Tensor:
    frames = torch.full((1, 1, *prophet.frame_size, 3), 60, dtype=torch.uint8)
    actions = torch.ones(1, prophet.chunk, prophet.action_dim)
    return prophet.rollout(prophet.encode(frames), actions, generators=[torch.Generator().manual_seed(0)]).frames


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_small_student_learns_and_dreams_in_fewer_steps(small_teacher, tmp_path, lora_rank):
    out = with_latents(small_teacher, tmp_path / "out")
    rate = 1e-2 if lora_rank else 1e-3
    main(
        arguments(small_teacher, out, sampler_steps=2, steps=61, batch_size=4, lora_rank=lora_rank, learning_rate=rate)
    )
    found = logged(out)
    assert found[-1] < 0.9 * found[0]
    student, teacher = (Prophet.from_pretrained(folder) for folder in (out / "checkpoint", small_teacher))
    assert student.config == replace(teacher.config, steps=2)
    assert not torch.equal(dream(student), dream(teacher))
    assert (out / "lora").exists() == bool(lora_rank)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_full_student_learns_and_dreams_in_fewer_steps(full_teacher, toy_recording, tmp_path, lora_rank):
    out = tmp_path / "out"
    rate, data = 1e-2 if lora_rank else 1e-3, (str(toy_recording),)
    options = {"sampler_steps": 2, "steps": 41, "batch_size": 4, "learning_rate": rate, "lora_rank": lora_rank}
    main(arguments(full_teacher, out, data=data, **options))
    found = logged(out)
    assert found[-1] < 0.9 * found[0]
    student, teacher = (Prophet.from_pretrained(folder) for folder in (out / "checkpoint", full_teacher))
    assert student.config == replace(teacher.config, steps=2, solver="euler")
    calls = []
    student.transformer.register_forward_hook(lambda *_: calls.append(1))
    assert dream(student).shape == dream(teacher).shape
    assert len(calls) == 2  # the teacher's sampler calls once more than it has steps
    main(arguments(out / "checkpoint", tmp_path / "next", data=data, sampler_steps=1))
    assert Prophet.from_pretrained(tmp_path / "next" / "checkpoint").config.steps == 1


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(small_teacher, tmp_path):
    options = {"steps": 12, "batch_size": 2, "save_every": 1e-9, "ema": 0.9}
    main(arguments(small_teacher, with_latents(small_teacher, tmp_path / "whole"), **options))
    killed = with_latents(small_teacher, tmp_path / "killed")
    words = ["--teacher", small_teacher, "--out", killed, "--sampler-steps", "1", "--steps", "12", "--warmup", "1"]
    words += ["--batch-size", "2", "--save-every", "1e-9", "--ema", "0.9", "--learning-rate", "1e-2", "--cpu"]
    child = subprocess.Popen(
        [sys.executable, "-m", "prophet_gym", "distill", *map(str, words)], stderr=subprocess.DEVNULL
    )
    while steps_done(killed, "distill") < 2 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 2 <= steps_done(killed, "distill") < 12
    main(arguments(small_teacher, killed, **options))
    one, other = (Prophet.from_pretrained(tmp_path / name / "checkpoint") for name in ("whole", "killed"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("steps", [4, 5])
def test_a_student_of_as_many_steps_is_refused(small_teacher, tmp_path, steps):
    with pytest.raises(ValueError, match=rf"fewer sampler steps than its teacher's 4, got {steps}"):
        main(arguments(small_teacher, tmp_path / "out", sampler_steps=steps))
    assert not (tmp_path / "out").exists()


def test_what_is_not_of_the_teacher_is_refused(small_teacher, toy_recording, full_teacher, tmp_path):
    out = with_latents(small_teacher, tmp_path / "out")
    with pytest.raises(ValueError, match=r"latents of \(16, 16\) cells.*got \(8, 8\)"):
        main(arguments("bundled", out, teacher_steps=2))
    with pytest.raises(ValueError, match="gives 7"):
        main(arguments(full_teacher, tmp_path / "other", data=(f"{toy_recording},actions=given",)))
    with pytest.raises(ValueError, match="give --data"):
        main(arguments(small_teacher, tmp_path / "none"))
    main(arguments(small_teacher, out))
    with pytest.raises(ValueError, match=r"sampler_steps was 1, is 2"):
        main(arguments(small_teacher, out, sampler_steps=2))


def test_a_solver_that_does_not_exist_is_refused(full_teacher, tmp_path):
    folder = tmp_path / "wrong"
    Prophet.from_pretrained(full_teacher).save_pretrained(folder)
    header = json.loads((folder / "prophet.json").read_text())
    (folder / "prophet.json").write_text(json.dumps({**header, "solver": "heun"}))
    with pytest.raises(CheckpointError, match="solver"):
        Prophet.from_pretrained(folder)
