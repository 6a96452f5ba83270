"""Train the gripper tracker and the transformer on latents: on dreams that continue from step to step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prophet_gym._io.networks import save_network
from prophet_gym._io.processes import by_main
from prophet_gym._io.processor import Precision, autocast
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._windows import Windows
from prophet_gym.prophet import ActionConfig, SmallConfig
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, unstack_frames
from prophet_gym.prophet._flow import flow_loss
from prophet_gym.prophet._gripper import (
    GRIPPER_DIM,
    ChunkInputs,
    ChunkStart,
    GripperTracker,
    Untracked,
    flow_source,
    tracker_loss,
)
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.train._fit import FitConfig, Loss, fit

_WINDOW = 7  # samples across and down that a new tracker sees around the gripper
_SHAKE = (0.005, 0.005, 0.005, 0.02, 0.02, 0.02, 0.02, 0.001)
"""Standard deviation of the error that a tracker's start is given, metres, openness, radians and metres: about that of
its reader."""
_UNSEEN, _FROM_HERE, _TOLD = 0.1, 0.3, 0.5
"""Begin these fractions of dreams of two cameras: without the second, at a window's own first frame, and where the hand
is known."""
_LATENT_NOISE = 0.1

Tracker = GripperTracker | Untracked
Config = SmallConfig | ActionConfig


@dataclass(frozen=True)
class Rehearsal:
    """Describe how the transformer's training steps are made of dreams: `rows` at once, of `chunks` chunks on average.

    In the first steps, a fraction `single_until` of all, they are single chunks.
    """

    rows: int
    chunks: int
    single_until: float


@dataclass(frozen=True)
class Dreams:
    """Hold recorded actions, dreamt so far by the model itself.

    `current` is the index among all frames where each dream is, between its episode's `first` and `last`; `age` counts
    the chunks that it has dreamt. `past` are latents of its newest frames, `gripper` is that in the last four of them,
    `initial` the frame that the dream began at, `initial_gripper` that there, and `known` whether it has a second
    camera, where the model has.
    """

    current: Int64[np.ndarray, " b"]
    first: Int64[np.ndarray, " b"]
    last: Int64[np.ndarray, " b"]
    age: Int64[np.ndarray, " b"]
    past: Float[Tensor, "b n c h w"]
    gripper: Float[Tensor, "b 4 g"]
    initial: Float[Tensor, "b c h w"]
    initial_gripper: Float[Tensor, "b g"]
    known: Bool[Tensor, " b"]

    @classmethod
    def begin(
        cls, data: LatentEpisodes, tracker: Tracker, rows: int, past_frames: int, generator: torch.Generator
    ) -> "Dreams":
        """Begin at frames of any episode, each as likely as another, that have a chunk of actions after them."""
        chunk = tracker.config["chunk"]
        current, episode = data.places(rows, chunk, generator)
        first, last = data.starts[episode], data.starts[episode + 1] - 1
        past = data.window(current, first, past=past_frames, chunk=chunk, ahead=0).past.to(tracker.device)
        began, known, told = first, torch.ones(rows) > 0, torch.zeros(rows) > 0
        if tracker.config["views"] > 1:
            chances = torch.tensor([[_FROM_HERE], [1 - _UNSEEN], [_TOLD]])
            here, known, told = torch.rand(3, rows, generator=generator) < chances
            # As `past` repeats an episode's first frame, its own first may be that.
            began = np.where(here.numpy(), np.maximum(current - past_frames + 1, first), first)
        initial = torch.from_numpy(data.latents[began].astype(np.float32)).to(past)
        past, initial, known = shown(past, known), shown(initial, known), known.to(past.device)
        with torch.no_grad():
            gripper = tracker.read_frames(past[:, -FRAMES_PER_LATENT:])
        # An initial state may say where the hand is.
        newest = np.maximum(current[:, None] - np.arange(FRAMES_PER_LATENT)[::-1], first[:, None])
        true = torch.from_numpy(data.gripper[newest]).to(past)
        gripper = torch.where(told.to(past.device)[:, None, None], true, gripper)
        initial_gripper = torch.from_numpy(data.gripper[began]).to(past)
        age = np.zeros(rows, np.int64)
        return cls(current, first, last, age, past, gripper, initial, initial_gripper, known)

    def windows(self, data: LatentEpisodes, chunk: int) -> Windows:
        """Return the next chunk's actions and what really came of them, behind the dream's own past."""
        real = data.window(self.current, self.first, past=self.past.shape[1], chunk=chunk, ahead=chunk)
        return replace(real.to(self.past.device), past=self.past)

    def go_on(
        self, tracker: Tracker, inputs: ChunkInputs, dreamt: Float[Tensor, "b c t h w"], reader_weight: float
    ) -> "Dreams":
        """Return the dreams one chunk later, with what was dreamt in it, as a rollout continues."""
        past = torch.cat([self.past, unstack_frames(dreamt).to(self.past)], dim=1)[:, -self.past.shape[1] :]
        if tracker.config["views"] > 1:
            past = shown(past, self.known)
        newest = slice(-FRAMES_PER_LATENT, None)
        with torch.no_grad():
            gripper = tracker.correct(inputs.path[:, newest], past[:, newest], reader_weight)
        current = self.current + tracker.config["chunk"]
        return replace(self, current=current, age=self.age + 1, past=past, gripper=gripper)

    def renewed(
        self, data: LatentEpisodes, tracker: Tracker, length: float | int, generator: torch.Generator
    ) -> "Dreams":
        """Return the same with new dreams where the recording ends and, by chance, after `length` chunks on average."""
        chance = torch.rand(len(self.current), generator=generator).numpy() < 1 / length
        ended = chance | (self.current + tracker.config["chunk"] > self.last)
        if not ended.any():
            return self
        # As many as there are dreams, so that what is drawn does not depend on how many have ended.
        new = vars(Dreams.begin(data, tracker, len(ended), self.past.shape[1], generator))
        chosen = torch.from_numpy(ended).to(self.past.device)
        mixed: dict[str, Any] = {
            name: torch.where(chosen.reshape(-1, *[1] * (part.ndim - 1)), new[name], part)
            if isinstance(part, Tensor)
            else np.where(ended, new[name], part)
            for name, part in vars(self).items()
        }
        return Dreams(**mixed)


def shown(latents: Float[Tensor, "b *f h w"], known: Bool[Tensor, " b"]) -> Float[Tensor, "b *f h w"]:
    """Return latents of two views, the second zero where it is not known."""
    front, wrist = latents.split(latents.shape[-2] // 2, dim=-2)
    return torch.cat([front, wrist * known.reshape(-1, *[1] * (latents.ndim - 1))], dim=-2)


ChunkLoss = Callable[..., tuple[Tensor, dict[str, float], Dreams]]
"""A loss as `dream_loss`."""


@dataclass
class _Carried:
    """Hold the dreams of the step before, which a run needs to resume to the same bits."""

    device: torch.device
    dreams: Dreams | None = None

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.dreams is None else {name: torch.as_tensor(part) for name, part in vars(self.dreams).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[str, Any] = {
            n: p.numpy() if p.dtype == torch.int64 else p.to(self.device) for n, p in state.items()
        }
        names = {each.name for each in fields(Dreams)}
        if parts and {*parts} != names:
            raise ValueError(
                f"a training state must hold {', '.join(sorted(names))} of its dreams, has {', '.join(sorted(parts))}: "
                "another version wrote it; begin again in another folder"
            )
        self.dreams = Dreams(**parts) if parts else None


def inputs_of(dreams: Dreams, windows: Windows, tracker: Any, config: Config) -> ChunkInputs:
    """Return what the transformer reads to dream the next chunk."""
    with torch.no_grad():
        told = windows.past_actions, windows.actions
        start = ChunkStart(dreams.past, dreams.gripper, *told, dreams.initial, dreams.initial_gripper)
        return config.inputs(tracker, start)


def train_tracker(
    data: LatentEpisodes,
    config: SmallConfig,
    folder: Path,
    *,
    steps: int,
    device: torch.device,
    rows: int = 128,
    base: GripperTracker | None = None,
    precision: Precision = "no",
) -> GripperTracker:
    """Train a tracker, or `base` further, on `rows` real windows a step; the result goes to `folder/tracker`."""
    torch.manual_seed(0)
    tracker = new_tracker(data, config, base)
    tracker.to(device)
    shake, camera = torch.tensor(_SHAKE)[: data.gripper.shape[1]], torch.tensor(config.camera).to(device)

    def loss(tracker: GripperTracker, _step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        windows = data.draw(rows, past=1, chunk=config.chunk, chunks=1, generator=generator).to(device)
        latents = windows.past[:, -1]
        # In a dream the reader sees latents with errors, and the path begins where the reader says.
        if tracker.config["views"] > 1:
            latents = shown(latents, torch.rand(rows, generator=generator).to(device) > _UNSEEN)
        latents = latents + _LATENT_NOISE * torch.randn(latents.shape, generator=generator).to(device)
        start = windows.gripper[:, 0]
        shaken = start + (shake * torch.randn(start.shape, generator=generator)).to(device)
        following = windows.gripper[:, 1:]
        told = windows.past_actions, windows.actions, following, camera
        with autocast(tracker.device, precision):
            return tracker_loss(tracker, latents, start, shaken, *told), {}

    fit(tracker, loss, FitConfig(steps=steps, learning_rate=1e-3), folder, name="tracker")
    by_main(lambda: save_network(tracker, folder / "tracker"))
    return tracker


def new_tracker(data: LatentEpisodes, config: SmallConfig, base: GripperTracker | None = None) -> GripperTracker:
    """Make a tracker that sees around the gripper; what `base` knows, it knows from the beginning."""
    gripper = torch.from_numpy(data.gripper)
    # What never changes in a recording (a gripper that stays open, say) must not be divided by zero.
    sizes: dict[str, Any] = {
        "latent_size": tuple(data.latents.shape[-2:]),
        "latent_channels": data.latents.shape[1],
        "views": 2 if data.gripper.shape[1] > GRIPPER_DIM else 1,
        "chunk": config.chunk,
        "action_dim": config.action_dim,
        "gripper_mean": tuple(gripper.mean(0).tolist()),
        "gripper_std": tuple(gripper.std(0).clamp(min=1e-3).tolist()),
    }
    if base is not None:
        sizes = {name: value for name, value in base.config.items() if not name.startswith("_")}
    sizes["window"] = _WINDOW
    tracker = GripperTracker(**sizes)
    # Not strict: a base from before trackers saw their surroundings has no weights for that.
    if base is not None:
        tracker.load_state_dict(base.state_dict(), strict=False)
    return tracker


def dream_loss(
    transformer: ProphetTransformer3DModel,
    tracker: Tracker,
    data: LatentEpisodes,
    config: Config,
    dreams: Dreams,
    generator: torch.Generator,
    precision: Precision = "no",
) -> tuple[Tensor, dict[str, float], Dreams]:
    """Return the loss of the next chunk of some dreams, what to log of it, and the dreams with what was predicted.

    Gradients stop between chunks, so dreaming costs no more than single chunks do.
    """
    windows = dreams.windows(data, config.chunk)
    inputs = inputs_of(dreams, windows, tracker, config)
    target = windows.future
    b, _, c, h, w = target.shape
    # Twice as many numbers are skipped, which were flow times once, so that a seed gives the noise that it always gave.
    for _ in range(2):
        torch.rand(b, generator=generator)
    slots = config.chunk // FRAMES_PER_LATENT
    noise = torch.randn(b, FRAMES_PER_LATENT * c, slots, h, w, generator=generator).to(target)
    # Only the network runs in bf16: latents that are carried from chunk to chunk would lose what little changes.
    with autocast(target.device, "bf16" if target.is_cuda else precision):
        source = unstack_frames(flow_source(inputs, noise, 0.0))
        weight = config.loss_weight(target, dreams.initial, source, dreams.known)
        at = torch.ones(b).to(target)
        loss, predicted = flow_loss(transformer, inputs, target, at, noise, config.noise_scale, weight)
    figures, new = {}, torch.from_numpy(dreams.age == 0)
    if new.any():
        error, copied = (
            (frames - target)[new].square().mean() for frames in (unstack_frames(predicted), dreams.past[:, -1:])
        )
        figures["against_copy"] = (error / copied).item()
    return loss, figures, dreams.go_on(tracker, inputs, predicted, config.reader_weight)


def train_transformer(
    transformer: ProphetTransformer3DModel,
    tracker: Tracker,
    data: LatentEpisodes,
    config: Config,
    folder: Path,
    schedule: FitConfig,
    rehearsal: Rehearsal,
    precision: Precision = "no",
) -> ProphetTransformer3DModel:
    """Train on single chunks first, then on dreams that continue from step to step; return the averaged model."""
    tracker.to(transformer.device)
    chunk_loss = partial(dream_loss, precision=precision)
    loss, carried = rehearsed(chunk_loss, tracker, data, config, rehearsal, schedule.steps)
    return fit(transformer, loss, schedule, folder, name="transformer", state=(carried,))


def rehearsed(
    chunk_loss: ChunkLoss, tracker: Tracker, data: LatentEpisodes, config: Config, rehearsal: Rehearsal, steps: int
) -> tuple[Loss, Any]:
    """Return the loss of training on dreams for `steps` steps, and what it carries from one to the next."""
    tracker.eval().requires_grad_(requires_grad=False)
    carried = _Carried(tracker.device)

    def loss(transformer: Any, index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        length = 1 if index < rehearsal.single_until * steps else rehearsal.chunks
        if carried.dreams is None:
            dreams = Dreams.begin(data, tracker, rehearsal.rows, config.past_frames, generator)
        else:
            dreams = carried.dreams.renewed(data, tracker, length, generator)
        found, figures, carried.dreams = chunk_loss(transformer, tracker, data, config, dreams, generator)
        return found, figures

    return loss, carried
