"""Training clips as pictures: what the full Prophet and its autoencoder read, from any mixture of robots."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prophet_gym.data.order import batches, quotas
from prophet_gym.data.source import EpisodeSource, SourceEpisode

ToActions = Callable[[Float32[np.ndarray, "t a"]], Float32[np.ndarray, "t m"]]
"""A robot's commands to the numbers that the model reads, e.g. `embodiments.libero.commands_to_actions`."""
ToPlan = Callable[
    [Float32[np.ndarray, "k a"], Float32[np.ndarray, "f arms 7"]],
    tuple[Float32[np.ndarray, "k m"], Float32[np.ndarray, "f arms 7"]],
]
"""A robot's commands, and where its tools truly were before and after each, to the model's numbers and to where the
tools are drawn, as many times; see `SourceEpisode.tools`."""


def as_given(actions: Float32[np.ndarray, "t a"]) -> Float32[np.ndarray, "t a"]:
    """Leave the commands as they are."""
    return actions


@dataclass(frozen=True)
class Share:
    """A data set's part in a mixture.

    Attributes:
        source: the data set.
        weight: how often it is read, relative to the others' weights; if none has one, every clip counts alike.
        to_actions: its commands to the model's numbers; a module's function, so that workers can be sent it.
        plan: stands in for `to_actions` in episodes that say where the tools are, for robots whose numbers depend on
            that and for models that read pictures of the tools; likewise a module's function.
    """

    source: EpisodeSource
    weight: float | int | None = None
    to_actions: ToActions = as_given
    plan: ToPlan | None = None


@dataclass(frozen=True)
class ClipShape:
    """How long and how large a clip is.

    Attributes:
        history: frames before the current one; 60 is the paper's (reference.md: "History").
        steps: actions, and frames after the current one; 20 is one call of the model.
        size: height and width to which frames are resized.
    """

    history: int = 60
    steps: int = 20
    size: tuple[int, int] = (256, 256)


@dataclass(frozen=True)
class Clip:
    """One window of an episode.

    Attributes:
        history: what was seen before the current frame, oldest first, the episode's first frame repeated before it.
        frames: the current frame and those after each action.
        actions: what was done, in the model's numbers.
        instruction: the task in words.
        robot: which embodiment it is.
        fps: frames a second.
        tools: where to draw the tools at the current frame and after each action; None where that is not known, or the
            share has no plan.
        camera: the matrix of what it shows (see `CameraSpec`); None where not known.
    """

    history: UInt8[np.ndarray, "p h w 3"]
    frames: UInt8[np.ndarray, "f h w 3"]
    actions: Float32[np.ndarray, "k m"]
    instruction: str
    robot: str
    fps: float
    tools: Float32[np.ndarray, "f arms 7"] | None = None
    camera: Float64[np.ndarray, "3 4"] | None = None


@dataclass(frozen=True)
class ClipBatch:
    """Clips, one a row; see `Clip`."""

    history: UInt8[Tensor, "b p h w 3"]
    frames: UInt8[Tensor, "b f h w 3"]
    actions: Float[Tensor, "b k m"]
    fps: Float[Tensor, " b"]
    instructions: tuple[str, ...]
    robots: tuple[str, ...]
    tools: tuple[Float[Tensor, "f _ 7"] | None, ...]
    cameras: tuple[Float[Tensor, "3 4"] | None, ...]

    def to(self, device: torch.device) -> "ClipBatch":
        """Return the same batch on a device; poses and cameras, a few numbers that not all rows have, stay."""
        moved = {name: getattr(self, name).to(device) for name in ("history", "frames", "actions", "fps")}
        return replace(self, **moved)


class ClipDataset(Dataset[Clip]):
    """Every window of the episodes of several data sets; the index is (data set, window).

    Args:
        shares: the data sets.
        shape: of a clip.

    Raises:
        ValueError: a data set has no episode that is long enough, or only some have a weight.

    Example:
        >>> import numpy as np
        >>> from prophet_gym.data.source import SourceEpisode
        >>> class Dark:
        ...     def __len__(self): return 1
        ...     def steps(self, index): return 30
        ...     def episode(self, index):
        ...         read = lambda start, stop: np.zeros((stop - start, 48, 64, 3), np.uint8)
        ...         return SourceEpisode("dark", np.zeros((30, 7), np.float32), "wait", 20.0, "none", read)
        >>> clips = ClipDataset([Share(Dark())], ClipShape(history=8, steps=20, size=(24, 32)))
        >>> len(clips), clips[0, 10].frames.shape
        (11, (21, 24, 32, 3))
    """

    def __init__(self, shares: Sequence[Share], shape: ClipShape):
        self.shares, self.shape = tuple(shares), shape
        given = [share.weight is not None for share in self.shares]
        if not given or any(given) != all(given):
            raise ValueError("give every data set of a mixture a weight or none of them, and at least one data set")
        self.ends = [np.cumsum(_windows(share.source, shape.steps)) for share in self.shares]
        for number, (share, ends) in enumerate(zip(self.shares, self.ends, strict=True)):
            if not len(ends) or not ends[-1]:
                raise ValueError(
                    f"data set {number}, a {type(share.source).__name__}, has no episode of {shape.steps} steps; "
                    "leave it out or make clips shorter"
                )

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Clips of each data set."""
        return [int(ends[-1]) for ends in self.ends]

    @property
    def weights(self) -> list[float]:
        """The weight of each data set: its own, or its number of clips."""
        pairs = zip(self.shares, self.counts, strict=True)
        return [float(count if share.weight is None else share.weight) for share, count in pairs]

    def __getitem__(self, index: tuple[int, int]) -> Clip:
        """Decodes one clip."""
        number, window = index
        share, ends = self.shares[number], self.ends[number]
        episode = int(np.searchsorted(ends, window, side="right"))
        current = window - (int(ends[episode - 1]) if episode else 0)
        return cut_clip(share, episode, current, self.shape)


def _windows(source: EpisodeSource, steps: int) -> Int64[np.ndarray, " e"]:
    """How many windows each episode has: one for each frame with `steps` actions left."""
    lengths = np.array([source.steps(index) for index in range(len(source))], dtype=np.int64)
    return np.maximum(lengths - steps + 1, 0)


def cut_clip(share: Share, episode: int, current: int, shape: ClipShape) -> Clip:
    """Decodes the window around frame `current` of an episode.

    Raises:
        ValueError: the episode's pictures and actions are not as many as its data set says.
    """
    found, steps = share.source.episode(episode), share.source.steps(episode)
    if len(found) != steps:
        raise ValueError(
            f"{found.name} must have the {steps} actions that its index states, has {len(found)}; fetch it again"
        )
    first = max(current - shape.history, 0)
    frames = resized(found.frames(first, current + shape.steps + 1), shape.size)
    before = np.maximum(np.arange(current - shape.history, current), 0) - first
    actions, tools = planned(share, found, current, shape.steps)
    return Clip(
        history=frames[before],
        frames=frames[current - first :],
        actions=actions,
        instruction=found.instruction,
        robot=found.robot,
        fps=found.fps,
        tools=tools,
        camera=found.camera,
    )


def planned(
    share: Share, episode: SourceEpisode, current: int, steps: int
) -> tuple[Float32[np.ndarray, "k m"], Float32[np.ndarray, "f arms 7"] | None]:
    """The model's numbers of the actions from frame `current` on, and where to draw the tools, None where not known."""
    commands = episode.actions[current : current + steps]
    if share.plan is None or episode.tools is None:
        return share.to_actions(commands), None
    return share.plan(commands, episode.tools[current : current + steps + 1])


def resized(frames: UInt8[np.ndarray, "f h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Frames of another height and width; where the proportions differ, the picture is stretched."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    shrinks = height * width < frames.shape[1] * frames.shape[2]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=way) for frame in frames])


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Stack clips.

    Raises:
        ValueError: they come from data sets with different numbers of actions.
    """
    widths = {(clip.actions.shape[1], clip.robot) for clip in clips}
    if len({width for width, _ in widths}) > 1:
        listed = ", ".join(f"{width} ({robot})" for width, robot in sorted(widths))
        raise ValueError(f"all data sets must give as many action numbers, got {listed}; give every Share to_actions")
    stack = lambda name: torch.from_numpy(np.stack([getattr(clip, name) for clip in clips]))  # noqa: E731
    return ClipBatch(
        history=stack("history"),
        frames=stack("frames"),
        actions=stack("actions"),
        fps=torch.tensor([clip.fps for clip in clips]),
        instructions=tuple(clip.instruction for clip in clips),
        robots=tuple(clip.robot for clip in clips),
        tools=tuple(None if clip.tools is None else torch.from_numpy(clip.tools) for clip in clips),
        cameras=tuple(None if clip.camera is None else torch.from_numpy(clip.camera).float() for clip in clips),
    )


class ClipLoader:
    """Shuffled batches of clips, epoch after epoch; its state is how many clips were read.

    The order is a function of the seed alone (see `order`): the number of workers does not change it, ranks share one
    row of clips among them, and `load_state_dict` goes on with the batch after the last one that was taken, whatever
    the workers had read ahead.

    Args:
        clips: what to read.
        rows: batch size of this process.
        seed: of the order; the same on all ranks.
        epoch_size: clips of an epoch over all ranks; as many as there are if not given.
        epochs: after which it ends, the last batch possibly shorter; None goes on for ever.
        rank: of this process.
        ranks: how many processes there are.
        workers: processes that decode; with 0 this one does.
    """

    def __init__(
        self,
        clips: ClipDataset,
        rows: int,
        *,
        seed: int = 0,
        epoch_size: int | None = None,
        epochs: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ):
        if rows < 1 or not 0 <= rank < ranks:
            raise ValueError(f"rows must be at least 1 and rank in 0..ranks - 1, got {rows=}, {rank=}, {ranks=}")
        self.clips, self.rows, self.seed = clips, rows, seed
        self.rank, self.ranks, self.workers = rank, ranks, workers
        self.shares = quotas(clips.weights, epoch_size or len(clips))
        self.stop = None if epochs is None else epochs * sum(self.shares)
        self.read = 0

    @property
    def epoch(self) -> int:
        """The epoch of the next clip."""
        return self.read // sum(self.shares)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Read on from where the last batch that was taken ended."""
        loader = DataLoader(
            self.clips,
            batch_sampler=_Order(self),
            num_workers=self.workers,
            collate_fn=collate,
            multiprocessing_context="spawn" if self.workers else None,
            generator=torch.Generator(),
        )
        for batch in loader:
            self.read += self.rows * self.ranks
            if self.stop is not None:
                self.read = min(self.read, self.stop)
            yield batch
        if self.stop is not None:
            self.read = self.stop

    def state_dict(self) -> dict[str, Any]:
        """How far all ranks are, and what that refers to: plain numbers, the same on every rank."""
        return {"read": self.read, "seed": self.seed, "counts": self.clips.counts, "shares": list(self.shares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; batch size, ranks and workers may have changed.

        Raises:
            ValueError: the state belongs to other data, weights or another seed.
        """
        own = self.state_dict()
        other = [name for name in ("seed", "counts", "shares") if state.get(name) != own[name]]
        if other:
            told = ", ".join(f"{name}={state.get(name)} (here {own[name]})" for name in other)
            raise ValueError(f"the state must come from the same data, weights and seed, comes from {told}; start anew")
        self.read = int(state["read"])


class _Order:
    """The batches that are left, as `DataLoader` wants them."""

    def __init__(self, loader: ClipLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        own = self.loader
        row = batches(
            own.clips.counts,
            own.shares,
            rows=own.rows,
            seed=own.seed,
            start=own.read,
            stop=own.stop,
            rank=own.rank,
            ranks=own.ranks,
        )
        for batch in row:
            if len(batch):
                yield [(int(source), int(clip)) for source, clip in batch]
