"""The small Prophet: a gripper that is tracked, and action frames that are drawn where it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_none
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, FrameAutoencoder, statistics_fit
from prophet_gym.prophet._frames import FrameConfig, FrameProphet, beyond_size
from prophet_gym.prophet._gripper import GRIPPER_DIM, ChunkInputs, ChunkStart, GripperTracker, chunk_inputs
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.world_model import State


@dataclass(frozen=True)
class SmallConfig(FrameConfig):
    """Hold what a checkpoint of the small Prophet fixes beside its networks."""

    # World to unit image.
    camera: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    # The action that keeps the arm where it is, taken to have come before the first one.
    no_op: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    reader_weight: float = 0.1  # of `GripperTracker.correct`

    def __post_init__(self) -> None:
        super().__post_init__()
        require_none(
            {
                f"reader_weight={self.reader_weight} must be in 0..1": not 0 <= self.reader_weight <= 1,
                f"camera must be three rows of four numbers, got rows of {[*map(len, self.camera)]}": (
                    [*map(len, self.camera)] != [4, 4, 4]
                ),
                **beyond_size("no_op and camera", [*self.no_op, *sum(self.camera, ())]),
                f"no_op must have action_dim={self.action_dim} numbers, got {len(self.no_op)}": (
                    len(self.no_op) != self.action_dim
                ),
            }
        )

    def inputs(self, tracker: GripperTracker, start: ChunkStart) -> ChunkInputs:
        """Return the inputs of one chunk, see `chunk_inputs`; only models of two cameras read the first frame."""
        return chunk_inputs(tracker, start, torch.tensor(self.camera))


class SmallProphet(FrameProphet):
    """Dream fast enough for a CPU, with one latent per frame and a tracked gripper.

    Args:
        transformer: Predicts the flow of a chunk's latents.
        autoencoder: Encodes frames as latents and decodes them.
        tracker: Estimates where the gripper is, and where actions move it.
        config: All other settings.

    Raises:
        TypeError: A network is of another class.
        CheckpointError: The networks and the config do not fit together.

    Example:
        >>> import torch
        >>> from prophet_gym.prophet import tiny_prophet
        >>> prophet = tiny_prophet()
        >>> state = prophet.encode(torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))
        >>> chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator()])
        >>> chunk.frames.shape
        torch.Size([1, 8, 64, 64, 3])
    """

    config_class = SmallConfig
    gripper_dim: ClassVar[int] = GRIPPER_DIM  # numbers that the tracker tells of the gripper
    networks: ClassVar = {
        "transformer": ProphetTransformer3DModel,
        "autoencoder": FrameAutoencoder,
        "tracker": GripperTracker,
    }

    config: SmallConfig
    tracker: GripperTracker

    def __init__(
        self,
        transformer: ProphetTransformer3DModel,
        autoencoder: FrameAutoencoder,
        tracker: GripperTracker,
        config: SmallConfig,
    ) -> None:
        super().__init__(config, transformer=transformer, autoencoder=autoencoder, tracker=tracker)

    def read_gripper(self, state: State) -> Float[Tensor, "b 3"]:
        """Return the tracked position of the gripper at a state's newest frame, in metres of the world frame."""
        return state["gripper"][:, -1, :3]

    @torch.no_grad()
    def see_gripper(self, frames: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3"]:
        """Return the gripper's position (metres, world frame) as estimated from each frame alone, dreamt or recorded.

        Raises:
            ValueError: The frames have another size than the checkpoint's.
        """
        return self.tracker.read(self._encoded_view(self._checked_frames(frames[:, None]))[:, 0])[:, :3]

    def _carried(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        latents: Float[Tensor, "b t c y x"],
        past_actions: Float[Tensor, "b k a"] | None,
    ) -> State:
        carried = super()._carried(frames, latents, past_actions)
        return {**carried, "gripper": self.tracker.read_frames(carried["latents"][:, -FRAMES_PER_LATENT:])}

    def _before(self, rows: int) -> Float[Tensor, "b k a"]:
        return torch.tensor(self.config.no_op).repeat(rows, self.config.chunk, 1)

    def _inputs(self, state: State, actions: Float[Tensor, "b k a"]) -> ChunkInputs:
        past, gripper = state["latents"], state["gripper"]
        first = state.get("initial", past[:, 0]), state.get("initial_gripper", gripper[:, 0])
        return self.config.inputs(self.tracker, ChunkStart(past, gripper, state["commands"], actions, *first))

    def _followed(self, inputs: ChunkInputs, latents: Float[Tensor, "b k c y x"]) -> dict[str, Tensor]:
        newest = slice(-FRAMES_PER_LATENT, None)
        weight = self.config.reader_weight
        return {"gripper": self.tracker.correct(inputs.path[:, newest], latents[:, newest], weight)}

    def _require_fit(self, more: Mapping[str, bool]) -> None:
        own, numbers, tracker = self.config, self.transformer.config["action_dim"], self.tracker.config
        due, grip, cells = {"chunk": own.chunk, "action_dim": own.action_dim}, self.gripper_dim, self._sides[1:]
        problems = {
            f"the transformer reads {numbers} numbers a frame, which must be {own.action_dim} of the action and {grip} "
            "of the gripper": numbers != own.action_dim + grip,
            f"the tracker must have gripper_mean and gripper_std, finite numbers, one for each of {grip}": (
                not statistics_fit(tracker["gripper_mean"], tracker["gripper_std"], grip)
            ),
            f"the tracker's latent_size is {tracker['latent_size']}, not {cells}": (*tracker["latent_size"],) != cells,
            **{f"the tracker's {name} is {tracker[name]}, not {due[name]}": tracker[name] != due[name] for name in due},
        }
        super()._require_fit({**problems, **more})
