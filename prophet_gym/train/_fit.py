"""The loop that every model is trained with: it resumes after a kill, averages the weights and logs to one place."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prophet_gym._checks import warn
from prophet_gym._io.processes import gathered, joined, lost_named, package_versions, require_alike
from prophet_gym._io.processes._sharding import shard, whole
from prophet_gym._io.processor import reuse_memory
from prophet_gym._io.progress import progress
from prophet_gym.train._run_folder import States

if TYPE_CHECKING:
    from accelerate import Accelerator

Loss = Callable[[Any, int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""`loss(model, step, generator) -> (loss or losses, figures to log)`: the mean of several losses is minimised.

`model` is what was given to `fit`; the generator is seeded by the step and, of several processes, by which it is."""
Model = TypeVar("Model", bound=nn.Module)
MEANINGS = {
    "loss": "Loss that is minimised.",
    "loss_*": "Losses of which `loss` is the mean: in distillation one of each sampler step.",
    "gradient_norm": "Norm of the gradient before it is clipped.",
    "learning_rate": "Learning rate: it is warmed up, stays, then falls.",
    "psnr": "PSNR in dB of the images that the autoencoder decodes, on the crops of the step.",
    "psnr_moved": "PSNR in dB where the image differs from the episode's first frame.",
    "against_copy": "Squared error of a dream's first chunk over that of the last frame, copied; 1 is no better.",
}
"""Event -> its meaning, for reports."""


@dataclass(frozen=True)
class FitConfig:
    """Say how long, how fast and how often to train."""

    steps: int  # Optimizer steps in all.
    learning_rate: float  # Its peak: it is warmed up, stays, then falls linearly to zero.
    warmup: int = 200  # Steps of warm-up.
    decay: float = 0.3  # Fraction of the steps, at the end, in which the rate falls.
    weight_decay: float = 0.01  # Of AdamW, on matrices.
    clip: float = 1.0  # The largest norm of the gradient; `inf` only measures it.
    ema: float | None = 0.999  # Decay of the averaged weights, which are the result; None keeps the last weights.
    minutes: float = math.inf
    """Wall-clock time, that of the runs before a kill included; the rate falls towards its end as towards that of
    the steps."""
    accumulate: int = 1  # Batches per optimizer step.
    save_every: float = 120.0  # Seconds between training states.
    keep: int = 1  # Training states that stay on disk, the newest ones.
    seed: int = 0  # Of all randomness.
    sharded: bool = False  # Whether several processes share out weights, gradients and moments (FSDP2).

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes={self.minutes} must be above 0")

    def rate(self, step: int, used: float = 0.0) -> float:
        """Return the fraction of the peak rate in a step, from 0; `used` is the fraction of the time that is gone."""
        # `used` too, so that a run which its time ends has cooled down as one that its steps end.
        left = min((self.steps - step) / max(self.decay * self.steps, 1), (1 - used) / max(self.decay, 1e-9))
        return min(1.0, (step + 1) / max(self.warmup, 1), max(left, 0.0))

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        """Return AdamW that decays matrices alone; betas as A2World (reference.md: "Training objective")."""
        # Decay pulls to zero, where the scale of a norm or a bias has no business to be.
        matrices, others = ([p for p in parameters if (p.ndim >= 2) is wanted] for wanted in (True, False))
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.99), fused=True)


@dataclass(frozen=True)
class CosineConfig(FitConfig):
    """Train small heads and adapters: cosine to zero after the warm-up, torch's AdamW, and the last weights."""

    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = math.inf
    ema: float | None = None

    def rate(self, step: int, used: float = 0.0) -> float:
        """Return the fraction of the peak rate; the cosine follows steps or time, whichever is nearer its end."""
        progress = min(max(step / self.steps, used), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress)) * min(1.0, (step + 1) / max(self.warmup, 1))

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        """Return AdamW that decays all weights."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


def fit(
    model: Model,
    loss: Loss,
    config: FitConfig,
    folder: Path | None = None,
    *,
    name: str,
    state: Sequence[Any] = (),
    accelerator: "Accelerator | None" = None,
) -> Model:
    """Take the steps that are left, or those that the time allows, and return the model with its averaged weights.

    Whatever requires gradients is trained. Under `accelerate launch` or torchrun the processes average their gradients;
    each makes its own batches, and the main one writes. A training state goes to `folder/states/name` all `save_every`
    seconds, whole; a run that was killed resumes from the newest to the same bits.

    Args:
        model: Trained in place, on the device where it lies.
        loss: See `Loss`; all its randomness comes from its generator or from `state`.
        config: The schedule.
        folder: Of the run; without one nothing is written.
        name: Of this model in the run.
        state: What else changes and is saved, e.g. the loader of the data, by `state_dict` and `load_state_dict`.
        accelerator: Of a run in mixed precision, or with options of its own; float32 if not given.

    Raises:
        FloatingPointError: The loss is not finite; nothing of that step is saved.
        ValueError: The run has taken more steps than are asked for.
        CheckpointError: The newest state is damaged, or of other weights.
        ProcessLostError: Another process was lost.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> data = torch.linspace(-1, 1, 8)[:, None]
        >>> loss = lambda model, step, generator: ((model(data) - 2 * data).square().mean(), {})
        >>> fitted = fit(model, loss, FitConfig(200, learning_rate=0.05, warmup=1, ema=0.9), name="line")
        >>> round(fitted.weight.item(), 1)
        2.0
    """
    run = _Run(model, loss, config, accelerator, name)
    states = run.states(folder, state)
    done, spent = (0, 0.0) if states is None else states.resume(config.steps)
    began = time.monotonic() - spent  # runs before a kill are counted
    used = lambda: 0.0 if math.isinf(config.minutes) else run.since(began) / (60 * config.minutes)  # noqa: E731
    scheduler = run.scheduler(done, used)
    saved, unsaved, latest = time.monotonic(), False, math.nan
    with run.watched(), _log(folder, name, config.steps, done, shown=run.accelerator.is_main_process) as log:
        for index in range(done, config.steps):
            if used() >= 1:
                break
            latest = log(index, run.step(index))
            scheduler.step()
            done, unsaved = index + 1, True
            if states is not None and run.since(saved) > config.save_every:
                states.save(done, time.monotonic() - began, loss=latest, keep=config.keep)
                saved, unsaved = time.monotonic(), False
        # A run that had nothing left to do leaves its state as it was.
        if states is not None and unsaved:
            states.save(done, time.monotonic() - began, loss=latest, keep=config.keep)
    return run.averaged(model)


class _Run:
    """Take optimizer steps with model and optimizer as accelerate prepares them, and average the weights."""

    def __init__(self, model: nn.Module, loss: Loss, config: FitConfig, accelerator: Any, name: str) -> None:
        # Imported where training begins: it takes seconds, for which no other command should wait.
        from diffusers.training_utils import EMAModel

        if accelerator is None:
            on_cpu = next(model.parameters()).device.type == "cpu"
            if on_cpu:
                reuse_memory()
            # The model is where the caller wants it (`cuda:1`, say), which accelerate would not know.
            accelerator = joined(cpu=on_cpu, precision="no", unused=True)
        require_alike("packages", package_versions(), "install the same releases on every node")
        accelerator.gradient_accumulation_steps = config.accumulate
        self.accelerator, self.config, self.name = accelerator, config, name
        objective = _Objective(model, loss)
        sharded = (config.sharded or accelerator.is_fsdp2) and accelerator.num_processes > 1
        if sharded:
            shard(objective, None)
        self.trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
        self.inner = config.optimizer(list(self.trained.values()))
        self.objective: Any = objective if sharded else accelerator.prepare_model(objective)
        self.optimizer = accelerator.prepare_optimizer(self.inner)
        self.average = None if config.ema is None else EMAModel(self.trained.values(), config.ema, foreach=not sharded)

    def states(self, folder: Path | None, state: Sequence[Any]) -> States | None:
        """Return the training states in a run's folder."""
        if folder is None:
            return None
        return States(folder, self.name, self.accelerator, self.trained, self.average, state, self.inner)

    def averaged(self, model: Model) -> Model:
        """Return the model with its averaged weights, where there are any."""
        if self.average is not None:
            self.average.copy_to(self.trained.values())
        return model

    def since(self, moment: float) -> float:
        """Return the seconds since a moment, by the clock of the main process."""
        # One clock for all: a process that stopped by its own would leave the others waiting.
        passed = time.monotonic() - moment
        return gathered(passed)[0] if self.accelerator.num_processes > 1 else passed

    def scheduler(self, done: int, used: Callable[[], float]) -> LambdaLR:
        """Return what sets the rate of the step after `done`: a function of step and clock, so no part of a state."""
        # The optimizer's own state may be of a run with another peak.
        for group in self.inner.param_groups:
            group["initial_lr"] = self.config.learning_rate
        return LambdaLR(self.inner, lambda step: self.config.rate(step, used()), last_epoch=done - 1)

    def watched(self) -> AbstractContextManager[None]:
        """Raise ProcessLostError where another process is lost meanwhile."""
        return lost_named(f"training {self.name}", "The same command resumes from the last state")

    def step(self, index: int) -> dict[str, float]:
        """Take one step and return its figures, the losses averaged over batches and processes."""
        accelerator: Any = self.accelerator
        count = self.config.accumulate
        # By the step and not by the one before, so that a run that resumes draws what it would have drawn.
        seed = self.config.seed * 1_000_003 + index
        # Torch's generator reads the low 32 bits of a seed, in which processes must differ.
        generator = torch.Generator().manual_seed(seed + accelerator.process_index * 0x9E3779B1)
        total, norm = torch.zeros((), device=accelerator.device), torch.zeros(())
        figures: dict[str, float] = {}
        for _ in range(count):
            with accelerator.accumulate(self.objective):
                with accelerator.autocast():
                    losses, figures = self.objective(index, generator)
                accelerator.backward(losses.mean())
                total = total.to(losses.device) + losses.detach() / count
                if accelerator.sync_gradients:
                    # Before the optimizer's step: the weights stay those of the last state.
                    total = accelerator.reduce(total, "mean")
                    if not total.mean().isfinite():
                        raise FloatingPointError(
                            f"the loss of {self.name} is {total.mean().item()} at step {index}; the last state is "
                            "good: look at the data, then resume with a lower learning rate"
                        )
                    norm = whole(nn.utils.clip_grad_norm_(list(self.trained.values()), self.config.clip))
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.trained.values())
        parts = {f"loss_{n}": loss for n, loss in enumerate(total.tolist())} if total.ndim else {}
        rate = self.inner.param_groups[0]["lr"]
        return {"loss": total.mean().item(), "gradient_norm": float(norm), "learning_rate": rate, **parts, **figures}


class _Objective(nn.Module):
    """Make a loss the forward pass of one module, which is what gathers shards and averages gradients."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the losses of a batch, and its figures."""
        return self.loss(self.model, index, generator)


@contextmanager
def _log(
    folder: Path | None, name: str, steps: int, done: int, *, shown: bool
) -> Iterator[Callable[[int, dict[str, float]], float]]:
    """Give what returns a step's smoothed loss and shows it; every twentieth step's figures become events.

    One process alone shows and writes.
    """
    events: Any = _open_events(folder / "tensorboard" / name) if shown and folder is not None else None
    smooth = math.nan

    def log(index: int, figures: dict[str, float]) -> float:
        nonlocal smooth
        smooth = figures["loss"] if math.isnan(smooth) else 0.99 * smooth + 0.01 * figures["loss"]
        bar.update()
        bar.set_postfix_str(f"loss {smooth:.5f}", refresh=False)
        if events is not None and index % 20 == 0:
            for key, figure in figures.items():
                events.add_scalar(key, figure, index)
        return smooth

    bar = progress(None, name, total=steps, done=done, unit="step", shown=shown)
    with bar, nullcontext() if events is None else events:
        yield log


def _open_events(folder: Path) -> Any:
    """Return a `SummaryWriter` of the folder; without TensorBoard warn and return None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        told = f"TensorBoard is not installed, so no events are written to {folder}: pip install 'prophet-gym[train]'"
        warn(told, RuntimeWarning)
        return None
    return SummaryWriter(str(folder))
