"""Training dreams that go on from step to step, so that a model is trained on what its own long dreams look like."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data.windows import Windows
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, unstack_frames
from prophet_gym.prophet._gripper import ChunkInputs, GripperTracker, chunk_inputs

CHUNK = 8
PAST = 20
"""Frames a dream carries: 16 of history and the four of the given slot."""


@dataclass(frozen=True)
class Dreams:
    """Recorded commands, dreamt so far by the model itself.

    Attributes:
        current: index among all frames where each dream is.
        first: index of its episode's first frame.
        last: index of its episode's last frame.
        age: chunks that it has dreamt.
        past: latents of its newest frames, its own where it dreamt them.
        gripper: where the gripper is in the last four of them.
    """

    current: Int64[np.ndarray, " b"]
    first: Int64[np.ndarray, " b"]
    last: Int64[np.ndarray, " b"]
    age: Int64[np.ndarray, " b"]
    past: Float[Tensor, "b n c h w"]
    gripper: Float[Tensor, "b 4 4"]

    @classmethod
    def begin(cls, data: LatentEpisodes, tracker: GripperTracker, rows: int, generator: torch.Generator) -> "Dreams":
        """Begin at frames of any episode, each as likely as another, that have a chunk before them."""
        current, episode = data.places(rows, CHUNK, generator)
        first, last = data.starts[episode], data.starts[episode + 1] - 1
        past = data.window(current, first, past=PAST, chunk=CHUNK, ahead=0).past.to(tracker.device)
        with torch.no_grad():
            gripper = tracker.read_frames(past[:, -FRAMES_PER_LATENT:])
        return cls(current, first, last, np.zeros(rows, np.int64), past, gripper)

    def clips(self, data: LatentEpisodes) -> Windows:
        """The next chunk's commands and what really came of them, behind the dream's own past."""
        real = data.window(self.current, self.first, past=PAST, chunk=CHUNK, ahead=CHUNK)
        return replace(real.to(self.past.device), past=self.past)

    def go_on(
        self, tracker: GripperTracker, inputs: ChunkInputs, dreamt: Float[Tensor, "b c t h w"], reader_weight: float
    ) -> "Dreams":
        """One chunk later, with what was dreamt in it, as a rollout goes on."""
        past = torch.cat([self.past, unstack_frames(dreamt).to(self.past)], dim=1)[:, -PAST:]
        newest = slice(-FRAMES_PER_LATENT, None)
        with torch.no_grad():
            gripper = tracker.correct(inputs.path[:, newest], past[:, newest], reader_weight)
        return replace(self, current=self.current + CHUNK, age=self.age + 1, past=past, gripper=gripper)

    def renewed(
        self, data: LatentEpisodes, tracker: GripperTracker, length: float | int, generator: torch.Generator
    ) -> "Dreams":
        """The same, but dreams begin anew where the recording ends and, by chance, after `length` chunks on average."""
        chance = torch.rand(len(self.current), generator=generator).numpy() < 1 / length
        ended = chance | (self.current + CHUNK > self.last)
        return self._with(ended, Dreams.begin(data, tracker, len(ended), generator)) if ended.any() else self

    def _with(self, rows: Bool[np.ndarray, " b"], other: "Dreams") -> "Dreams":
        """Some rows of another batch in place of these."""
        chosen = torch.from_numpy(rows).to(self.past.device)
        taken = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Tensor):
                taken[field.name] = torch.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), theirs, mine)
            else:
                taken[field.name] = np.where(rows, theirs, mine)
        return Dreams(**taken)


def inputs_of(dreams: Dreams, clips: Windows, tracker: GripperTracker, camera: Float[Tensor, "3 4"]) -> ChunkInputs:
    """What the transformer reads to dream the next chunk."""
    with torch.no_grad():
        return chunk_inputs(tracker, dreams.past, dreams.gripper, clips.past_actions, clips.actions, camera)
