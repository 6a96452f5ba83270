"""Recordings of official initial states, which are for evaluation only: nothing is fitted to them anywhere."""

import json
from pathlib import Path

import pytest

from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._recording import META, list_episodes
from prophet_gym.data._windows import as_given
from prophet_gym.train import _objects as objects
from prophet_gym.train import _reward as reward
from prophet_gym.train import _small as small
from prophet_gym.train._run_folder import ARGUMENTS, LOCK, LOCK_OWNER
from prophrl_algos.cli import _sft as sft


@pytest.fixture
def official(toys, tmp_path) -> Path:
    folder = toys.write(tmp_path / "official", 4)
    (folder / META).write_text(json.dumps({"starts": "official"}), encoding="utf-8")
    return folder


@pytest.fixture
def random(toys, tmp_path) -> Path:
    return toys.write(tmp_path / "random", 1)


def refused():
    return pytest.raises(ValueError, match=r"official starts from official initial states, which are for evaluation")


def nothing_made(out: Path) -> bool:
    """Whether a run left nothing but what it takes its folder with, before it reads anything."""
    return {path.name for path in out.rglob("*")} <= {LOCK, LOCK_OWNER, ARGUMENTS}


@pytest.mark.parametrize("stage", ["all", "autoencoder", "decoder"])
def test_the_small_prophet(official, random, tmp_path, stage):
    with refused():
        small.main(small.Args(out=tmp_path / "out", data=(random, official), stage=stage, device="cpu"))
    assert nothing_made(tmp_path / "out")


def test_adaptation(official, tmp_path):
    with refused():
        small.main(small.Args(tmp_path / "out", (official,), base="bundled", lora_rank=16, device="cpu"))
    assert nothing_made(tmp_path / "out")


def test_the_object_reader(official, tmp_path):
    with refused():
        objects.main(objects.Args(official, tmp_path / "out", held_out=2))
    assert nothing_made(tmp_path / "out")


@pytest.mark.parametrize("backbone", ["head", "vlm"])
@pytest.mark.parametrize("dreams", [False, True])
def test_reward_models(official, random, tmp_path, backbone, dreams):
    data = {"data": (random,), "dreams": (official,)} if dreams else {"data": (random, official)}
    with refused():
        reward.main(reward.Args(out=tmp_path / "out", backbone=backbone, **data))
    assert nothing_made(tmp_path / "out")


def test_the_full_prophet(official):
    with refused():
        read_mixture_entry(str(official), {"given": as_given})


def test_cloning(official, random, tmp_path):
    data = (random, official)
    with refused():
        sft.main(sft.Args(policy="small", env="Prophet-LIBERO-v0", out=tmp_path / "out", modes=(), data=data))
    assert nothing_made(tmp_path / "out")


def test_evaluation_may_read_them(official):
    assert len(list_episodes(official, evaluating=True)) == 4
