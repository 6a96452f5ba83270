"""Training windows of latents: whole recordings encoded in memory, any window drawn by a seeded generator."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64

from prophet_gym._io.atomic import atomic_file
from prophet_gym._io.files import read_npz
from prophet_gym.data._episode import Episode
from prophet_gym.data._windows import Windows, _gripper_states, _past_indices
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import turn_between

_STORED = ("latents", "commands", "gripper", "starts")
"""The fields in their order, as a file names them."""


@dataclass(frozen=True)
class LatentEpisodes:
    """Hold all frames of many episodes as normalised latents, one after the other.

    In the row of an episode's last frame, `actions` has what its robot is taken to have done before the first
    (`Embodiment.action_before`). `gripper` is that of `Windows`, or with two cameras what `hand_states` returns.
    `starts` is the index of every episode's first frame, and the total as last entry.
    """

    latents: Float16[np.ndarray, "n c h w"]
    actions: Float32[np.ndarray, "n a"]
    gripper: Float32[np.ndarray, "n g"]
    starts: Int64[np.ndarray, " e1"]

    def save(self, path: str | os.PathLike) -> None:
        """Write one uncompressed npz."""
        with atomic_file(path) as temporary:
            np.savez(temporary, **dict(zip(_STORED, vars(self).values(), strict=True)))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LatentEpisodes":
        """Read what `save` wrote."""
        # Uncompressed, so the arrays cannot be larger than the file.
        values = read_npz(path, _STORED, limit=Path(path).stat().st_size if Path(path).exists() else 0)
        _require_latents(path, values)
        return cls(*(values[name] for name in _STORED))

    @classmethod
    def join(
        cls,
        latents: Sequence[np.ndarray],
        episodes: Sequence[Episode],
        states: Callable[[Episode], Float32[np.ndarray, "f g"]] | None = None,
        before: Callable[[Episode], Float32[np.ndarray, " a"]] | None = None,
    ) -> "LatentEpisodes":
        """Join the latents `t+1 c h w` of episodes with their actions.

        By default each must say where its tools are, and its robot what action came before the first.
        """
        states, before = states or _known_states, before or _action_before
        first = [before(each) for each in episodes]
        actions = [np.concatenate([each.actions, led[None]]) for each, led in zip(episodes, first, strict=True)]
        return cls(
            latents=np.concatenate(latents).astype(np.float16),
            actions=np.concatenate(actions).astype(np.float32),
            gripper=np.concatenate([states(each) for each in episodes]),
            starts=np.cumsum([0, *(len(each) + 1 for each in episodes)], dtype=np.int64),
        )

    def draw(self, rows: int, *, past: int, chunk: int, chunks: int, generator: torch.Generator) -> Windows:
        """Draw windows uniformly over all frames that have `chunk * chunks` actions left.

        They have `past` frames up to and with the current one, `chunk` actions before it and `chunks` chunks after it.
        """
        current, episode = self.places(rows, chunk * chunks, generator)
        return self.window(current, self.starts[episode], past=past, chunk=chunk, ahead=chunk * chunks)

    def places(
        self, rows: int, ahead: int, generator: torch.Generator
    ) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Draw frames uniformly over all that have `ahead` actions left; return their indices and their episodes'."""
        counts = np.maximum(np.diff(self.starts) - ahead, 0)
        ends = np.cumsum(counts)
        if not ends[-1]:
            raise ValueError(f"no episode has the {ahead} steps that are asked for")
        picks = torch.randint(int(ends[-1]), (rows,), generator=generator).numpy()
        episode = np.searchsorted(ends, picks, side="right")
        return self.starts[episode] + picks - (ends - counts)[episode], episode

    def window(
        self, current: Int64[np.ndarray, " b"], first: Int64[np.ndarray, " b"], *, past: int, chunk: int, ahead: int
    ) -> Windows:
        """Cut the windows around the `current` frames of episodes that begin at `first`."""
        before = current[:, None] + np.arange(-chunk, 0)
        # An episode's last row, which no action follows, says what came before its first action.
        last = self.starts[np.searchsorted(self.starts, first, side="right")] - 1
        led = self.actions[np.where(before < first[:, None], last[:, None], before)]
        after = current[:, None] + np.arange(ahead + 1)
        tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))  # noqa: E731
        return Windows(
            past=tensor(self.latents[_past_indices(current, first, past)]),
            future=tensor(self.latents[after[:, 1:]]),
            actions=tensor(self.actions[after[:, :-1]]),
            past_actions=tensor(led),
            gripper=tensor(self.gripper[after]),
        )


def no_states(episode: Episode) -> Float32[np.ndarray, "f 0"]:
    """Return no numbers of the gripper at every frame."""
    return np.zeros((len(episode) + 1, 0), np.float32)


def first_action(episode: Episode) -> Float32[np.ndarray, " a"]:
    """Return the first action, which stands for the one before it where the robot is not known."""
    return episode.actions[0]


def _known_states(episode: Episode) -> Float32[np.ndarray, "f 4"]:
    if episode.tools is None:
        raise ValueError(f"{episode.name} must say where its tools are; name the states that hold them")
    return _gripper_states(episode)


def _action_before(episode: Episode) -> Float32[np.ndarray, " a"]:
    return get_embodiment(episode.robot).action_before(episode.actions[0])


def hand_states(episode: Episode, rest: Float[np.ndarray, " 4"]) -> Float32[np.ndarray, "f 8"]:
    """Return position (metres), openness, rotation vector from `rest` (xyzw) and the middle between the finger joints.

    ValueError for an episode without the robot's state, which a recording of two cameras has.
    """
    state = episode.sim.robot_state
    if state is None:
        raise ValueError(f"{episode.name} must have the robot's state; record it with --cameras agentview wrist")
    turn = turn_between(rest, episode.sim.gripper_quaternion)
    middle = state[:, 6:].mean(axis=1, keepdims=True)
    return np.concatenate([_gripper_states(episode), turn, middle], axis=1).astype(np.float32)


def _require_latents(path: str | os.PathLike, values: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays of a file are those of `LatentEpisodes` and finite."""
    frames = len(values["latents"]) if values["latents"].ndim == 4 else 0
    width = values["commands"].shape[1] if values["commands"].ndim == 2 else 0
    found = values["gripper"].shape[1:]
    wide = found[0] if found in ((0,), (8,)) else 4
    shapes = {
        "latents": (frames, *values["latents"].shape[1:4]),
        "commands": (frames, width),
        "gripper": (frames, wide),
    }
    for name, shape in shapes.items():
        array, kind = values[name], np.float16 if name == "latents" else np.float32
        if (
            not array.ndim
            or not len(array)
            or array.shape != shape
            or array.dtype != kind
            or not np.isfinite(array).all()
        ):
            want, has = f"finite {np.dtype(kind)} numbers for each of {frames} frames", f"{array.dtype} {array.shape}"
            raise ValueError(f"{name} of {path} must be {want}, are {has}; delete the file to encode again")
    starts = values["starts"]
    whole = starts.ndim == 1 and starts.dtype == np.int64 and len(starts) > 1
    if not whole or starts[0] != 0 or starts[-1] != frames or (np.diff(starts) < 1).any():
        raise ValueError(f"starts of {path} must rise from 0 to {frames}, its frames; delete the file to encode again")
