"""Several processes train the small Prophet together: gradients are averaged, batches and dreams are each one's own."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from prophet_gym._io.processes import gathered, joined
from prophet_gym.checkpoint import Checkpoint

pytest.importorskip("tensorboard")

FIT = """
import sys
import torch
from torch import nn
from prophet_gym._io.processes import gathered, joined
from prophet_gym.train._fit import FitConfig, fit

joined(cpu=True, precision="no")
torch.manual_seed(0)
model, seen = nn.Linear(3, 1, bias=False), []

class Counted:
    number = 0
    def state_dict(self): return {"number": self.number}
    def load_state_dict(self, state): self.number = state["number"]

mine = Counted()

def loss(model, index, generator):
    x = torch.randn(4, 3, generator=generator)
    seen.append(x)
    mine.number += 1 + 10 * gathered.rank
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

gathered.rank = torch.distributed.get_rank()
begin = model.weight.detach().clone()
steps = int(sys.argv[2])
config = FitConfig(steps=steps, learning_rate=0.05, warmup=1, ema=None, clip=1e9, weight_decay=0.0, decay=0.0)
from pathlib import Path
fit(model, loss, config, Path(sys.argv[1]), name="line", state=(mine,))
torch.save({"seen": torch.stack(seen) if seen else None, "begin": begin, "end": model.weight.detach(),
            "number": mine.number}, f"{sys.argv[1]}/{gathered.rank}-{steps}.pt")
"""
SMALL = """
import sys
from pathlib import Path
from prophet_gym.train._small import Args, main
steps = {"autoencoder_steps": 2, "decoder_steps": 1, "tracker_steps": 2, "steps": 3}
sizes = {"batch_size": 4, "layers": 1, "width": 96, "held_out": 4, "single_until": 0.4}
main(Args(data=(Path(sys.argv[1]),), out=Path(sys.argv[2]), device="cpu", **steps, **sizes))
"""


def begin_two(script: str, *words: object) -> list[subprocess.Popen]:
    """Start a script in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *map(str, words)]
    own = ({**shared, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(2))
    return [subprocess.Popen(command, env=each, stderr=subprocess.PIPE, text=True) for each in own]


def two(script: str, *words: object) -> None:
    """Run a script in two processes."""
    ranks = begin_two(script, *words)
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said


@pytest.mark.slow
def test_gradients_are_averaged_and_each_process_goes_on_with_its_own(tmp_path):
    two(FIT, tmp_path, 1)
    one, other = (torch.load(tmp_path / f"{rank}-1.pt") for rank in range(2))
    assert not torch.equal(one["seen"], other["seen"])
    assert torch.equal(one["end"], other["end"])
    weight = one["begin"].requires_grad_()
    x = torch.cat([one["seen"][0], other["seen"][0]])
    (x @ weight.T - x.sum(1, keepdim=True)).square().mean().backward()
    # AdamW's first step is as long as its rate, against the sign of the gradient.
    torch.testing.assert_close(one["end"], one["begin"] - 0.05 * weight.grad.sign(), rtol=0, atol=1e-5)
    two(FIT, tmp_path, 3)
    numbers = [torch.load(tmp_path / f"{rank}-3.pt")["number"] for rank in range(2)]
    assert numbers == [3, 33]
    stored = load_file(sorted(tmp_path.glob("states/line/step-*"))[-1] / "model.safetensors")
    assert torch.equal(stored["weight"], torch.load(tmp_path / "1-3.pt")["end"])


@pytest.mark.slow
def test_a_process_that_is_lost_while_states_are_saved_is_named(tmp_path):
    script = FIT.replace("steps=steps,", "steps=steps, save_every=0.0,")
    assert script != FIT
    first, second = begin_two(script, tmp_path, 100_000)
    while not list(tmp_path.glob("states/line/step-*")):
        assert [each.poll() for each in (first, second)] == [None, None]
        time.sleep(0.2)
    second.kill()
    said = first.communicate(timeout=120)[1]
    second.communicate()
    assert first.returncode == 1
    assert "ProcessLostError: another process was lost while process 0 of 2 on" in said
    assert "training line" in said
    assert "The same command resumes from the last state" in said


@pytest.mark.slow
def test_two_processes_make_a_small_prophet(toy_recording, tmp_path):
    two(SMALL, toy_recording, tmp_path / "out")
    prophet = Checkpoint.named(str(tmp_path / "out" / "checkpoint")).world_model(device="cpu")
    assert all(torch.isfinite(weight).all() for weight in prophet.transformer.parameters())
    last = sorted((tmp_path / "out").glob("states/transformer/step-*"))[-1]
    dreams = torch.load(last / "processes.pt")
    assert len(dreams) == 2
    assert not torch.equal(dreams[0]["state"][0]["current"], dreams[1]["state"][0]["current"])


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert gathered("mine") == ["mine"]
    assert joined(cpu=True).num_processes == 1
