"""The mutable part of one sub-environment: its episode, its randomness, the frames its reward model still needs."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._checks import warn
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel

UNSEEN_FRAMES = 2_000
"""At most so many frames wait for `render`, then the oldest go: 100 s of LIBERO, four of its longest episodes."""

Frame: TypeAlias = UInt8[np.ndarray, "h w 3"] | UInt8[Tensor, "h w 3"]
Clip: TypeAlias = UInt8[np.ndarray, "t h w 3"] | UInt8[Tensor, "t h w 3"]


@dataclass(frozen=True)
class Usage:
    """Count the chunks since the last reset of all: `slots`, sub-environments times steps, and `live`, generated."""

    slots: int = 0
    live: int = 0

    @property
    def fraction(self) -> float:
        """Return generated chunks divided by those of a batch that is always full; 1.0 before the first step."""
        return self.live / self.slots if self.slots else 1.0


def stack(frames: Sequence[Any]) -> Clip:
    """Copy frames into one clip, on the device where they are."""
    return torch.stack(list(frames)) if isinstance(frames[0], Tensor) else np.stack(frames)


def as_array(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """Copy a frame into an array on the CPU."""
    return frame.cpu().numpy().copy() if isinstance(frame, Tensor) else frame.copy()


@dataclass(eq=False)
class Row:
    """Hold everything about one sub-environment that changes, beside the world model's state."""

    np_random: np.random.Generator | None = None
    """Draws initial states and the seeds of episodes."""
    seed: int = -1
    """Keep what `np_random` was seeded with, -1 if unknown."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """All noise of the current episode."""
    start: InitialState | None = None
    image: Frame = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    """The latest frame."""
    elapsed: int = 0
    """Chunks since the start."""
    ended: bool = False
    queue_index: int | None = None
    kept: dict[int, Frame] = field(default_factory=dict)
    """Frames that the reward model may still be shown, by their number in the episode."""
    watched: tuple[int, int] = (1, 0)
    """Stride and number of the frames that it is shown."""
    frames: int = 0
    """Count the episode's frames."""
    unseen: deque[Frame] = field(default_factory=deque)
    """Frames that wait for `render`."""
    dropped: bool = False
    """Note that some of these were dropped."""

    def __getstate__(self) -> dict[str, Any]:
        # The generator goes by its state: not every version of torch can copy or pickle one.
        return {**vars(self), "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, generator=torch.Generator())
        self.generator.set_state(state["generator"])

    def keep(self) -> Callable[[], None]:
        """Return a function that restores the sub-environment as it is now, both random generators included."""
        fields = {
            name: value.copy() if isinstance(value, deque | dict) else value for name, value in vars(self).items()
        }
        noise, random = self.generator.get_state(), self.np_random
        drawn = {} if random is None else random.bit_generator.state

        def put_back() -> None:
            vars(self).update(fields)
            # Generators are restored in place: a caller may hold on to `np_random`.
            self.generator.set_state(noise)
            if random is not None:
                random.bit_generator.state = drawn

        return put_back

    def begin(
        self, start: InitialState, noise_seed: int, reward_model: RewardModel | None, image: Frame | None = None
    ) -> None:
        """Start an episode; `image` is its first frame where that is not an array on the CPU."""
        self.generator.manual_seed(noise_seed)
        self.start, self.elapsed, self.ended, self.queue_index = start, 0, False, None
        self.recall((), 0, reward_model)
        self.show()
        self._see(start.frames[-1].copy() if image is None else image, collect=True)

    def extend(self, frames: Clip, *, collect: bool) -> None:
        """Add the frames of one chunk to the episode; `collect` also keeps them for `render`."""
        for frame in frames:
            self._see(frame, collect=collect)
        self.elapsed += 1
        self.forget()

    def skip(self, steps: int) -> None:
        """Add a chunk of so many frames, none of which is decoded yet."""
        self.frames += steps
        self.elapsed += 1

    @property
    def window(self) -> range:
        """Return the numbers of the frames that a reward model is shown beside the latest."""
        stride, most = self.watched
        return range(0, self.frames, stride)[-most:] if most else range(0)

    @property
    def video(self) -> list[int]:
        """Return the numbers of all frames that it is shown: the last `max_frames` of every stride-th, the latest."""
        stride, most = self.watched
        latest = [self.frames - 1] if (self.frames - 1) % stride else []
        return [*self.window, *latest][-most:] if most else []

    def due(self, *, chooses: bool) -> list[int]:
        """Return the frames to decode after a chunk: the latest, and all of a reward model that does not choose."""
        return [*([] if chooses else self.video), self.frames - 1]

    def take(self, numbers: Sequence[int]) -> Clip:
        """Return frames that are kept, or the latest."""
        return stack([self.image if number == self.frames - 1 else self.kept[number] for number in numbers])

    def forget(self) -> None:
        """Drop the frames that no reward model will be shown any more."""
        oldest = min(self.window, default=self.frames)
        self.kept = {number: frame for number, frame in self.kept.items() if number >= oldest}

    def recall(self, window: Sequence[Frame], frames: int, reward_model: RewardModel | None) -> None:
        """Restore the frames kept for the reward model; `render` continues from the latest frame."""
        self.watched = (reward_model.stride, reward_model.max_frames) if reward_model else (1, 0)
        self.frames = frames
        self.kept = dict(zip(self.window, window, strict=True))
        self.show(self.image)

    def show(self, *frames: Frame) -> None:
        """Let these frames, and no others, wait for `render`."""
        self.unseen, self.dropped = deque(frames, maxlen=UNSEEN_FRAMES), False

    def start_info(self) -> dict[str, Any]:
        """Return the entries of `info` that belong to the episode and are the same at its every step."""
        assert self.start is not None
        facts = {name: getattr(self.start, name) for name in ("instruction", "suite", "task", "split")}
        queued = {} if self.queue_index is None else {"queue_index": self.queue_index}
        return facts | {"start": self.start.index} | queued

    def _see(self, frame: Frame, *, collect: bool) -> None:
        self.image = frame
        if self.watched[1] and self.frames % self.watched[0] == 0:
            # A frame is a view of its chunk: without a copy whole chunks would be kept alive.
            self.kept[self.frames] = frame.clone() if isinstance(frame, Tensor) else frame.copy()
        if collect:
            if len(self.unseen) == UNSEEN_FRAMES and not self.dropped:
                self.dropped = True
                warn(
                    f"{UNSEEN_FRAMES} frames wait for render() and the oldest are dropped: call it after each step, or "
                    "make the env without render_mode='rgb_array_list'"
                )
            self.unseen.append(frame)
        self.frames += 1
