"""Let a policy act in shorter chunks than the world model's."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_count
from prophet_gym.specs import InitialState
from prophet_gym.world_model import (
    Chunk,
    CutsChunks,
    ShowsWrist,
    State,
    TracksGripper,
    WorldModel,
    encode_initial_states,
)


class ShortenedChunk:
    """Wrap a world model so that its chunks are shorter.

    The actions are padded with no-ops, which keep the robot where the last action took it; the whole chunk is generated
    and its first frames are kept. A step therefore costs as much as one of the longer chunk. The result is approximate,
    and `Chunk.approximate` says so: a model that reads the actions of a chunk together, as Prophet does, was trained
    on chunks that were run to their end.

    Example:
        >>> from prophet_gym.embodiments import get_embodiment
        >>> from prophet_gym.prophet._presets import tiny_full_prophet
        >>> shorter = ShortenedChunk(tiny_full_prophet(), 3, no_op=get_embodiment("libero").no_op)
        >>> state = shorter.encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
        >>> chunk = shorter.rollout(state, torch.zeros(1, 3, 7), generators=[torch.Generator()])
        >>> chunk.frames.shape[1], chunk.approximate
        (3, True)
    """

    def __init__(
        self, world_model: WorldModel, chunk: int, *, no_op: Callable[[Float[np.ndarray, "b a"]], np.ndarray]
    ) -> None:
        """Wrap a world model.

        Args:
            world_model: World model whose state can be cut inside a chunk (`CutsChunks`).
            chunk: Number of actions per rollout, fewer than the model's.
            no_op: Returns the no-op that follows each action (`Embodiment.no_op`).

        Raises:
            ValueError: The chunk is not shorter than the model's, or the model's state cannot be cut.
        """
        if require_count("chunk", chunk) >= world_model.chunk:
            limit = f"less than the world model's {world_model.chunk}: longer ones are several steps"
            raise ValueError(f"chunk={chunk} must be {limit}")
        if not isinstance(world_model, CutsChunks):
            problem = "this world model's state cannot be cut inside a chunk: only the full Prophet's can"
            raise ValueError(f"chunk={chunk} is too short, since {problem}. Use chunk={world_model.chunk}")
        self.world_model, self.chunk, self.no_op = world_model, chunk, no_op
        self.frame_size, self.action_dim = world_model.frame_size, world_model.action_dim
        self._cut: Callable[[State, Chunk, int], State] = world_model.cut
        # An attribute of the object, so that `isinstance(self, TracksGripper)` says what the model inside can do.
        if isinstance(world_model, TracksGripper):
            self.read_gripper = world_model.read_gripper
        if isinstance(world_model, ShowsWrist):
            self.read_wrist, self.read_robot_state = world_model.read_wrist, world_model.read_robot_state
            self.read_state_error = world_model.read_state_error

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Encode frames as the world model does."""
        return self.world_model.encode(frames)

    def encode_initial_states(self, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]) -> State:
        """Encode initial states as the world model does."""
        return encode_initial_states(self.world_model, frames, starts)

    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Generate a whole chunk of the world model and cut it; ValueError for another number of actions."""
        if actions.shape[1] != self.chunk:
            wanted = f"(b, {self.chunk}, {self.action_dim})"
            raise ValueError(f"actions must have shape {wanted}, got {tuple(actions.shape)}")
        still = torch.from_numpy(np.asarray(self.no_op(actions[:, -1].cpu().numpy()))).to(actions)
        rest = still[:, None].expand(-1, self.world_model.chunk - self.chunk, -1)
        whole = self.world_model.rollout(state, torch.cat([actions, rest], dim=1), generators=generators)
        frames = whole.frames[:, : self.chunk].clone()
        return Chunk(self._cut(state, whole, self.chunk), frames, whole.uncertainty, approximate=True)
