"""Full training on networks in miniature: it learns, resumes to the bit, and processes and checkpoints add up."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.train._fit import FitConfig
from prophet_gym.train._full import Batching, Draws, choose_trained, clip_losses, draw, placed, train_full

accelerate = pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")

from prophet_gym.data import MixtureEntry, WindowDataset, WindowLoader, WindowShape  # noqa: E402
from prophet_gym.prophet._flow import karras_sigmas  # noqa: E402

from .toy_full import Squares, first_weights, list_states, read_state, run, squares  # noqa: E402

SCRIPT = Path(__file__).with_name("toy_full.py")


def newest(folder: Path) -> dict:
    return read_state(list_states(folder)[-1])


def gradient(folder: Path) -> dict[str, torch.Tensor]:
    """Ten times AdamW's first moment: after one step it is the gradient, after two a mean of two of them."""
    state = newest(folder)
    matrices = [name for name, value in state["trained"].items() if value.ndim >= 2]
    names = matrices + [name for name in state["trained"] if name not in matrices]
    return {name: 10 * state["optimizer"]["state"][index]["exp_avg"] for index, name in enumerate(names)}


def first_gradient(folder: Path, *, steps: int = 1, **options) -> dict[str, torch.Tensor]:
    run(folder, steps=steps, learning_rate=1e-9, clip=1e9, save_every=1e9, **options)
    return gradient(folder)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    largest = max(value.abs().max().item() for value in one.values())
    assert largest > 0.01
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=tolerance * largest, msg=name)


def losses_of(prophet, rows: int = 8, chunks: int = 1) -> torch.Tensor:
    """The loss of unseen clips, always at the same noise."""
    clips = squares(prophet, chunks, Squares(episodes=5))
    batch = next(iter(WindowLoader(clips, rows, seed=7)))
    with torch.no_grad():
        return clip_losses(
            prophet.transformer, prophet.autoencoder, batch.history, batch.frames, batch.actions,
            draw(range(rows), chunks, (16, 1, 4, 4), seed=7), karras_sigmas(2),
        )  # fmt: skip


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_it_learns_from_a_toy_recording(lora_rank, tmp_path):
    before = losses_of(first_weights()).item()
    prophet = run(tmp_path, steps=40, lora_rank=lora_rank, learning_rate=1e-2, save_every=1e9)
    assert losses_of(prophet).item() < (0.9 if lora_rank else 0.6) * before


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    steps = 12
    whole = run(tmp_path / "whole", steps=steps)
    child = subprocess.Popen(
        [sys.executable, SCRIPT, tmp_path / "killed", str(steps), "1e-3", "1"], stderr=subprocess.DEVNULL
    )
    while len(list_states(tmp_path / "killed")) < 2 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = newest(tmp_path / "killed")["step"]
    assert 2 <= left < steps
    resumed = run(tmp_path / "killed", steps=steps)
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "killed")
    assert one["step"] == other["step"] == steps
    assert one["data"] == other["data"]
    for part in ("trained", "average"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    for index, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][name]) for name, value in moments.items())
    for name, value in whole.transformer.state_dict().items():
        assert torch.equal(value, resumed.transformer.state_dict()[name])
    kept = {path.name for path in (tmp_path / "killed" / "states" / "full").iterdir()}
    assert kept == {f"step-{steps - 1:08d}", f"step-{steps:08d}"}


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_twice_the_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / "two", "2", "1e-9", "1e9"],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
        )
        for rank in range(2)
    ]
    one = first_gradient(tmp_path / "one", rows=4, steps=2)
    half = first_gradient(tmp_path / "half", rows=2, steps=2)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    assert newest(tmp_path / "two")["data"]["read"] == 8
    assert_same(one, gradient(tmp_path / "two"))
    with pytest.raises(AssertionError):
        assert_same(half, gradient(tmp_path / "two"))


def test_accumulated_batches_are_one_batch(tmp_path):
    whole = first_gradient(tmp_path / "whole", rows=4)
    assert_same(whole, first_gradient(tmp_path / "parts", rows=1, accumulate=4))


def test_checkpointed_blocks_give_the_same_gradient(tmp_path, monkeypatch):
    from prophet_gym.prophet import _transformer as transformer

    plain = first_gradient(tmp_path / "plain", chunks=2)
    calls = []
    original = transformer.ProphetBlock.forward
    monkeypatch.setattr(transformer.ProphetBlock, "forward", lambda *inputs: calls.append(1) or original(*inputs))
    assert_same(plain, first_gradient(tmp_path / "checkpointed", chunks=2, checkpointing=True), 1e-6)
    # Two blocks of the loss, each computed twice, and three sampler calls in between.
    assert len(calls) == 2 * 2 + 3


def test_bfloat16_computes_nearly_the_same_gradient_for_weights_in_float32(tmp_path):
    full = first_gradient(tmp_path / "full", rows=4)
    half = first_gradient(tmp_path / "half", rows=4, precision="bf16")
    flat, other = (torch.cat([value.flatten() for value in grad.values()]) for grad in (full, half))
    assert other.dtype == torch.float32
    assert 0 < (flat - other).norm() < 0.1 * flat.norm()
    assert all(value.dtype == torch.float32 for value in newest(tmp_path / "half")["trained"].values())


def test_later_chunks_start_from_what_the_model_dreams():
    """The second chunk's loss is the usual one, its past the dream of the first."""
    prophet = first_weights()
    batch = next(iter(WindowLoader(squares(prophet, 2), 2)))
    draws, levels = draw([0, 1], 2, (16, 1, 4, 4), seed=0), karras_sigmas(2)
    real = Draws(draws.sigmas[:, :1], draws.noise[:, :1], draws.dream_noise[:, :0])
    second = Draws(draws.sigmas[:, 1:], draws.noise[:, 1:], draws.dream_noise[:, :0])

    def losses(history, frames, actions, drawn):
        with torch.no_grad():
            return clip_losses(prophet.transformer, prophet.autoencoder, history, frames, actions, drawn, levels)

    both = losses(batch.history, batch.frames, batch.actions, draws)
    first = losses(batch.history, batch.frames[:, :5], batch.actions[:, :4], real)
    torch.testing.assert_close(both[:1], first)

    past = torch.cat([batch.history, batch.frames[:, :1]], dim=1)
    from prophet_gym.prophet._full import appended, decode_chunk, encode_conditions, sample_chunk

    with torch.no_grad():
        conditions = encode_conditions(prophet.autoencoder, past, batch.actions[:, :4], "oldest_finest")
        latents = sample_chunk(prophet.transformer, conditions, draws.dream_noise[:, 0], levels)
        dreamt = appended(past, decode_chunk(prophet.autoencoder, conditions.given, latents))
    frames = torch.cat([dreamt[:, -1:], batch.frames[:, 5:]], dim=1)
    torch.testing.assert_close(both[1:], losses(dreamt[:, :-1], frames, batch.actions[:, 4:], second))
    forced = losses(
        past[:, :-1], torch.cat([batch.frames[:, 4:5], batch.frames[:, 5:]], 1), batch.actions[:, 4:], second
    )
    assert not torch.equal(both[1:], forced)


def test_the_noise_of_a_clip_belongs_to_its_place():
    whole = draw([4, 5, 6, 7], 2, (16, 1, 4, 4), seed=3)
    other = draw([7, 5], 2, (16, 1, 4, 4), seed=3)
    for name in ("sigmas", "noise", "dream_noise"):
        assert torch.equal(getattr(other, name), getattr(whole, name)[[3, 1]])
    assert len(set(whole.sigmas.flatten().tolist())) == 8
    assert not torch.equal(whole.noise, draw([4, 5, 6, 7], 2, (16, 1, 4, 4), seed=4).noise)


def test_processes_share_places_without_gaps():
    clips = squares(first_weights())
    ranks = [placed(WindowLoader(clips, 3, rank=rank, ranks=2)) for rank in range(2)]
    taken = [[next(batches)[1] for _ in range(2)] for batches in ranks]
    assert taken == [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]


def test_what_is_not_read_is_not_trained():
    prophet = first_weights()
    choose_trained(prophet)
    frozen = {name.rsplit(".", 1)[0] for name, p in prophet.transformer.named_parameters() if not p.requires_grad}
    conditioner = {name for name in frozen if name.startswith("action_frame_embedder.")}
    assert len(conditioner) == 7
    assert frozen - conditioner == {"history_memory.levels.1", "history_memory.levels.2"}
    silent = first_weights()
    torch.nn.init.zeros_(silent.transformer.action_embedder.to_embedding.linear_2.weight)
    with pytest.raises(ValueError, match="does not follow actions yet"):
        choose_trained(silent, lora_rank=4)


def test_wrong_runs_are_refused(tmp_path):
    run(tmp_path, steps=1)
    with pytest.raises(CheckpointError, match="of a run that trains other weights"):
        run(tmp_path, steps=2, lora_rank=2)
    state = list_states(tmp_path)[-1] / "optimizer.bin"
    state.write_bytes(state.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"is damaged or cut.*; remove .* to resume from the state before"):
        run(tmp_path, steps=2)

    def train(prophet, clips):
        accelerator = accelerate.Accelerator(cpu=True)
        train_full(prophet, clips, tmp_path / "other", FitConfig(1, 1e-3), Batching(), accelerator=accelerator)

    prophet = first_weights()
    with pytest.raises(ValueError, match="must be a full Prophet, got a small one"):
        train(tiny_prophet(), squares(prophet))
    with pytest.raises(ValueError, match=r"clips must be WindowShape\(history=1, steps=4, size=\(32, 32\)\)"):
        train(prophet, WindowDataset([MixtureEntry(Squares())], WindowShape(8, 8, (32, 32))))
    narrow = WindowDataset(
        [MixtureEntry(Squares(), plan=lambda actions, tools: (actions[:, :7], tools))], squares(prophet).shape
    )
    with pytest.raises(ValueError, match="reads actions of 14 dimensions, data set 0, a Squares, gives 7"):
        train(prophet, narrow)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_before(tmp_path):
    run(tmp_path, steps=2)
    before = np.array([p.stat().st_mtime_ns for p in list_states(tmp_path)])
    with pytest.raises(FloatingPointError, match="at step 3; the last state is good"):
        run(tmp_path, steps=9, learning_rate=float("inf"), save_every=1e9)
    assert before.tolist() == [p.stat().st_mtime_ns for p in list_states(tmp_path)]
