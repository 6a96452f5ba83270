"""Train the full Prophet on clips of pictures: pixels -> latents -> rectified flow, on any number of processes.

All randomness of a clip is a function of the seed and of the clip's place in the row that all processes read, so a run
that was killed goes on to the same bits, and two processes compute what one of twice the batch does.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from prophet_gym._io.lora import add_lora
from prophet_gym.data.windows import WindowDataset, WindowLoader, Windows, WindowShape
from prophet_gym.prophet import FullProphet, Prophet
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION
from prophet_gym.prophet._full import FullConfig
from prophet_gym.prophet._history import HistoryMemory, history_levels
from prophet_gym.train.events import open_events
from prophet_gym.train.loop import LoopConfig, adamw, learning_rate, update_average
from prophet_gym.train.objective import ClipObjective, draw
from prophet_gym.train.plans import draw_batch, require_drawable
from prophet_gym.train.states import TrainingState


@dataclass(frozen=True)
class Batching:
    """What a step of training reads.

    Attributes:
        rows: clips that a process holds at once.
        accumulate: such batches per optimiser step.
        chunks: length of a clip; from the second chunk on a row continues on the model's own frames (self-forcing).
        sampler_steps: steps that sample those frames, as in `karras_sigmas`.
        workers: processes that decode clips, for each process that trains.
        keep: training states kept on disk, the newest ones.
    """

    rows: int = 1
    accumulate: int = 1
    chunks: int = 1
    sampler_steps: int = 5
    workers: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("rows", "accumulate", "chunks", "sampler_steps", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def config_of(prophet: Prophet) -> FullConfig:
    """The config of a full Prophet.

    Raises:
        ValueError: it is a small one.
    """
    if not isinstance(prophet.config, FullConfig):
        raise ValueError(
            "the base must be a full Prophet, got a small one; `prophet train` and `prophet adapt` are for those"
        )
    return prophet.config


def drawing(prophet: Prophet) -> Prophet:
    """The same full Prophet, which draws the tools in training and in dreams.

    Raises:
        ValueError: it is a small one.
        CheckpointError: its transformer has no action-frame conditioner.
    """
    config = replace(config_of(prophet), draw_tools=True)
    drawn = FullProphet(prophet.transformer, prophet.autoencoder, config)
    drawn.source = prophet.source
    return drawn


def clip_shape(config: FullConfig, chunks: int) -> WindowShape:
    """The clips that a checkpoint is trained on."""
    return WindowShape(config.history_frames, config.chunk * chunks, config.frame_size)


def choose_trained(prophet: Prophet, *, lora_rank: int = 0, seed: int = 0) -> None:
    """Mark what is trained: adapters if `lora_rank` is above 0, else all weights that are read.

    Text is off, so the cross-attentions stay as they are (reference.md: "Text"), and so does the action-frame
    conditioner of a model that does not draw the tools.

    Args:
        prophet: a full one; its transformer is changed in place. Its config says whether the tools are drawn.
        lora_rank: of the adapters, q, k, v, output and both MLP layers of every block; alpha is the same, as in the
            paper's 16 and 16 (reference.md: "Training objective").
        seed: of the adapters' first weights.

    Raises:
        ValueError: adapters are asked for in a model that does not read actions yet.
    """
    transformer = prophet.transformer
    if lora_rank:
        if not transformer.action_embedder.to_embedding.linear_2.weight.any():
            raise ValueError(
                "the base does not follow actions yet (it is a starting point from Cosmos-Predict2), and adapters "
                "cannot teach it that; train all weights: --lora-rank 0"
            )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            add_lora(transformer, lora_rank)
        return
    unread = {"attn2", "norm2"} | (set() if config_of(prophet).draw_tools else {"action_frame_embedder"})
    transformer.requires_grad_(requires_grad=True)
    for name, module in transformer.named_modules():
        if name.split(".")[-1] in unread:
            module.requires_grad_(requires_grad=False)
    if transformer.history_memory is not None:
        _leave_out_unread_levels(transformer.history_memory, config_of(prophet).history_frames)


def _leave_out_unread_levels(memory: HistoryMemory, history_frames: int) -> None:
    """A short history has no coarse levels, none has no tokens at all: data-parallel training wants that known."""
    latents = 1 + (history_frames - 1) // FRAMES_PER_LATENT
    read = set(history_levels(latents, memory.order))
    memory.requires_grad_(requires_grad=bool(read))
    for number, level in enumerate(memory.levels):
        level.requires_grad_(requires_grad=number in read)


def train_full(
    prophet: Prophet, clips: WindowDataset, folder: Path, schedule: LoopConfig, batching: Batching, *, accelerator: Any
) -> None:
    """Run the steps that are left; at the end the weights that require gradients hold their moving average.

    A state is written to `folder/states` every `schedule.save_every` seconds, whole; a run that was killed goes on from
    the newest, also with other numbers of processes, rows or workers.

    Args:
        prophet: a full one on the accelerator's device, what is trained marked, see `choose_trained`. With
            `draw_tools` in its config, pictures of the tools are read in the rows whose clips say where they are.
        clips: see `clip_shape`.
        folder: for states and TensorBoard events.
        schedule: of the optimiser.
        batching: of the data.
        accelerator: an `accelerate.Accelerator` without data of its own.

    Raises:
        ValueError: a small Prophet, clips that do not fit it or whose tools cannot be drawn though its config says so,
            or an accelerator that shards weights.
        CheckpointError: a state there is damaged or of another run.
        FloatingPointError: the loss is not finite; nothing of that step is saved.
    """
    require_fit(prophet, clips, batching, accelerator)
    trained = {name: p for name, p in prophet.transformer.named_parameters() if p.requires_grad}
    average = [p.detach().clone() for p in trained.values()]
    autoencoder: Any = prophet.autoencoder
    objective: Any = ClipObjective(prophet.transformer, autoencoder, batching.sampler_steps)
    objective, optimizer = accelerator.prepare(objective, adamw(list(trained.values()), schedule))
    loader = WindowLoader(
        clips, batching.rows, seed=schedule.seed,
        rank=accelerator.process_index, ranks=accelerator.num_processes, workers=batching.workers,
    )  # fmt: skip
    state = TrainingState(folder / "states", trained, average, optimizer, loader)
    done = state.resume()
    stepper = _Stepper(
        objective, optimizer, list(trained.values()), schedule, batching, accelerator, config_of(prophet).draw_tools
    )
    saved = time.monotonic()
    with _Log(folder, schedule.steps, done, shown=accelerator.is_main_process) as log:
        batches = placed(loader)
        for index in range(done, schedule.steps):
            figures = stepper.step(index, batches)
            update_average(average, list(trained.values()), index, schedule)
            log.add(index, figures)
            last = index + 1 == schedule.steps
            if accelerator.is_main_process and (last or time.monotonic() - saved > schedule.save_every):
                state.save(index + 1, keep=batching.keep)
                saved = time.monotonic()
    with torch.no_grad():
        for parameter, mean in zip(trained.values(), average, strict=True):
            parameter.copy_(mean)


def require_fit(prophet: Prophet, clips: WindowDataset, batching: Batching, accelerator: Any) -> None:
    """Raise ValueError unless model, clips and accelerator go together."""
    config = config_of(prophet)
    if clips.shape != clip_shape(config, batching.chunks):
        raise ValueError(f"clips must be {clip_shape(config, batching.chunks)} for this checkpoint, got {clips.shape}")
    expected = prophet.transformer.config["action_dim"]
    for number, entry in enumerate(clips.entries):
        numbers = clips[number, 0].actions.shape[2]
        if numbers != expected:
            raise ValueError(
                f"the model reads {expected} numbers an action, data set {number}, a {type(entry.source).__name__}, "
                f"gives {numbers}; give its Share to_actions"
            )
    if config.draw_tools:
        require_drawable(clips)
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ValueError(f"every process must hold all weights, got {kind}; use `accelerate launch --multi_gpu`")


def placed(loader: WindowLoader) -> Iterator[tuple[Windows, list[int]]]:
    """Batches, and each clip's place in the row that all processes read."""
    for batch in loader:
        first = loader.read - loader.rows * loader.ranks
        yield batch, [first + row * loader.ranks + loader.rank for row in range(loader.rows)]


@dataclass
class _Stepper:
    """One optimiser step over its accumulated batches."""

    objective: Any
    optimizer: Any
    parameters: list[nn.Parameter]
    schedule: LoopConfig
    batching: Batching
    accelerator: Any
    draw_tools: bool

    def step(self, index: int, batches: Iterator[tuple[Windows, list[int]]]) -> dict[str, float]:
        """Take one step; returns figures, averaged over batches and processes."""
        rate = learning_rate(index, self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        accelerator, norm = self.accelerator, torch.zeros(())
        total = torch.zeros(self.batching.chunks, device=accelerator.device)
        for _ in range(self.batching.accumulate):
            with accelerator.accumulate(self.objective):
                losses = self._losses(*next(batches))
                accelerator.backward(losses.mean())
                total += losses.detach() / self.batching.accumulate
                if accelerator.sync_gradients:
                    total = accelerator.reduce(total, "mean")
                    self._require_finite(total, index)
                    norm = accelerator.clip_grad_norm_(self.parameters, self.schedule.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
        chunks = {f"loss_chunk_{n}": loss for n, loss in enumerate(total.tolist())} if len(total) > 1 else {}
        return {"loss": total.mean().item(), "gradient_norm": norm.item(), "learning_rate": rate, **chunks}

    def _losses(self, batch: Windows, places: list[int]) -> Tensor:
        height, width = batch.frames.shape[2:4]
        slots = batch.actions.shape[1] // self.batching.chunks // FRAMES_PER_LATENT
        module = self.accelerator.unwrap_model(self.objective)
        shape = (
            module.transformer.config["latent_channels"],
            slots,
            height // SPATIAL_COMPRESSION,
            width // SPATIAL_COMPRESSION,
        )
        draws = draw(places, self.batching.chunks, shape, seed=self.schedule.seed)
        device = self.accelerator.device
        tensors = (batch.history, batch.frames, batch.actions, draws.sigmas, draws.noise, draws.dream_noise)
        if self.draw_tools:
            images = draw_batch(batch, device)
            tensors = (*tensors, images.video, images.drawn)
        return self.objective(*(tensor.to(device) for tensor in tensors))

    def _require_finite(self, losses: Tensor, index: int) -> None:
        if not torch.isfinite(losses).all():
            raise FloatingPointError(
                f"the loss is {losses.mean().item()} at step {index}; the last state is good: look at the data, then "
                "go on with a lower learning rate"
            )


class _Log:
    """Progress bar and TensorBoard of the main process; nothing on the others."""

    def __init__(self, folder: Path, steps: int, done: int, *, shown: bool) -> None:
        self.writer: Any = None
        if shown:
            self.writer = open_events(folder / "tensorboard")
        self.bar = tqdm(total=steps, initial=done, desc="full", unit="step", mininterval=5, disable=not shown)
        self.smooth = math.nan

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def add(self, index: int, figures: dict[str, float]) -> None:
        """Show the figures of one step; every twentieth goes to TensorBoard, as in `train_loop`."""
        loss = figures["loss"]
        self.smooth = loss if math.isnan(self.smooth) else 0.99 * self.smooth + 0.01 * loss
        self.bar.update()
        self.bar.set_postfix_str(f"loss {self.smooth:.5f}", refresh=False)
        if self.writer is not None and index % 20 == 0:
            for name, figure in figures.items():
                self.writer.add_scalar(name, figure, index)
