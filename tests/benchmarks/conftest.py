"""A tiny proof, all of it in the dream, for the tests of the proof's scripts."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = "Prophet-LIBERO-Object-v0"


@pytest.fixture
def benchmark(monkeypatch):
    """`benchmark(name)`: a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def short_dreams(monkeypatch):
    import prophet_gym.envs.vector_env as vector_env

    monkeypatch.setattr(vector_env.ProphetVectorEnv, "_at_horizon", lambda self, row: self._rows[row].elapsed >= 1)


@pytest.fixture
def place(benchmark, tmp_path, record):
    """A proof of two updates of two rollouts, all of it in the dream."""
    sizes = benchmark("proof_sizes")
    size = sizes.Size(
        tasks=(3,),
        arms={"fa-grpo": sizes.Arm("fa-grpo")},
        policy="tiny",
        reality=STAND_IN,
        sft_tasks=(3,),
        sft_failing=(),
        sft_steps=2,
        sft_rows=4,
        choose_episodes=2,
        choose_first=0,
        rates=(1e-4,),
        updates=2,
        groups=1,
        group_size=2,
        epochs=1,
        minibatches=1,
        point_every=1,
        point_states=2,
        watched_states=1,
        final_states=3,
        repeats=1,
        rows=2,
    )
    record(tmp_path / "data", 0, steps=4, task=3)
    return benchmark("proof_files").Place(size, (tmp_path / "data",), tmp_path / "out", tmp_path / "logs")
