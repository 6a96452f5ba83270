"""Dreams of recorded episodes: begun at their frames, under recorded actions, open loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym.data._episode import Episode, LabelledVideo
from prophet_gym.data._first_frames import first_state
from prophet_gym.specs import FIRST_CAMERA
from prophet_gym.world_model import ResumesBoth, State, TracksGripper, WorldModel, encode_initial_states


@dataclass(frozen=True)
class Dream:
    """Hold the frame after each action, and the gripper's position (metres) after each chunk where it is tracked."""

    frames: UInt8[np.ndarray, "b t h w 3"]
    gripper: Float[np.ndarray, "b n 3"] | None


def dream(
    world_model: WorldModel,
    state: State,
    actions: Float[np.ndarray, "b t a"],
    seeds: Sequence[int],
    camera: str = FIRST_CAMERA,
) -> Dream:
    """Dream open loop, chunk after chunk, with one seed of the noise per batch element; return a camera's frames."""
    if actions.shape[1] % world_model.chunk:
        raise ValueError(f"actions must be a multiple of the chunk ({world_model.chunk}), got {actions.shape[1]}")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    frames, gripper = [], []
    for part in torch.from_numpy(np.ascontiguousarray(actions)).split(world_model.chunk, dim=1):
        chunk = world_model.rollout(state, part, generators=generators)
        state = chunk.state
        frames.append(chunk.frames.cpu() if camera == FIRST_CAMERA else _wrist_frames(world_model, state, part.shape))
        if isinstance(world_model, TracksGripper):
            gripper.append(world_model.read_gripper(state).cpu())
    path = torch.stack(gripper, dim=1).double().numpy() if gripper else None
    return Dream(torch.cat(frames, dim=1).numpy(), path)


def begin_episodes(world_model: WorldModel, episodes: Sequence[Episode]) -> State:
    """Begin dreams at the first frames of recorded episodes, from all that a recording and the model both have there.

    That is how an env begins: with the image of the camera at the hand and the robot's state for a model of both.
    """
    starts = [first_state(episode) for episode in episodes]
    return encode_initial_states(world_model, torch.from_numpy(np.stack([s.frames for s in starts])), starts)


def _wrist_frames(world_model: WorldModel, state: State, shape: torch.Size) -> UInt8[Tensor, "b k h w 3"]:
    assert isinstance(world_model, ResumesBoth)
    ages = range(shape[1] - 1, -1, -1)
    return torch.stack([world_model.decode_wrist(state, torch.full((shape[0],), age)).cpu() for age in ages], dim=1)


def dreamt_frames(
    world_model: WorldModel, episodes: Sequence[Episode], batch_size: int, seed: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w 3"]]]:
    """Yield each episode's number and its frames as dreamt from the first one under the recorded actions.

    A dream ends with the last whole chunk; its noise depends on `seed` and on the episode's number alone.
    """
    chunk = world_model.chunk
    order = sorted(range(len(episodes)), key=lambda number: len(episodes[number]))
    # In batches of similar length.
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        batch = [episodes[number] for number in numbers]
        whole = [len(episode) // chunk * chunk for episode in batch]
        actions = np.zeros((len(batch), max(whole), batch[0].actions.shape[1]), np.float32)
        for row, (episode, steps) in enumerate(zip(batch, whole, strict=True)):
            actions[row, :steps] = episode.actions[:steps]
        starts = np.stack([episode.frames()[:1] for episode in batch])
        if not max(whole):
            yield from zip(numbers, starts, strict=True)
            continue
        state = begin_episodes(world_model, batch)
        frames = dream(world_model, state, actions, [seed + number for number in numbers]).frames
        for row, (number, steps) in enumerate(zip(numbers, whole, strict=True)):
            yield number, np.concatenate([starts[row], frames[row, :steps]])


def labelled(episode: Episode, frames: UInt8[np.ndarray, "t h w 3"]) -> LabelledVideo:
    """Return an episode's frames, recorded or dreamt, with the labels of the recording."""
    known, labels = episode.simulation, episode.done[: len(frames)]
    if known is None:
        return LabelledVideo(frames, labels, episode.instruction, policy="recorded")
    return LabelledVideo(frames, labels, episode.instruction, known.task, known.mode)
