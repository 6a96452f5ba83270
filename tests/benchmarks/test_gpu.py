"""What is carried to a machine without network comes back exactly, and is enough there to train on and to dream."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
ABSENT = ("cv2", "imageio_ffmpeg", "imageio", "tensorboard", "mujoco", "robosuite")
THERE = """
import sys
import warnings

import torch

from prophet_gym.cli.main import main
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.prophet import Prophet

warnings.simplefilter("error")
base, out = sys.argv[1:]
words = ["train", "--base", base, "--out", out, "--device", "cpu", "--batch-size", "4", "--steps", "2"]
words += ["--minutes", "5"]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    main([*words, "--stage", "transformer", "--single-until", "0.5", "--chunks", "2"])
assert [w.category for w in caught] == [RuntimeWarning], [str(w.message) for w in caught]
main([*words, "--stage", "checkpoint"])
dream = Prophet.from_pretrained(out + "/checkpoint")
state = dream.encode(torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))
frames = dream.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator().manual_seed(0)]).frames
assert frames.shape == (1, 8, 64, 64, 3)
assert len(Checkpoint.named("bundled").initial_states("train")) > 0
"""


@pytest.fixture(autouse=True)
def scripts_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))


def episodes(seed=0):
    """Two episodes of 40 and 30 frames whose latents wander and jump."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.1, (70, 4, 8, 8)), axis=0)
    walk[33] = rng.choice([-127 / 16, 127 / 16], walk[33].shape)
    return {
        "latents": np.clip(walk, -127 / 16, 127 / 16).astype(np.float16),
        "commands": rng.uniform(-1, 1, (70, 7)).astype(np.float32),
        "gripper": rng.uniform(0, 1, (70, 4)).astype(np.float32),
        "starts": np.array([0, 40, 70]),
    }


def test_packed_latents_come_back_as_they_were_rounded_and_all_else_to_the_bit():
    codec, given = importlib.import_module("latent_codec"), episodes()
    back = codec.decompress(codec.compress(given))
    rounded = np.rint(given["latents"].astype(np.float32) * 16) / 16
    np.testing.assert_array_equal(back["latents"].astype(np.float32), rounded)
    for name in ("commands", "gripper", "starts"):
        np.testing.assert_array_equal(back[name], given[name])
        assert back[name].dtype == given[name].dtype
    again = codec.decompress(codec.compress(back))
    assert again["latents"].tobytes() == back["latents"].tobytes()


def test_latents_that_do_not_fit_are_refused():
    codec = importlib.import_module("latent_codec")
    with pytest.raises(ValueError, match=r"7\.9375 of zero, got 8: normalise"):
        codec.quantise(np.array([0.0, -8.0]))
    with pytest.raises(ValueError, match="got nan"):
        codec.quantise(np.array([np.nan]))


def test_the_pack_is_enough_to_train_on_and_dream_where_much_is_not_installed(tmp_path, capsys):
    from prophet_gym.prophet import tiny_prophet

    pack = importlib.import_module("pack")
    np.savez(tmp_path / "latents.npz", **episodes())
    pack.main(pack.Args(latents=tmp_path / "latents.npz", out=tmp_path / "pack", wheels=()))
    assert "latents.npz.xz" in capsys.readouterr().out
    tiny_prophet().save_pretrained(tmp_path / "base")
    for name in ABSENT:
        (tmp_path / "absent").mkdir(exist_ok=True)
        (tmp_path / "absent" / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here')\n")
    there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "absent"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    out, base = str(tmp_path / "out"), str(tmp_path / "base")
    run = [sys.executable, str(GPU / "unpack.py"), "--pack", str(tmp_path / "pack"), "--out", out]
    subprocess.run(run, check=True, env=there, cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", THERE, base, out], check=False, env=there, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def full_env(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))
    return importlib.import_module("full_env")


def test_a_step_of_the_full_env_counts_the_frames_of_all_rows(full_env, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(full_env.time, "perf_counter", lambda: 0.5 * next(clock))
    prophet = full_env.with_steps(full_env.tiny_full_prophet(), 1)
    found = full_env.measure(prophet, 3, repeats=2)
    assert found == {
        "seconds_per_step": 0.5, "seconds_per_chunk": 0.1667, "frames_per_second": 24.0, "peak_memory_gib": None,
    }  # fmt: skip


def test_the_report_says_what_the_time_did_not_allow(full_env, tmp_path, capsys):
    path = tmp_path / "report.json"
    full_env.main(full_env.Args(rows=(1,), sampler_steps=(2, 1), repeats=1, tiny=True, json=path))
    found = json.loads(path.read_text())
    assert set(found["env"]) == {"1 rows, 2 steps", "1 rows, 1 steps"}
    assert found["dtype"] == "bfloat16"
    assert found["left_out"] == {}
    full_env.main(full_env.Args(rows=(1,), sampler_steps=(2,), tiny=True, minutes=-1.0, json=path))
    found = json.loads(path.read_text())
    assert found["env"] == {}
    assert found["left_out"] == dict.fromkeys(("env, 1 rows, 2 steps", "autoencoder, 1 rows"), "after -1 minutes")
    assert "out of memory" not in capsys.readouterr().out


def test_the_measured_sizes_are_the_published_ones(full_env):
    import torch

    prophet = full_env.full_prophet(torch.device("meta"), torch.bfloat16)
    count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert round(count(prophet.transformer) / 1e9, 3) == 2.058
    assert round(count(prophet.autoencoder) / 1e6) == 127
    assert (prophet.chunk, prophet.frame_size, prophet.config.steps) == (20, (256, 256), 35)
