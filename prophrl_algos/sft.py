"""Behaviour cloning of a flow policy, from which learning in the dream starts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym._checks import require_count, require_number
from prophet_gym._io.processor import Precision, autocast, reuse_memory
from prophet_gym._io.progress import progress
from prophrl_algos._checkpoint import load_checkpoint, save_checkpoint
from prophrl_algos._loggers import Logger
from prophrl_algos.flow import FlowPolicy, Obs
from prophrl_algos.rollout._groups import random_number

LAST = "sft.pt"
_DrawBatch = Callable[[int, torch.Generator], tuple[Obs, Float[Tensor, "b h a"]]]
"""`draw(batch_size, generator)`: observations, and the actions that were demonstrated next, in the env's units."""


@dataclass(frozen=True)
class SftConfig:
    """Configure behaviour cloning.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Number of demonstrations per step.
        learning_rate: Peak learning rate of AdamW: warmed up over 5% of the steps, then a cosine to a tenth.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Norm that gradients are clipped to.
        save_every: Number of steps between checkpoints.
        seed: Seed of all randomness.

    Raises:
        ValueError: A value is out of its range.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float | int = 3e-4
    weight_decay: float | int = 1e-4
    max_grad_norm: float | int = 1.0
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "batch_size": 1, "save_every": 1, "seed": 0}.items():
            require_count(name, getattr(self, name), least)
        require_number("learning_rate", self.learning_rate, above=0)
        require_number("weight_decay", self.weight_decay, least=0)
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")


def sft(
    policy: FlowPolicy,
    draw: _DrawBatch,
    config: SftConfig,
    folder: Path | None = None,
    *,
    logger: Logger | None = None,
    precision: Precision = "no",
    started: Callable[[], None] = lambda: None,
) -> float:
    """Fit a policy to demonstrations and return the mean loss of the last tenth of the steps.

    With a folder, `folder/sft.pt` is written atomically every `save_every` steps; a run that was killed resumes from it
    with the same result.

    Args:
        policy: Policy, trained in place in train mode and left in eval mode.
        draw: Draws a batch of demonstrations.
        config: Steps, batch size and optimizer.
        folder: Folder of the checkpoint; by default none is written.
        logger: Logs the loss every 50 steps.
        precision: Precision of the matrix products in the loss.
        started: Called once it is known that the folder's run is this one.

    Raises:
        FloatingPointError: The loss is not finite; nothing of that step is saved.
        ValueError: The folder holds a run with another configuration.
    """
    assert isinstance(policy, nn.Module)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = _optimizer(weights, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    path = None if folder is None else folder / LAST
    parts = {"policy": policy, "optimizer": optimizer, "schedule": schedule}
    first, losses = _resume(path, parts, config)
    started()
    policy.train()
    for step in progress(range(first, config.steps), "sft", done=first, total=config.steps, unit="step"):
        # A generator per step, so that a resumed run draws what the whole one would have drawn.
        generator = torch.Generator().manual_seed(random_number(config.seed, 20, step))
        obs, actions = draw(config.batch_size, generator)
        with autocast(weights[0].device, precision):
            loss = policy.sft_loss(obs, actions, generator=generator)
        losses.append(loss.item())
        # Before the backward pass: the weights of the last checkpoint stay usable.
        if not losses[-1] < math.inf:
            raise FloatingPointError(
                f"the loss of step {step} is {losses[-1]}; look at the demonstrations or lower the learning rate"
            )
        _step(loss, weights, optimizer, config.max_grad_norm)
        schedule.step()
        last = step + 1 == config.steps
        if logger is not None and (step % 50 == 0 or last):
            logger.log({"sft_loss": losses[-1], "learning_rate": float(schedule.get_last_lr()[0])}, step)
        if path is not None and (last or (step + 1) % config.save_every == 0):
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(path, state | {"step": step + 1, "config": asdict(config), "losses": losses})
    policy.eval()
    recent = losses[-max(config.steps // 10, 1) :]
    return sum(recent) / len(recent)


def _step(loss: Tensor, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, norm: float | int) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(weights, norm)
    optimizer.step()


def _optimizer(weights: list[nn.Parameter], config: SftConfig) -> torch.optim.AdamW:
    if weights[0].device.type == "cpu":
        reuse_memory()
    decay = config.weight_decay
    return torch.optim.AdamW(weights, config.learning_rate, betas=(0.9, 0.95), weight_decay=decay, fused=True)


def _rate(step: int, steps: int) -> float:
    """Return the factor on the learning rate: a warm-up over 5% of the steps times a cosine from 1 to 0.1."""
    warm = min(1.0, (step + 1) / max(0.05 * steps, 1))
    return warm * (0.55 + 0.45 * float(torch.cos(torch.tensor(torch.pi * step / steps))))


def _resume(path: Path | None, parts: Mapping[str, Any], config: SftConfig) -> tuple[int, list[float]]:
    """Load the parts of the last checkpoint if there is one, and return the steps done and their losses."""
    if path is None or not path.exists():
        return 0, []
    state = load_checkpoint(path, next(parts["policy"].parameters()).device)
    if state["config"] != asdict(config):
        raise ValueError(f"{path} is of a run with {state['config']}, asked for {asdict(config)}; use another folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"]), list(state["losses"])
