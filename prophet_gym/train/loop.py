"""The loop around a training step: progress, TensorBoard, EMA, checkpoints that survive a kill."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from prophet_gym._io.tensor_files import read_torch, require_finite, write_torch
from prophet_gym.errors import CheckpointError
from prophet_gym.train.events import open_events

Step = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""`step(index, generator) -> (loss, figures to log)`; all randomness comes from the generator, seeded by the index."""


Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak; warmed up, constant, then decayed linearly to zero.
        warmup: steps of warm-up.
        decay: share of the steps, at the end, in which the rate falls.
        weight_decay: of AdamW, on matrices.
        clip: gradient norm limit.
        ema: decay of the averaged weights.
        save_every: seconds between checkpoints.
        seed: of all randomness.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    save_every: float = 120.0
    seed: int = 0


def learning_rate(step: int, config: LoopConfig, used: float = 0.0) -> float:
    """Warm up linearly, stay, fall linearly to zero over the last share of the steps or of the time.

    Args:
        step: this one.
        config: the schedule.
        used: share of the time that is gone, where time is limited.
    """
    left = min((config.steps - step) / max(config.decay * config.steps, 1), (1 - used) / max(config.decay, 1e-9))
    return config.learning_rate * min(1.0, (step + 1) / config.warmup, max(left, 0.0))


def adamw(parameters: Sequence[nn.Parameter], config: LoopConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices alone; betas as A2World (reference.md: "Training objective")."""
    matrices, others = ([p for p in parameters if (p.ndim >= 2) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))


@torch.no_grad()
def update_average(average: Sequence[Tensor], parameters: Sequence[Tensor], step: int, config: LoopConfig) -> None:
    """Move the average towards the weights after step `step`, faster in the first steps."""
    torch._foreach_lerp_(list(average), list(parameters), 1 - min(config.ema, (1 + step) / (10 + step)))


def atomic_save(state: Mapping[str, Any], path: Path) -> None:
    """Write `path` whole or not at all, whenever the process is killed."""
    write_torch(dict(state), path)


def on_device(model: Model, device: torch.device) -> Model:
    """Move a model and return it."""
    nn.Module.to(model, device)
    return model


def train_loop(
    model: Model, step: Step, config: LoopConfig, folder: Path, *, name: str, minutes: float = math.inf
) -> Model:
    """Run the steps that are left, or those that the time allows, and return the averaged model.

    A checkpoint `folder/<name>.pt` (weights, average, optimiser, step) is written every `save_every` seconds, whole;
    a run that was killed goes on from it.

    Args:
        model: trained in place, on the device where it lies.
        step: see `Step`.
        config: the schedule.
        folder: where checkpoint and TensorBoard events go.
        name: of this stage.
        minutes: of wall-clock time, that of the runs before a kill counted; the learning rate falls towards its end as
            towards that of the steps. A run that it has ended goes on when it is given more.

    Raises:
        FloatingPointError: the loss is not finite; nothing of that step is saved.
        ValueError: no time at all, or fewer steps than were taken already.
    """
    if minutes <= 0:
        raise ValueError(f"minutes={minutes} must be above 0")
    device = next(model.parameters()).device
    optimizer = adamw(list(model.parameters()), config)
    average = copy.deepcopy(model).requires_grad_(requires_grad=False)
    path = folder / f"{name}.pt"
    done, spent = _resume(path, model, average, optimizer, device)
    if done > config.steps:
        raise ValueError(
            f"{path} has {done} steps already, and {config.steps} are asked for: ask for as many or more, or use "
            "another folder"
        )
    saved, smooth = time.monotonic(), math.nan
    began, unsaved = saved - spent, 0
    with (
        open_events(folder / "tensorboard" / name) as log,
        tqdm(total=config.steps, initial=done, desc=name, unit="step", mininterval=5) as bar,
    ):
        for index in range(done, config.steps):
            used = (time.monotonic() - began) / (60 * minutes)
            if used >= 1:
                break
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(index, config, used)
            loss, figures = step(index, generator)
            value = loss.item()
            _require_finite(value, name, index, path)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            update_average(list(average.parameters()), list(model.parameters()), index, config)
            smooth = value if math.isnan(smooth) else 0.99 * smooth + 0.01 * value
            if index % 20 == 0:
                for key, figure in {"loss": value, "gradient_norm": norm.item(), **figures}.items():
                    log.add_scalar(key, figure, index)
            bar.update()
            bar.set_postfix_str(f"loss {smooth:.5f}", refresh=False)
            unsaved += 1
            if (now := time.monotonic()) - saved > config.save_every:
                _save(path, model, average, optimizer, index + 1, now - began)
                saved, unsaved, done = time.monotonic(), 0, index + 1
    if unsaved:
        _save(path, model, average, optimizer, done + unsaved, time.monotonic() - began)
    return average


def _require_finite(loss: float, name: str, index: int, path: Path) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss of {name} is {loss} at step {index}; {path} holds the last good state: look at the data, then "
            "go on with a lower learning rate"
        )


def _resume(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = read_stage(path, device)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state.get("seconds", 0.0)


def read_stage(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `train_loop` saved of a stage.

    Raises:
        CheckpointError: the file is damaged, of another program, or its weights have numbers that are not finite.
    """
    try:
        state = read_torch(path, device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to begin this stage again") from error
    if not isinstance(state, dict) or not state.keys() >= {"model", "average", "optimizer", "step"}:
        raise CheckpointError(f"{path} is no training state: it must have model, average, optimizer and step")
    for weights in ("model", "average"):
        require_finite(state[weights], path)
    return state


def _save(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    atomic_save(state, path)
