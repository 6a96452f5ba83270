"""`prophrl train` under torchrun: several processes share the groups, and one of them writes."""

import csv
import subprocess
import sys

import pytest

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
         "--config.groups", "4", "--config.group-size", "4", "--config.updates"]  # fmt: skip


def train(tmp_path, processes, updates):
    script, folder = tmp_path / "train.py", tmp_path / str(processes)
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch, str(script), *WORDS, str(updates), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count(f"{updates} updates") == 1
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_collect_what_one_does_and_are_resumed(tmp_path):
    (alone,) = train(tmp_path, 1, 1)
    first, _ = train(tmp_path, 2, 1) + train(tmp_path, 2, 2)[1:]
    assert first["rollouts"] == alone["rollouts"] == "16.0"
    for name in ("return", "gradient_norm"):
        assert float(first[name]) == pytest.approx(float(alone[name]), rel=1e-3)
