"""`prophrl train` under torchrun and accelerate: several processes share the groups, and one of them writes."""

import csv
import subprocess
import sys

import pytest

from prophrl_algos._checkpoint import newest, read_policy

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
DREAM = [
    "train", "--policy", "small-k4", "--policy-weights", "SmallVLA-LIBERO-object-sft", "--tasks", "3",
    "--env", "benchmarks.workers.dream:Prophet-Short-v0", "--reward", "benchmarks.workers.dream:brightness",
    "--device", "cpu", "--engine", "eager", "--loggers", "csv", "--config.groups", "2", "--config.group-size", "2",
    "--config.updates", "2",
]  # fmt: skip


def train(tmp_path, processes, updates, launcher=TORCHRUN, *more):
    script, folder = tmp_path / "train.py", tmp_path / str(processes)
    script.write_text(SCRIPT)
    launch = ["-m", *launcher, str(processes)]
    command = [sys.executable, *launch, str(script), *WORDS, str(updates), "--out", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count(f"{updates} update{'s' * (updates != 1)}") == 1
    return read_metrics(folder)


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


@pytest.mark.slow
def test_two_sharded_learners_send_whole_weights_to_the_workers_of_one_cluster(tmp_path):
    """One worker for each learner; what is learned is what one process learns."""
    pytest.importorskip("ray")
    from prophrl_algos.rollout import RayOptions
    from prophrl_algos.rollout._cluster import LEAST_STORE, Cluster

    run(tmp_path / "alone", [sys.executable, "-m", "prophrl_algos", *DREAM, "--num-envs", "2"])
    cluster = Cluster(RayOptions(workers=2), LEAST_STORE)
    try:
        address = cluster.ray.get_runtime_context().gcs_address
        launch = [sys.executable, "-m", *TORCHRUN, "2", "-m", "prophrl_algos", *DREAM, "--shard"]
        run(tmp_path / "two", [*launch, "--rollouts", "ray", "--ray-address", address])
    finally:
        cluster.close()
    assert newest(tmp_path / "two") == tmp_path / "two" / "last" / "update-00000002"
    alone, two = (read_metrics(tmp_path / name) for name in ("alone", "two"))
    assert [row["workers_lost"] for row in two] == ["0.0", "0.0"]
    # Not the weights: Adam makes a step of an entry whose gradient is nothing but rounding.
    for mine, theirs in zip(alone, two, strict=True):
        for name in ("return", "gradient_norm", "kl", "flow_gradient/00"):
            assert float(theirs[name]) == pytest.approx(float(mine[name]), rel=1e-3), name


def read_metrics(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def run(folder, command):
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:3000]
