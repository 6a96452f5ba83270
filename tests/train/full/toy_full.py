"""A full Prophet in miniature and a toy data set; run as a script it is one run of training, which a test may kill."""

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from prophet_gym.data import Episode, MixtureEntry, WindowDataset
from prophet_gym.prophet import FullProphet, tiny_full_prophet
from prophet_gym.train._fit import FitConfig
from prophet_gym.train._full import Batching, choose_trained, clip_shape, train_full


@dataclass(frozen=True)
class Squares:
    """A white square that the first two of the model's numbers push about.

    The episodes `posed` say where a tool is, and are seen by a camera that looks straight down.
    """

    episodes: int = 3
    length: int = 20
    posed: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.episodes

    def steps(self, index: int) -> int:
        return self.length

    def episode(self, index: int) -> Episode:
        actions = np.random.default_rng(index).uniform(-1, 1, (self.length, 14)).astype(np.float32)
        known = (_tools(actions), CAMERA) if index in self.posed else (None, None)
        return Episode(f"squares {index}", actions, "push", 20.0, "toy", partial(_frames, actions), *known)


CAMERA = np.array([[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])


def _tools(actions: np.ndarray) -> np.ndarray:
    tools = np.zeros((len(actions) + 1, 1, 7), np.float32)
    tools[1:, 0, :2] = np.clip(np.cumsum(0.25 * actions[:, :2], axis=0), -0.6, 0.6)
    return tools


def as_posed(actions: np.ndarray, tools: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and poses as they are."""
    return actions, tools


def _frames(actions: np.ndarray, start: int, stop: int) -> np.ndarray:
    places = np.clip(16 + np.concatenate([np.zeros((1, 2)), np.cumsum(4 * actions[:, :2], axis=0)]), 6, 26).astype(int)
    frames = np.full((stop - start, 32, 32, 3), 60, np.uint8)
    for frame, (x, y) in zip(frames, places[start:stop], strict=True):
        frame[y - 5 : y + 5, x - 5 : x + 5] = 255
    return frames


def first_weights(*, draw_tools: bool = False) -> FullProphet:
    """The same whenever it is called; one past frame is enough here."""
    prophet = tiny_full_prophet()
    config = replace(prophet.config, history_frames=1, draw_tools=draw_tools)
    return FullProphet(prophet.transformer, prophet.autoencoder, config)


def squares(prophet, chunks: int = 1, source: Squares | None = None) -> WindowDataset:
    return WindowDataset([MixtureEntry(source or Squares(), plan=as_posed)], clip_shape(prophet.config, chunks))


def run(
    folder: Path, *, steps: int, rows: int = 2, accumulate: int = 1, chunks: int = 1, lora_rank: int = 0,
    learning_rate: float = 1e-3, precision: str = "no", checkpointing: bool = False, save_every: float = 0.0,
    workers: int = 0, ema: float = 0.9, clip: float = 1.0, draw_tools: bool = False, posed: tuple[int, ...] = (),
    sharded: bool = False,
):  # fmt: skip
    """Train from the same first weights; returns the Prophet with averaged weights."""
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps its settings for the whole process
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    prophet = first_weights(draw_tools=draw_tools)
    choose_trained(prophet, lora_rank=lora_rank)
    if checkpointing:
        prophet.transformer.enable_gradient_checkpointing()
    schedule = FitConfig(
        steps, learning_rate, warmup=1, ema=ema, save_every=save_every, clip=clip, weight_decay=0.1, keep=2,
        accumulate=accumulate, sharded=sharded,
    )  # fmt: skip
    batching = Batching(rows, chunks, sampler_steps=2, workers=workers)
    train_full(
        prophet, squares(prophet, chunks, Squares(posed=posed)), folder, schedule, batching, accelerator=accelerator
    )
    accelerator.end_training()
    return prophet


def list_states(folder: Path) -> list[Path]:
    """The whole states of a run, oldest first."""
    return sorted(path.parent for path in folder.glob("states/full/step-*/progress.json"))


def read_state(path: Path) -> dict:
    """What a state holds."""
    return {
        "step": json.loads((path / "progress.json").read_text())["step"],
        "trained": load_file(path / "model.safetensors"),
        "average": load_file(path / "average.safetensors"),
        "optimizer": torch.load(path / "optimizer.bin", weights_only=True),
        "data": torch.load(path / "custom_checkpoint_0.pkl", weights_only=True),
    }


if __name__ == "__main__":
    options = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
    learning_rate, clip = map(float, sys.argv[3:5])
    run(Path(sys.argv[1]), steps=int(sys.argv[2]), rows=2, learning_rate=learning_rate, clip=clip, **options)
