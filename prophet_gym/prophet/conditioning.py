"""What one call of the transformer reads: given slot, history, actions and action frames."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prophet_gym.prophet.action_frames import draw_discs
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT, stack_frames
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.transformer import ProphetTransformer3DModel

SIGMA_COND = 1e-4
"""Noise label of the given slot (reference.md: "One call")."""
GRIPPER_FEATURES = 4
DISC_CHANNELS = 3


@dataclass(frozen=True)
class Conditions:
    """Inputs of the transformer but for the noisy slots.

    Attributes:
        given: the latent frame that a chunk starts from.
        history: the latent frames before, oldest first; None without memory.
        actions: what the action stream reads.
        action_frames: pictures of the end effector, as latents or drawn at their size; None without them.
        drawn: the rows that have such pictures, where not all do.
    """

    given: Float[Tensor, "b c 1 h w"]
    history: Float[Tensor, "b c s h w"] | None
    actions: Float[Tensor, "b n a"]
    action_frames: Float[Tensor, "b f t h w"] | None
    drawn: Bool[Tensor, " b"] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ChunkInputs(Conditions):
    """The small Prophet's: the last four frames are given, actions are commands and gripper path of every frame.

    Attributes:
        path: the gripper after each command, where the commands lead.
    """

    path: Float[Tensor, "b k 4"]


def chunk_inputs(
    tracker: GripperTracker,
    past: Float[Tensor, "b n c h w"],
    gripper: Float[Tensor, "b 4 4"],
    past_actions: Float[Tensor, "b k a"],
    actions: Float[Tensor, "b k a"],
    camera: Float[Tensor, "3 4"],
) -> ChunkInputs:
    """Assemble the inputs of one chunk from what a dream carries.

    Args:
        tracker: follows the gripper through the commands.
        past: normalised per-frame latents, oldest first; the last four are the given slot.
        gripper: the gripper at the four given frames, read off them or tracked.
        past_actions: the commands that led to the last `k` past frames.
        actions: the commands to dream.
        camera: world to unit image.
    """
    given = past[:, -FRAMES_PER_LATENT:]
    ahead = tracker.follow(gripper[:, -1], past_actions, actions, given[:, -1], camera)
    path = torch.cat([gripper, ahead], dim=1)
    mean = torch.tensor(tracker.config["gripper_mean"], device=path.device, dtype=path.dtype)
    std = torch.tensor(tracker.config["gripper_std"], device=path.device, dtype=path.dtype)
    numbers = torch.cat([past_actions[:, -FRAMES_PER_LATENT:], actions], dim=1)
    rows = camera.to(path)[None].expand(path.shape[0], -1, -1)
    discs = draw_discs(path[..., :3], path[..., 3], rows, (past.shape[-2], past.shape[-1]))
    history = past[:, :-FRAMES_PER_LATENT]
    return ChunkInputs(
        given=stack_frames(given),
        history=stack_frames(history) if history.shape[1] else None,
        actions=torch.cat([numbers, (path - mean) / std], dim=-1),
        action_frames=stack_frames(discs),
        path=ahead,
    )


def predict_velocity(
    transformer: ProphetTransformer3DModel,
    inputs: Conditions,
    noisy: Float[Tensor, "b c t h w"],
    time: Float[Tensor, " b"],
) -> Float[Tensor, "b c t h w"]:
    """Return the transformer's velocity (source minus data) on the generated slots.

    Args:
        transformer: the network.
        inputs: the rest of its inputs.
        noisy: latents on the way from source (time 1) to data (time 0).
        time: flow time of each row, tau = sigma / (1 + sigma).
    """
    latents = torch.cat([inputs.given, noisy], dim=2)
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, :1] = 1
    label = time[:, None].repeat(1, latents.shape[2])
    label[:, 0] = SIGMA_COND
    out = transformer(
        latents,
        label,
        condition_mask=mask,
        actions=inputs.actions,
        action_frames=inputs.action_frames,
        history=inputs.history,
        action_frames_mask=inputs.drawn,
    )
    return out[:, :, 1:]


def flow_source(
    inputs: ChunkInputs, noise: Float[Tensor, "b c t h w"], noise_scale: float
) -> Float[Tensor, "b c t h w"]:
    """Where the small model's flow starts: the last given frame in every generated slot, plus a little noise.

    Differences from the paper: Prophet's flow starts from pure noise. Starting at the last frame makes one network call
    a regression of the change, which is what few samples can learn, and more calls refine it.
    """
    channels = inputs.given.shape[1] // FRAMES_PER_LATENT
    last = inputs.given[:, -channels:].repeat(1, FRAMES_PER_LATENT, noise.shape[2], 1, 1)
    return last + noise_scale * noise
