"""Shards on two processes (FSDP2) train the full Prophet in miniature as one process with twice the batch does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prophet_gym._io.processes._sharding import read_shards

pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")

from .toy_full import list_states, read_state, run

SCRIPT = Path(__file__).with_name("toy_full.py")
STEPS, RATE = 3, 1e-3


def two(folder: Path, *, steps: int = STEPS, **options) -> None:
    """Train in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, SCRIPT, folder, str(steps), str(RATE), "1.0", json.dumps(options)]
    ranks = [subprocess.Popen(words, env={**shared, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Trained weights and their average in the newest state, whether it is in shards or not."""
    state = list_states(folder)[-1]
    if not (state / "model.safetensors").exists():
        found = read_shards(state, lambda _, shape, dtype: torch.empty(shape, dtype=dtype))
        return {name: value for name, value in found.items() if not name.startswith("optimizer/")}
    stored = read_state(state)
    return {f"{part}/{name}": value for part in ("trained", "average") for name, value in stored[part].items()}


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["full", "lora"])
def test_shards_learn_what_one_process_learns_and_go_on_in_one(tmp_path, options):
    run(tmp_path / "one", steps=STEPS, rows=4, learning_rate=RATE, save_every=1e9, **options)
    two(tmp_path / "two", steps=STEPS - 1, sharded=True, **options)
    (state,) = list_states(tmp_path / "two")[-1:]
    assert {path.suffix for path in state.iterdir()} == {".safetensors", ".pt", ".json"}
    assert len(list(state.glob("shard-*"))) == 2
    run(tmp_path / "two", steps=STEPS, rows=4, learning_rate=RATE, save_every=1e9, **options)
    assert (list_states(tmp_path / "two")[-1] / "model.safetensors").exists()
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_shards_dream_what_whole_weights_dream(tmp_path):
    """Dreams are rounded to images, and their last bits depend on the batch: so two processes beside two."""
    options = {"chunks": 2, "checkpointing": True}
    two(tmp_path / "whole", **options)
    two(tmp_path / "shards", sharded=True, **options)
    assert_near(weights(tmp_path / "whole"), weights(tmp_path / "shards"))


@pytest.mark.slow
def test_shards_go_on_from_one_process(tmp_path):
    run(tmp_path / "one", steps=STEPS, rows=4, learning_rate=RATE, save_every=1e9)
    run(tmp_path / "more", steps=STEPS - 1, rows=4, learning_rate=RATE, save_every=1e9)
    two(tmp_path / "more", sharded=True)
    assert len(list(list_states(tmp_path / "more")[-1].glob("shard-*"))) == 2
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "more"))
