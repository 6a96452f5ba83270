"""A tiny experiment, all of it in the dream."""

import pytest

from experiments.reinforce_in_dream.files import Place
from experiments.reinforce_in_dream.protocol import Arm, Size

STAND_IN = "Prophet-LIBERO-Object-v0"


@pytest.fixture
def short_dreams(monkeypatch):
    import prophet_gym.envs.vector_env as vector_env

    monkeypatch.setattr(vector_env.ProphetVectorEnv, "_at_horizon", lambda self, row: self._rows[row].elapsed >= 1)


@pytest.fixture
def place(tmp_path, record):
    """Return an experiment of two updates of two rollouts, all of it in the dream."""
    size = Size(
        tasks=(3,),
        arms={"fa-grpo": Arm("fa-grpo")},
        policy="benchmarks.toys:tiny",
        libero=STAND_IN,
        sft_tasks=(3,),
        sft_failing=(),
        sft_steps=2,
        sft_batch_size=4,
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
        scored_states=1,
        final_states=3,
        repeats=1,
        num_envs=2,
    )
    record(tmp_path / "data", 0, steps=4, task=3)
    return Place(size, (tmp_path / "data",), tmp_path / "out", tmp_path / "logs")
