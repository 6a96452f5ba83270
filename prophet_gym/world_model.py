"""The contracts of a dream: world models, what they may do besides, reward models, and the state between two chunks.

Anything that satisfies `WorldModel` runs in the environments. What only some world models can do is a protocol of its
own (`TracksGripper`, `ShowsWrist`, `Resumes`, `ResumesBoth`, `Reconstructs`, `CutsChunks`, `EncodesInitialStates`,
`DecodesOnDemand`), and so is what only some reward models may (`ScoresOnDemand`); ask with `isinstance`, which also
tells a type checker what may be called. `prophet_gym.testing` ships the checks.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from prophet_gym.errors import InvalidRewardError
from prophet_gym.specs import InitialState

# torch's OpenMP pool waits in a fork for threads that are not there: its first parallel loop would never end. One
# thread needs no pool, and it is what `AsyncVectorEnv` wants of each of its processes. Every world model and reward
# model imports this module before it computes anything, so a later fork is safe.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

_LARGEST_REWARD = torch.finfo(torch.float32).max
"""The largest reward that float32 holds; a larger one would be infinite to a learner."""
State = Mapping[str, Tensor]
"""Hold what a world model carries from chunk to chunk: named tensors whose first axis is the batch.

Entry i of every tensor belongs to batch element i, and shapes past the first axis do not change during an episode, so
elements can be selected, merged and reset without knowing what the tensors mean.
"""


@dataclass(frozen=True)
class Chunk:
    """Hold what one `rollout` returns.

    Attributes:
        state: The state after the chunk.
        frames: The frame after each of the k actions.
        uncertainty: How unsure the model is of this chunk, larger where it is less sure; None where it cannot tell.
        approximate: Whether the chunk is one that the model was not trained on, as in `envs.ShortenedChunk`.
    """

    state: State
    frames: UInt8[Tensor, "b k h w 3"]
    uncertainty: Float[Tensor, " b"] | None = None
    approximate: bool = False


@runtime_checkable
class WorldModel(Protocol):
    """Simulate a robot: frames and actions in, the following frames out.

    Element i of every output depends on element i of the inputs only. No call mutates its arguments.
    Inputs are on the CPU; the model moves them itself. Outputs may be on any device.

    Attributes:
        chunk: Number of actions (and of frames) per rollout.
        frame_size: Height and width of a frame in pixels.
        action_dim: Number of dimensions of an action.
    """

    chunk: int
    frame_size: tuple[int, int]
    action_dim: int

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Return the state after 1 to 4 recorded frames, oldest first."""
        ...

    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Generate one chunk; all noise of element i comes from `generators[i]`, a CPU generator, which advances."""
        ...


@runtime_checkable
class EncodesInitialStates(Protocol):
    """Declare that a world model reads more of an initial state than its frames, such as the poses of the tools."""

    def encode_initial_states(self, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]) -> State:
        """Return the state as `encode` does; element i begins at `starts[i]`, whose frames are `frames[i]`."""
        ...


@runtime_checkable
class TracksGripper(Protocol):
    """Declare that a world model tracks the gripper in its dreams."""

    def read_gripper(self, state: State) -> Float[Tensor, "b 3"]:
        """Return the gripper's position in world metres at the newest frame of a state."""
        ...


@runtime_checkable
class ShowsWrist(Protocol):
    """Declare that a world model also dreams what a camera at the hand sees, and the state that policies read."""

    def read_wrist(self, state: State) -> UInt8[Tensor, "b h w 3"]:
        """Return what the camera at the hand sees at the newest frame of a state, as large as the frame."""
        ...

    def read_robot_state(self, state: State) -> Float[Tensor, "b 8"]:
        """Return the numbers of `specs.STATE_NAMES` at the newest frame of a state."""
        ...

    def read_state_error(self, state: State) -> Float[Tensor, "b 3"] | None:
        """Return half-widths that hold 90% of the errors of position, rotation and fingers; None where not known."""
        ...


@runtime_checkable
class ResumesBoth(Protocol):
    """Declare that a world model of two cameras can be compared with recordings of both."""

    def resume_both(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        wrist: UInt8[Tensor, "b t h w 3"],
        past_actions: Float[Tensor, "b k a"] | None,
    ) -> State:
        """Return the state as `Resumes` does, from both cameras; without past actions the arm was at rest."""
        ...

    def decode_wrist(self, state: State, ages: Int[Tensor, " b"]) -> UInt8[Tensor, "b h w 3"]:
        """Return what the camera at the hand saw at one frame of each element, `ages[i]` before its newest."""
        ...

    def reconstruct_wrist(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return recorded frames of the camera at the hand, encoded and decoded by the autoencoder."""
        ...


@runtime_checkable
class Resumes(Protocol):
    """Declare that a world model can begin in the middle of an episode, while the arm moves."""

    def resume(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"]) -> State:
        """Return the state after any number of recorded frames; the chunk `past_actions` led to the newest of them."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Declare that a world model can show recorded frames as its dreams would, an upper bound on their quality."""

    def reconstruct(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return recorded frames, encoded and decoded by the autoencoder."""
        ...


@runtime_checkable
class CutsChunks(Protocol):
    """Declare that the state of a world model can be cut inside a chunk, as `envs.ShortenedChunk` needs."""

    def cut(self, state: State, chunk: Chunk, steps: int) -> State:
        """Return the state after the first `steps` frames of a chunk that was dreamt from `state`."""
        ...


@runtime_checkable
class DecodesOnDemand(Protocol):
    """Declare that a world model generates without decoding, and decodes single past frames on request.

    `rollout` does both: its state is that of `advance`, its frames are those of `decode` at the ages chunk - 1 down to
    0, and its uncertainty is that of the state.

    Attributes:
        decodable: Number of past frames that a state can decode; at least one chunk.
    """

    decodable: int

    def advance(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> State:
        """Return the state after one chunk."""
        ...

    def decode(self, state: State, ages: Int[Tensor, " b"]) -> UInt8[Tensor, "b h w 3"]:
        """Return one frame of each element: the one `ages[i]` frames before its newest, 0 to `decodable` - 1."""
        ...

    def uncertainty(self, state: State) -> Float[Tensor, " b"] | None:
        """Return how unsure the model is of the newest frame, None where it cannot tell; see `Chunk`."""
        ...


@runtime_checkable
class UsesEngine(Protocol):
    """Declare that more than one library can run the networks of a world model."""

    def use_engine(self, name: str) -> None:
        """Choose the library, by a name that the model knows or `auto`; dreams stay the same up to rounding."""
        ...


def encode_initial_states(
    model: WorldModel, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]
) -> State:
    """Return the state at these initial states, from all that the model reads of them."""
    if isinstance(model, EncodesInitialStates):
        return model.encode_initial_states(frames, starts)
    return model.encode(frames)


@dataclass(frozen=True)
class RewardOutput:
    """Hold the scores of a batch of videos. An unscored video has reward 0.0 and scored False.

    Attributes:
        reward: Finite in float32.
        scored: Whether the video was scored. An unscored video does not count as a failure.
        done: Whether the task is done; by default it is where the reward is at least 1.0.
        probability: Probability that the task is done, if the reward model gives one; calibration reads it.

    Raises:
        InvalidRewardError: A part is no tensor with one entry for each video, a reward is no finite number that float32
            can hold, or the probability of a scored video is not in 0..1.

    Example:
        >>> RewardOutput(torch.tensor([0.0, float("nan")]), torch.tensor([True, True]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        prophet_gym.errors.InvalidRewardError: a reward must be a finite number in float32, got nan for video 1 of 2...
    """

    reward: Float[Tensor, " b"]
    scored: Bool[Tensor, " b"]
    done: Bool[Tensor, " b"] | None = None
    probability: Float[Tensor, " b"] | None = None

    def __post_init__(self) -> None:
        count = self._require_vector("reward", None)
        for name in ("scored", "done", "probability"):
            if name == "scored" or getattr(self, name) is not None:
                self._require_vector(name, count)
        # In float64: the bound must not round, and half-precision rewards are compared with it too.
        reward = self.reward.detach().cpu().double()
        wanted = "a reward must be a finite number in float32"
        advice = "; say scored=False, with a reward of 0, for videos without a score"
        _require_all(reward.abs() <= _LARGEST_REWARD, wanted, reward, advice)
        if self.probability is not None:
            likely = self.probability.detach().cpu().double()
            possible = (likely >= 0) & (likely <= 1) | ~self.scored.detach().cpu()
            _require_all(possible, "a probability must be in 0..1", likely)

    @property
    def success(self) -> Bool[Tensor, " b"]:
        """Return whether each video was scored and its task found done."""
        return self.scored & (self.reward >= 1.0 if self.done is None else self.done)

    def _require_vector(self, name: str, count: int | None) -> int:
        """Return the number of entries of a part; InvalidRewardError unless it is a vector of `count` of them."""
        part: object = getattr(self, name)
        kind, given = "floating-point" if name in ("reward", "probability") else "bool", type(part).__name__
        if isinstance(part, Tensor):
            found = "floating-point" if part.is_floating_point() else str(part.dtype).removeprefix("torch.")
            if found == kind and part.ndim == 1 and count in (None, len(part)):
                return len(part)
            given = f"{part.dtype} {tuple(part.shape)}"
        wanted = f"({'videos' if count is None else count},)"
        raise InvalidRewardError(f"{name} must be a {kind} tensor {wanted}, one entry for each video, got {given}")


def _require_all(good: Tensor, wanted: str, values: Tensor, advice: str = "") -> None:
    if not good.all():
        place = int((~good).nonzero()[0])
        raise InvalidRewardError(f"{wanted}, got {values[place]:g} for video {place} of {len(values)}{advice}")


@runtime_checkable
class RewardModel(Protocol):
    """Score videos; declare which frames the env must keep for that.

    Attributes:
        when: `chunk` to score after every chunk, `end` to score once, at the episode's horizon.
        stride: A video has the frames 0, stride, 2 stride, ... of the episode (0 is the initial one), and the latest.
        max_frames: A video has at most the last `max_frames` of these.
    """

    when: Literal["chunk", "end"]
    stride: int
    max_frames: int

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Score each video (lengths may differ) against its instruction."""
        ...


@dataclass(frozen=True)
class Footage:
    """Hold videos whose frames are decoded when they are looked at.

    Attributes:
        lengths: Frames of each video.
        decoded: The frames of each, by number, that are decoded already: to look at them costs nothing.
        look: Takes the numbers of frames of each video and returns these frames, in the same order.
    """

    lengths: Sequence[int]
    decoded: Sequence[Collection[int]]
    look: Callable[[Sequence[Sequence[int]]], Sequence[UInt8[Tensor, "_ h w 3"]]]


@runtime_checkable
class ScoresOnDemand(Protocol):
    """Declare that a reward model can score a video without decoding all of its frames."""

    def score_on_demand(self, footage: Footage, instructions: Sequence[str]) -> RewardOutput:
        """Score each video as `score` does, looking at few frames; the probability may be left out."""
        ...
