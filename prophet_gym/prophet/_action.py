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
from prophet_gym.embodiments._urdf import ROW, Chain, Matrices, tool_path
from prophet_gym.prophet._autoencoder import (
    FRAMES_PER_LATENT,
    SPATIAL_COMPRESSION,
    FrameAutoencoder,
    stack_frames,
    statistics_fit,
)
from prophet_gym.prophet._frames import FrameConfig, FrameProphet, beyond_size
from prophet_gym.prophet._gripper import DISC_CHANNELS, ChunkInputs, ChunkStart, discs_of, given_and_history
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
    # Where the actions take the tool, of `tool_path`; its path in deviations is read too, and drawn for these cameras.
    tool_chain: Chain = ()
    tool_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tool_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tool_cameras: Matrices = ()
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
                **self._wrong_tools(),
            }
        )
        Robot.described(vars(self))  # whose bounds must be such

    def _wrong_tools(self) -> dict[str, bool]:
        chain, cameras = self.tool_chain, self.tool_cameras
        numbers = [*sum(chain, ()), *self.tool_mean, *self.tool_std, *sum(sum(cameras, ()), ())]
        return {
            f"tool_chain must have rows of {ROW} numbers whose first is -1 or one of the action's dimensions": any(
                len(row) != ROW or row[0] not in range(-1, self.action_dim) for row in chain
            ),
            "tool_std must be above 0": min(self.tool_std) <= 0,
            "tool_cameras must be none, or three rows of four numbers or none for each camera, beside a tool_chain": (
                bool(cameras)
                and (
                    not chain
                    or len(cameras) != len(self.cameras)
                    or any([*map(len, each)] not in ([], [4, 4, 4]) for each in cameras)
                )
            ),
            **beyond_size("numbers of tool_chain and tool_cameras", numbers),
        }

    @property
    def numbers(self) -> int:
        """Return how many numbers of an action the transformer reads: its own, and where it takes the tool."""
        return self.action_dim + (3 if self.tool_chain else 0)

    @property
    def drawn_channels(self) -> int:
        """Return the channels of action frames."""
        return FRAMES_PER_LATENT * DISC_CHANNELS if self.tool_cameras else 0

    def action_frames(self, path: Float[Tensor, "b f 3"], size: tuple[int, int]) -> Float[Tensor, "b f 3 h w"]:
        """Draw the tool on its path as each camera sees it, one below the other; nothing for one without a matrix."""
        opened = torch.ones_like(path[..., 0])
        part = (size[0] // len(self.cameras), size[1])
        views = [
            discs_of(torch.cat([path, opened[..., None]], dim=-1), path.new_tensor(matrix), part)
            if matrix
            else path.new_zeros(*path.shape[:2], DISC_CHANNELS, *part)
            for matrix in self.tool_cameras
        ]
        return torch.cat(views, dim=-2)

    def inputs(self, tracker: Any, start: ChunkStart) -> ChunkInputs:
        """Return the inputs of one chunk: actions in deviations of the data, and the first frame in every slot.

        Where the tool's chain is known, its path follows the actions, and action frames the first frame.
        """
        del tracker
        mean, std = (start.past.new_tensor(numbers) for numbers in (self.action_mean, self.action_std))
        numbers = torch.cat([start.past_actions[:, -FRAMES_PER_LATENT:], start.actions], dim=1)
        slots = numbers.shape[1] // FRAMES_PER_LATENT
        told, shown = [(numbers - mean) / std], [start.first[:, :, None].expand(-1, -1, slots, -1, -1)]
        if self.tool_chain:
            path = tool_path(self.tool_chain, numbers)
            middle, spread = (path.new_tensor(each) for each in (self.tool_mean, self.tool_std))
            told.append((path - middle) / spread)
            if self.tool_cameras:
                shown.append(stack_frames(self.action_frames(path, (start.past.shape[-2], start.past.shape[-1]))))
        return ChunkInputs(
            **given_and_history(start.past),
            actions=torch.cat(told, dim=-1),
            action_frames=torch.cat(shown, dim=1),
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
        own, latent = self.config.numbers, self.autoencoder.config["latent_channels"]
        due = latent + self.config.drawn_channels
        problems = {
            f"the transformer reads {numbers} numbers a frame, which must be {own} of the action": numbers != own,
            f"the transformer reads {channels} channels beside a slot, which must be {due}: {latent} of the initial "
            "frame, and those of action frames": channels != due,
        }
        super()._require_fit({**problems, **more})
