"""A small Prophet for any robot: it reads the actions as they are, and neither gripper nor camera need be known.

Several cameras are one: each frame holds their images below one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_none
from prophet_gym.embodiments import Robot
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION, FrameAutoencoder, statistics_fit
from prophet_gym.prophet._frames import FrameConfig, FrameProphet, beyond_size
from prophet_gym.prophet._gripper import ChunkInputs, ChunkStart, given_and_history
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.world_model import State

PATCH, LEAST = 2 * SPATIAL_COMPRESSION, 8 * SPATIAL_COMPRESSION
"""Sides of a frame are multiples of so many pixels, and of at least so many: the transformer takes 2x2 latent cells at
once, and its coarsest memory 8x8."""


@dataclass(frozen=True)
class ActionConfig(FrameConfig):
    """Hold what a checkpoint of `ActionProphet` fixes beside its networks: its inputs, and the robot's actions.

    The numbers of an action are those of the data, from which their mean and deviation are.
    """

    cameras: tuple[str, ...] = ("image",)  # from the top of a frame to its bottom, each of the same height
    action_mean: tuple[float, ...] = (0.0,) * 7
    action_std: tuple[float, ...] = (1.0,) * 7
    # Of `ActionSpec`, see `Robot.described`.
    action_names: tuple[str, ...] = tuple(f"action_{number}" for number in range(7))
    action_low: tuple[float, ...] = (-1.0,) * 7
    action_high: tuple[float, ...] = (1.0,) * 7
    rest_action: tuple[float, ...] | None = None
    fps: float = 20.0
    held_out: int = 20  # one episode in so many of its data was kept from training, see `held_out`

    # Nothing is tracked, so nothing pulls at a tracked path.
    reader_weight: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        count, heights = self.action_dim, len(self.cameras) * SPATIAL_COMPRESSION
        each = (self.action_names, self.action_low, self.action_high)
        require_none(
            {
                f"frame_size={self.frame_size} must be multiples of {PATCH} of at least {LEAST}, and as high for "
                f"each of {len(self.cameras)} cameras": (
                    any(side % PATCH or side < LEAST for side in self.frame_size)
                    or not heights
                    or self.frame_size[0] % heights > 0
                ),
                f"action_mean and action_std must be {count} numbers of at most 4096, deviations above 0": (
                    not statistics_fit(self.action_mean, self.action_std, count)
                ),
                f"action_names, action_low, action_high and rest_action must have action_dim={count} entries": (
                    {*map(len, each), len(self.rest_action or self.action_names)} != {count}
                ),
                **beyond_size("action_low and action_high", [*self.action_low, *self.action_high]),
                f"fps={self.fps} must be above 0": not self.fps > 0,
                f"held_out={self.held_out} must be at least 1": self.held_out < 1,
            }
        )
        Robot.described(vars(self))  # whose bounds must be such

    def inputs(self, tracker: Any, start: ChunkStart) -> ChunkInputs:
        """Return the inputs of one chunk: actions in deviations of the data, and the first frame in every slot."""
        del tracker
        mean, std = (start.past.new_tensor(numbers) for numbers in (self.action_mean, self.action_std))
        numbers = torch.cat([start.past_actions[:, -FRAMES_PER_LATENT:], start.actions], dim=1)
        slots = numbers.shape[1] // FRAMES_PER_LATENT
        return ChunkInputs(
            **given_and_history(start.past),
            actions=(numbers - mean) / std,
            action_frames=start.first[:, :, None].expand(-1, -1, slots, -1, -1),
            path=start.gripper.new_zeros(*start.actions.shape[:2], 0),
        )


class ActionProphet(FrameProphet):
    """Dream any robot from its actions alone, in joint space or any other, with one or more cameras.

    The first frame's latents are input channels of every slot, so that its looks are never forgotten. Before the first
    action of a dream the robot is taken to have been asked for the same.

    Args:
        transformer: Predicts the flow of a chunk's latents.
        autoencoder: Encodes frames as latents and decodes them.
        config: All other settings.
    """

    config_class = ActionConfig
    networks: ClassVar = {"transformer": ProphetTransformer3DModel, "autoencoder": FrameAutoencoder}
    config: ActionConfig

    def __init__(
        self, transformer: ProphetTransformer3DModel, autoencoder: FrameAutoencoder, config: ActionConfig
    ) -> None:
        super().__init__(config, transformer=transformer, autoencoder=autoencoder)

    def _carried(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        latents: Float[Tensor, "b t c y x"],
        past_actions: Float[Tensor, "b k a"] | None,
    ) -> State:
        led = torch.full((len(frames),), past_actions is not None, device=frames.device)
        return {**super()._carried(frames, latents, past_actions), "initial": latents[:, 0].clone(), "led": led}

    def _before(self, rows: int) -> Float[Tensor, "b k a"]:
        # Not read: `led` says that the first action stands for what came before it, as in `LatentEpisodes`.
        return torch.zeros(rows, self.config.chunk, self.config.action_dim)

    def _inputs(self, state: State, actions: Float[Tensor, "b k a"]) -> ChunkInputs:
        past = state["latents"]
        before = torch.where(state["led"][:, None, None], state["commands"], actions[:, :1])
        nothing = past.new_zeros(len(past), FRAMES_PER_LATENT, 0)
        start = ChunkStart(past, nothing, before, actions, state["initial"], nothing[:, 0])
        return self.config.inputs(None, start)

    def _followed(self, inputs: ChunkInputs, latents: Float[Tensor, "b k c y x"]) -> dict[str, Tensor]:
        del inputs
        return {"led": torch.ones(len(latents), dtype=torch.bool, device=latents.device)}

    def _require_fit(self, more: Mapping[str, bool]) -> None:
        numbers, channels = (self.transformer.config[name] for name in ("action_dim", "action_frame_channels"))
        own, latent = self.config.action_dim, self.autoencoder.config["latent_channels"]
        problems = {
            f"the transformer reads {numbers} numbers a frame, which must be {own} of the action": numbers != own,
            f"the transformer reads {channels} channels beside a slot, which must be {latent} of the initial frame": (
                channels != latent
            ),
        }
        super()._require_fit({**problems, **more})
