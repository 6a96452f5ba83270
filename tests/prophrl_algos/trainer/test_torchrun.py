"""`prophrl train` under torchrun and accelerate: several processes share the groups, and one of them writes."""

import csv
import subprocess
import sys

import pytest

from prophrl_algos._checkpoint import read_policy

SCRIPT = """
import atexit
import os
import sys
from pathlib import Path

import gymnasium as gym

from benchmarks.toys import BanditVectorEnv
from prophrl_algos.cli import main


def leave():
    # A thread of gloo that outlives the interpreter aborts the process now and then, after its work is done.
    names = [(path / "comm").read_text() for path in Path("/proc/self/task").glob("*")]
    if any("gloo" in name for name in names):
        os._exit(3)


atexit.register(leave)
gym.register("Bandit-v0", vector_entry_point=lambda num_envs, **_: BanditVectorEnv(num_envs))
main(sys.argv[1:])
"""
WORDS = ["train", "--policy", "benchmarks.toys:tiny", "--env", "Bandit-v0", "--loggers", "csv", "--config.beta", "0",
         "--device", "cpu", "--config.groups", "5", "--config.group-size", "4", "--evaluate-every", "1",
         "--evaluate-episodes", "3", "--config.updates"]  # fmt: skip
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes"]  # fmt: skip
"""Accelerate starts several processes on a CPU only as it does on GPUs."""


def train(tmp_path, processes, updates, launcher=TORCHRUN, *more):
    script, folder = tmp_path / "train.py", tmp_path / str(processes)
    script.write_text(SCRIPT)
    launch = ["-m", *launcher, str(processes)]
    command = [sys.executable, *launch, str(script), *WORDS, str(updates), "--out", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count(f"{updates} updates") == 1
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_collect_what_one_does_and_are_resumed(tmp_path):
    (alone,) = train(tmp_path, 1, 1)
    (first,) = train(tmp_path, 2, 1, ACCELERATE)
    *_, last = train(tmp_path, 2, 2, TORCHRUN, "--shard")
    assert first["rollouts"] == alone["rollouts"] == last["rollouts"] == "20.0"
    assert first["evaluation/episodes"] == last["evaluation/episodes"] == "3.0"
    for name in ("return", "gradient_norm", "evaluation/success", "evaluation/return"):
        assert float(first[name]) == pytest.approx(float(alone[name]), rel=1e-3)
    state = tmp_path / "2" / "last" / "update-00000002"
    assert read_policy(state).keys() == read_policy(tmp_path / "1" / "last.pt").keys()
