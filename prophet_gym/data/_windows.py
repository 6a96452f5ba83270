"""Training windows of episodes: past frames, actions and the frames after them, from any mixture of robots.

Their order is a pure function of seed and position, so any moment can be resumed. Data sets are mixed by exact quotas:
an epoch takes `quota` windows of each, shuffled together; the windows of one come as an endless row of shuffled passes
over it, so none comes twice before all have come once.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Num, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prophet_gym.data._episode import Episode, EpisodeSource

_PASS, _EPOCH = 0, 1
Tools = Float32[np.ndarray, "f arms 7"] | None
"""Hold where tools are before and after each action, see `Episode.tools`; None where it is not known."""
ToPlan = Callable[[Float32[np.ndarray, "k a"], Tools], tuple[Float32[np.ndarray, "k m"], Tools]]
"""Map a robot's actions, and where its tools truly were, to model actions and to where the tools are drawn."""


def as_given(actions: Float32[np.ndarray, "k a"], tools: Tools) -> tuple[Float32[np.ndarray, "k a"], Tools]:  # noqa: ARG001
    """Leave the actions as they are, and draw no tools."""
    return actions, None


@dataclass(frozen=True)
class MixtureEntry:
    """Describe a data set's part in a mixture.

    `weight` is how often it is read, relative to the others' weights; if none has one, every window counts alike.
    `plan` leads from its actions to the model's, a module's function, so that workers can be sent it.
    """

    source: EpisodeSource
    weight: float | int | None = None
    plan: ToPlan = as_given


@dataclass(frozen=True)
class WindowShape:
    """Describe how long and how large a window is.

    `history` counts the frames before the current one, 60 in the paper (reference.md: "History"); `steps` the actions,
    and frames after the current one: 20 is one call of the model. Frames are resized to the height and width of `size`.
    """

    history: int = 60
    steps: int = 20
    size: tuple[int, int] = (256, 256)


@dataclass(frozen=True)
class Windows:
    """Hold a batch of windows, whatever a frame is: an image (uint8 `h w 3`) or its latents (float32 `c h w`).

    Attributes:
        past: Frames up to and with the current one, oldest first, the episode's first repeated before its start.
        future: The frame after each action.
        actions: What is done from the current frame on, in the numbers that the model reads.
        past_actions: What led to the newest of the past frames; none for models that do not read them.
        gripper: Position (metres) and openness (1 open .. 0 closed) of the first tool at the current frame and after
            each action; NaN where it is not known. Of latents of two cameras, the numbers of `hand_states`.
        tools: Where to draw the tools at the current frame and after each action; None for windows that do not say.
        cameras: The matrix of what each window shows (see `CameraSpec`); None where it is not known.
        fps: Frames a second; None where it is not read.
    """

    past: Num[Tensor, "b p *frame"]
    future: Num[Tensor, "b k *frame"]
    actions: Float[Tensor, "b k m"]
    past_actions: Float[Tensor, "b j _"]
    gripper: Float[Tensor, "b f g"]
    tools: tuple[Float[Tensor, "f _ 7"] | None, ...] = ()
    cameras: tuple[Float[Tensor, "3 4"] | None, ...] = ()
    instructions: tuple[str, ...] = ()
    robots: tuple[str, ...] = ()
    fps: Float[Tensor, " b"] | None = None

    @property
    def history(self) -> Num[Tensor, "b p1 *frame"]:
        """Return the frames before the current one."""
        return self.past[:, :-1]

    @property
    def frames(self) -> Num[Tensor, "b f *frame"]:
        """Return the current frame and those after each action."""
        return torch.cat([self.past[:, -1:], self.future], dim=1)

    def to(self, device: torch.device) -> "Windows":
        """Return the same batch on a device; tools and cameras, a few numbers that not all windows have, stay."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def _gripper_states(episode: Episode) -> Float32[np.ndarray, "f 4"]:
    """Return position (metres) and openness of an episode's first tool at every frame; NaN where it is not known."""
    if episode.tools is None:
        return np.full((len(episode) + 1, 4), np.nan, np.float32)
    return episode.tools[:, 0, [0, 1, 2, 6]]


def _past_indices(
    current: Int64[np.ndarray, " b"], first: Int64[np.ndarray, " b"], count: int
) -> Int64[np.ndarray, "b p"]:
    """Return the indices of the last `count` frames up to `current`; before an episode's `first` there is only that."""
    return np.maximum(current[:, None] + np.arange(1 - count, 1), first[:, None])


class WindowDataset(Dataset[Windows]):
    """Read any window of the episodes of several data sets from disk; the index is (data set, window)."""

    def __init__(self, entries: Sequence[MixtureEntry], shape: WindowShape):
        self.entries, self.shape = tuple(entries), shape
        # Weights of some sets and window counts of others could not be compared.
        given = [entry.weight is not None for entry in self.entries]
        if not given or any(given) != all(given):
            raise ValueError("give every data set of a mixture a weight or none of them, and at least one data set")
        self.ends: list[np.ndarray] = []
        self.counts: list[int] = []
        for number, entry in enumerate(self.entries):
            lengths = np.array([entry.source.steps(index) for index in range(len(entry.source))], dtype=np.int64)
            # Each episode has a window for each frame with `shape.steps` actions left.
            self.ends.append(np.cumsum(np.maximum(lengths - shape.steps + 1, 0)))
            if not self.ends[-1].any():
                name = f"data set {number}, a {type(entry.source).__name__},"
                raise ValueError(f"{name} has no episode of {shape.steps} steps; leave it out or make windows shorter")
            self.counts.append(int(self.ends[-1][-1]))

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: tuple[int, int]) -> Windows:
        """Decode one window, a batch of one."""
        number, window = index
        entry, ends, shape = self.entries[number], self.ends[number], self.shape
        episode = int(np.searchsorted(ends, window, side="right"))
        current = window - (int(ends[episode - 1]) if episode else 0)
        found, steps = entry.source.episode(episode), entry.source.steps(episode)
        if len(found) != steps:
            raise ValueError(f"{found.name} must have the {steps} actions that its index states, has {len(found)}")
        # One call decodes past and future together: finding the place in a video costs more than the frames.
        first, end = max(current - shape.history, 0), current + shape.steps + 1
        frames = torch.from_numpy(_resized(found.frames(first, end), shape.size))
        past = _past_indices(np.array([current]), np.array([0]), shape.history + 1)[0] - first
        true_tools = None if found.tools is None else found.tools[current:end]
        actions, tools = entry.plan(found.actions[current : end - 1], true_tools)
        return Windows(
            past=frames[past][None],
            future=frames[None, current - first + 1 :],
            actions=torch.from_numpy(actions)[None],
            past_actions=torch.zeros(1, 0, actions.shape[1]),
            gripper=torch.from_numpy(_gripper_states(found)[current:end])[None],
            tools=(None if tools is None else torch.from_numpy(tools),),
            cameras=(None if found.camera is None else torch.from_numpy(found.camera).float(),),
            instructions=(found.instruction,),
            robots=(found.robot,),
            fps=torch.tensor([found.fps]),
        )


def fitted(frames: UInt8[np.ndarray, "f h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Return frames of another height and width, cut to its proportions about their middle: nothing is stretched."""
    scale = min(side / wanted for side, wanted in zip(frames.shape[1:3], size, strict=True))
    rows, columns = (round(wanted * scale) for wanted in size)
    top, left = (frames.shape[1] - rows) // 2, (frames.shape[2] - columns) // 2
    return _resized(frames[:, top : top + rows, left : left + columns], size)


def _resized(frames: UInt8[np.ndarray, "f h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Return frames of another height and width; where the proportions differ, the image is stretched."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    import cv2  # not installed where a network is trained on latents alone

    # Averaging areas keeps small things visible when an image shrinks; it would show blocks when one grows.
    shrinks = height * width < frames.shape[1] * frames.shape[2]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=way) for frame in frames])


def _concat_windows(windows: Sequence[Windows]) -> Windows:
    """Put batches of one mixture together."""
    widths = {(each.actions.shape[2], each.robots[0]) for each in windows}
    if len({width for width, _ in widths}) > 1:
        listed = ", ".join(f"{width} ({robot})" for width, robot in sorted(widths))
        raise ValueError(f"all must give as many action dimensions, got {listed}; give every MixtureEntry a conversion")
    parts: dict[str, Any] = {name: [getattr(each, name) for each in windows] for name in vars(windows[0])}
    for name, values in parts.items():
        if isinstance(values[0], Tensor):
            parts[name] = torch.cat(values)
        else:
            parts[name] = None if values[0] is None else tuple(itertools.chain.from_iterable(values))
    return Windows(**parts)


def quotas(weights: Sequence[float | int], size: int) -> list[int]:
    """Divide `size` windows in proportion to the weights, to the nearest whole one (largest remainders)."""
    if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be above zero, got {list(weights)}; leave a source out instead")
    # Quotas rather than draws: the mixture is met exactly in every epoch, and a position says which window it is.
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * size
    shares = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: size - int(shares.sum())]] += 1
    if not shares.all():
        source = int(np.argmin(shares))
        raise ValueError(
            f"an epoch of {size} windows has no window for source {source} of weight {weights[source]:g} "
            f"out of {sum(weights):g}; give it more weight"
        )
    return shares.tolist()


def shuffled_passes(count: int, start: int, take: int, *, seed: int, source: int) -> Int64[np.ndarray, " n"]:
    """Cut `take` windows from `start` out of the endless row of shuffled passes over a source's `count` windows."""
    # Each pass has a generator of its own, so any moment is reached without going through those before.
    passes = range(start // count, (start + take - 1) // count + 1)
    row = [np.random.default_rng([seed, _PASS, source, number]).permutation(count) for number in passes]
    first = start - passes.start * count
    return np.concatenate(row)[first : first + take].astype(np.int64)


def epoch_order(counts: Sequence[int], shares: Sequence[int], *, seed: int, epoch: int) -> Int64[np.ndarray, "n 2"]:
    """Return (source, window) of every position of an epoch that takes `shares` of the `counts` windows of sources."""
    rows = []
    for source, (count, share) in enumerate(zip(counts, shares, strict=True)):
        windows = shuffled_passes(count, epoch * share, share, seed=seed, source=source)
        rows.append(np.stack([np.full_like(windows, source), windows], axis=1))
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(np.concatenate(rows))


class WindowLoader:
    """Yield shuffled batches of windows, epoch after epoch without end; its state is how many windows were read.

    The order is a function of the seed alone: the number of workers does not change it, ranks read one order together,
    and `load_state_dict` continues with the batch after the last one that was taken, whatever the workers had read
    ahead. An epoch has as many windows over all ranks as there are.
    """

    def __init__(
        self, windows: WindowDataset, rows: int, *, seed: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0
    ):
        if rows < 1 or not 0 <= rank < ranks:
            raise ValueError(f"rows must be at least 1 and rank in 0..ranks - 1, got {rows=}, {rank=}, {ranks=}")
        self.windows, self.rows, self.seed = windows, rows, seed
        self.rank, self.ranks, self.workers = rank, ranks, workers
        weighted = zip(windows.entries, windows.counts, strict=True)
        weights = [float(count if entry.weight is None else entry.weight) for entry, count in weighted]
        self.shares = quotas(weights, len(windows))
        self.read = 0

    def __iter__(self) -> Iterator[Windows]:
        """Continue with the batch after the last one that was taken."""
        loader = DataLoader(
            self.windows,
            batch_sampler=self._places(),
            num_workers=self.workers,
            collate_fn=_concat_windows,
            # A fork would inherit locks of libraries that decode videos.
            multiprocessing_context="spawn" if self.workers else None,
            generator=torch.Generator(),
        )
        for batch in loader:
            # Counted when a batch is taken, not when a worker reads it ahead.
            self.read += self.rows * self.ranks
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return how far all ranks are, and what that refers to: plain numbers, the same on every rank."""
        return {"read": self.read, "seed": self.seed, "counts": self.windows.counts, "shares": list(self.shares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; batch size, ranks and workers may have changed."""
        own = self.state_dict()
        other = [name for name in ("seed", "counts", "shares") if state.get(name) != own[name]]
        if other:
            told = ", ".join(f"{name}={state.get(name)} (here {own[name]})" for name in other)
            raise ValueError(
                f"the state must be of the same data, weights and seed, comes from {told}; start a new run"
            )
        self.read = int(state["read"])

    def _places(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (data set, window) pairs of each batch to come.

        All ranks read one order, `rows * ranks` windows at a time, each its own of them; batches run across the end of
        an epoch, so no window is lost or read twice.
        """
        together = self.rows * self.ranks
        known, order = -1, np.empty((0, 2), np.int64)
        for first in itertools.count(self.read + self.rank, together):
            batch = []
            for position in range(first, first + together, self.ranks):
                epoch, place = divmod(position, sum(self.shares))
                if epoch != known:
                    known, order = epoch, epoch_order(self.windows.counts, self.shares, seed=self.seed, epoch=epoch)
                batch.append((int(order[place, 0]), int(order[place, 1])))
            yield batch
