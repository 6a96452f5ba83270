"""Training clips from recordings: whole latents in memory, any window drawn by a seeded generator."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from prophet_gym._io.atomic import atomic_file
from prophet_gym._io.files import read_npz
from prophet_gym.data.recording import MAX_OPENING, Episode

HOLD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""The command that keeps a LIBERO arm where it is, gripper open: what came before an episode's first action."""


def gripper_numbers(episode: Episode) -> Float32[np.ndarray, "n 4"]:
    """Return gripper position (world metres) and openness (1 open .. 0 closed) at every frame."""
    openness = np.clip(episode.gripper_opening / MAX_OPENING, 0, 1)
    return np.concatenate([episode.gripper_position, openness[:, None]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Clips:
    """One batch of windows.

    Attributes:
        past: latents of the frames up to and with the current one, the first frame repeated before the episode's start.
        past_commands: the commands that led to the newest of these.
        commands: the commands that follow.
        future: latents after each of them.
        gripper: the true gripper at the current frame and after each command.
    """

    past: Float[Tensor, "b n c h w"]
    past_commands: Float[Tensor, "b k a"]
    commands: Float[Tensor, "b m a"]
    future: Float[Tensor, "b m c h w"]
    gripper: Float[Tensor, "b m1 4"]

    def to(self, device: torch.device) -> "Clips":
        """Return the same batch on a device."""
        return Clips(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class LatentEpisodes:
    """All frames of many episodes as latents, one after the other.

    Attributes:
        latents: normalised latents of every frame.
        commands: the command after each frame; the row of an episode's last frame is unused.
        gripper: see `gripper_numbers`.
        starts: index of every episode's first frame, and the total as last entry.
    """

    latents: Float16[np.ndarray, "n c h w"]
    commands: Float32[np.ndarray, "n a"]
    gripper: Float32[np.ndarray, "n 4"]
    starts: Int64[np.ndarray, " e1"]

    def save(self, path: str | os.PathLike) -> None:
        """Write one uncompressed npz."""
        with atomic_file(path) as draft:
            np.savez(draft, latents=self.latents, commands=self.commands, gripper=self.gripper, starts=self.starts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LatentEpisodes":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or its arrays do not belong together.
        """
        names = [field.name for field in fields(cls)]
        # Uncompressed, so the arrays cannot be larger than the file.
        values = read_npz(path, names, limit=Path(path).stat().st_size if Path(path).exists() else 0)
        _require_latents(path, values)
        return cls(**values)

    @classmethod
    def join(cls, latents: Sequence[np.ndarray], episodes: Sequence[Episode]) -> "LatentEpisodes":
        """Join the latents `t+1 c h w` of episodes with their commands."""
        commands = [np.concatenate([e.actions, np.asarray([HOLD], np.float32)]) for e in episodes]
        return cls(
            latents=np.concatenate(latents).astype(np.float16),
            commands=np.concatenate(commands).astype(np.float32),
            gripper=np.concatenate([gripper_numbers(e) for e in episodes]),
            starts=np.cumsum([0, *(len(e) + 1 for e in episodes)], dtype=np.int64),
        )

    def draw(self, rows: int, *, past: int, chunk: int, chunks: int, generator: torch.Generator) -> Clips:
        """Draw windows uniformly over all frames that have `chunk * chunks` commands left.

        Args:
            rows: batch size.
            past: frames up to and with the current one.
            chunk: commands before the current frame.
            chunks: chunks after it.
            generator: all randomness.

        Raises:
            ValueError: no episode is long enough.
        """
        current, episode = self.places(rows, chunk * chunks, generator)
        return self.window(current, self.starts[episode], past=past, chunk=chunk, ahead=chunk * chunks)

    def places(
        self, rows: int, ahead: int, generator: torch.Generator
    ) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Draw frames uniformly over all that have `ahead` commands left: their indices, and their episodes'.

        Raises:
            ValueError: no episode is long enough.
        """
        counts = np.maximum(np.diff(self.starts) - ahead, 0)
        ends = np.cumsum(counts)
        if not ends[-1]:
            raise ValueError(f"no episode has the {ahead} steps that are asked for")
        picks = torch.randint(int(ends[-1]), (rows,), generator=generator).numpy()
        episode = np.searchsorted(ends, picks, side="right")
        return self.starts[episode] + picks - (ends - counts)[episode], episode

    def window(
        self,
        current: Int64[np.ndarray, " b"],
        first: Int64[np.ndarray, " b"],
        *,
        past: int,
        chunk: int,
        ahead: int,
    ) -> Clips:
        """Cut the windows around the `current` frames of episodes that begin at `first`."""
        before = current[:, None] + np.arange(1 - past, 1)
        commands_before = current[:, None] + np.arange(-chunk, 0)
        past_commands = self.commands[np.maximum(commands_before, first[:, None])]
        past_commands[commands_before < first[:, None]] = HOLD
        after = current[:, None] + np.arange(ahead + 1)
        tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))  # noqa: E731
        return Clips(
            past=tensor(self.latents[np.maximum(before, first[:, None])]),
            past_commands=tensor(past_commands),
            commands=tensor(self.commands[after[:, :-1]]),
            future=tensor(self.latents[after[:, 1:]]),
            gripper=tensor(self.gripper[after]),
        )


def _require_latents(path: str | os.PathLike, values: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays of a file are those of `LatentEpisodes` and finite."""
    frames = len(values["latents"]) if values["latents"].ndim == 4 else 0
    shapes = {"latents": (frames, *values["latents"].shape[1:4]), "commands": (frames, 7), "gripper": (frames, 4)}
    for name, shape in shapes.items():
        array, kind = values[name], np.float16 if name == "latents" else np.float32
        if not frames or array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
            raise ValueError(
                f"{name} of {path} must be finite {np.dtype(kind)} numbers for each of {frames} frames, are "
                f"{array.dtype} {array.shape}; delete the file and encode the episodes again"
            )
    starts = values["starts"]
    whole = starts.ndim == 1 and starts.dtype == np.int64 and len(starts) > 1
    if not whole or starts[0] != 0 or starts[-1] != frames or (np.diff(starts) < 1).any():
        raise ValueError(
            f"starts of {path} must rise from 0 to {frames}, its frames; delete the file and encode the episodes again"
        )
