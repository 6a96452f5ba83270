"""Prophet: the world model of the figure, put together. Implements `WorldModel`."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT, FrameAutoencoder, keep_background, unstack_frames
from prophet_gym.prophet.conditioning import ChunkInputs, chunk_inputs, flow_source, predict_velocity
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.sampling import sample_euler
from prophet_gym.prophet.transformer import ProphetTransformer3DModel
from prophet_gym.world_model import Chunk, State

CONFIG = "prophet.json"
PARTS = {"transformer": ProphetTransformer3DModel, "autoencoder": FrameAutoencoder, "tracker": GripperTracker}
AT_SOURCE = 1e5
"""Noise level that stands for flow time 1, the largest that training draws (REFERENCE: "Training objective")."""


@dataclass(frozen=True)
class ProphetConfig:
    """What a checkpoint fixes beside its networks.

    Attributes:
        chunk: actions per rollout.
        frame_size: height and width in pixels.
        action_dim: numbers per command.
        past_frames: frames a dream carries, history and given slot.
        steps: network calls per chunk.
        noise_scale: see `flow_source`.
        camera: world to unit image, three rows of four.
        hold: the command that keeps the arm where it is: what came before the first action.
        background: threshold, softness (grey levels) and window (pixels) of `keep_background`.
        reader_trust: see `GripperTracker.correct`.
        suite: the start set the model was trained on.
        look: the look of the simulator in its training data.
    """

    chunk: int = 8
    frame_size: tuple[int, int] = (128, 128)
    action_dim: int = 7
    past_frames: int = 20
    steps: int = 1
    noise_scale: float = 0.1
    camera: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    hold: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    background: tuple[float, float, int] = (12.0, 3.0, 5)
    reader_trust: float = 0.1
    suite: str = "libero_object"
    look: str = "light"


class Prophet(nn.Module):
    """A learned simulator: frames in, then chunks of actions in and frames out.

    Args:
        transformer: predicts the flow of a chunk's latents.
        autoencoder: frames <-> latents.
        tracker: where the gripper is.
        config: the rest.

    Example:
        >>> import torch
        >>> from prophet_gym.prophet.presets import tiny_prophet
        >>> prophet = tiny_prophet()
        >>> state = prophet.encode(torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))
        >>> chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator()])
        >>> chunk.frames.shape
        torch.Size([1, 8, 64, 64, 3])
    """

    camera: Tensor

    def __init__(
        self,
        transformer: ProphetTransformer3DModel,
        autoencoder: FrameAutoencoder,
        tracker: GripperTracker,
        config: ProphetConfig,
    ) -> None:
        super().__init__()
        self.transformer, self.autoencoder, self.tracker = transformer, autoencoder, tracker
        self.config = config
        self.chunk, self.frame_size, self.action_dim = config.chunk, config.frame_size, config.action_dim
        self.register_buffer("camera", torch.tensor(config.camera, dtype=torch.float32), persistent=False)
        self.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Begin a dream from one to four real frames, oldest first; before them the first one is repeated.

        Raises:
            ValueError: frames of another size than the checkpoint's.
        """
        if tuple(frames.shape[2:4]) != self.frame_size:
            raise ValueError(
                f"frames must be {self.frame_size} pixels, got {tuple(frames.shape[2:4])}; resize them first"
            )
        frames = frames[:, -self.config.past_frames :].to(self.camera.device)
        latents = self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float()
        repeats = self.config.past_frames - frames.shape[1]
        past = torch.cat([latents[:, :1].expand(-1, repeats, -1, -1, -1), latents], dim=1)
        hold = torch.tensor(self.config.hold, device=self.camera.device)
        return {
            "latents": past.contiguous(),
            "gripper": self.tracker.read_frames(past[:, -FRAMES_PER_LATENT:]),
            "commands": hold.expand(frames.shape[0], self.chunk, -1).clone(),
            "reference": frames[:, -1].clone(),
            "reference_decoded": self.autoencoder.decode(latents[:, -1]),
        }

    def resume(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"]) -> State:
        """Begin a dream in the middle of an episode: as `encode`, but any number of frames and a moving arm.

        Args:
            frames: real frames, oldest first; more than the model carries are left out.
            past_actions: the chunk of commands that led to the newest of them.
        """
        return {**self.encode(frames), "commands": past_actions.to(self.camera)}

    @torch.no_grad()
    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Dream one chunk.

        Args:
            state: from `encode` or the chunk before.
            actions: commands in [-1, 1].
            generators: one CPU generator per row; row i draws from its own only.

        Raises:
            ValueError: actions of another shape than `b chunk action_dim`, or not one generator per row.
        """
        past = state["latents"]
        rows = past.shape[0]
        if tuple(actions.shape) != (rows, self.chunk, self.action_dim) or len(generators) != rows:
            raise ValueError(
                f"actions must have shape {(rows, self.chunk, self.action_dim)} with one generator a row, "
                f"got {tuple(actions.shape)} and {len(generators)} generators"
            )
        actions = actions.to(past)
        inputs = chunk_inputs(self.tracker, past, state["gripper"], state["commands"], actions, self.camera)
        latents = self._dream(inputs, generators)
        decoded = self.autoencoder.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        threshold, softness, window = self.config.background
        frames = keep_background(
            decoded, state["reference"], state["reference_decoded"],
            threshold=threshold, softness=softness, window=window,
        )  # fmt: skip
        following = {
            **state,
            "latents": torch.cat([past, latents], dim=1)[:, -self.config.past_frames :].clone(),
            "gripper": self.tracker.correct(
                inputs.path[:, -FRAMES_PER_LATENT:], latents[:, -FRAMES_PER_LATENT:], self.config.reader_trust
            ),
            "commands": actions.clone(),
        }
        return Chunk(state=following, frames=frames, doubt=None)

    def _dream(self, inputs: ChunkInputs, generators: Sequence[torch.Generator]) -> Float[Tensor, "b k c h w"]:
        """Sample the chunk's per-frame latents."""
        slots = (inputs.given.shape[1], self.chunk // FRAMES_PER_LATENT, *inputs.given.shape[3:])
        noise = torch.stack([torch.randn(slots, generator=g) for g in generators]).to(inputs.given)
        times = torch.linspace(1, 0, self.config.steps + 1)[1:-1]
        sigmas = torch.cat([torch.tensor([AT_SOURCE]), times / (1 - times), torch.zeros(1)])

        def predict_clean(x: Tensor, sigma: float) -> Tensor:
            tau = sigma / (1 + sigma)
            noisy = (1 - tau) * x
            time = torch.full((len(generators),), tau, device=x.device)
            return noisy - tau * predict_velocity(self.transformer, inputs, noisy, time)

        start = AT_SOURCE * flow_source(inputs, noise, self.config.noise_scale)
        return unstack_frames(sample_euler(predict_clean, start, sigmas))

    @torch.no_grad()
    def read_gripper(self, state: State) -> Float[Tensor, "b 3"]:
        """Return the gripper's position (world metres) as tracked at the newest frame."""
        return state["gripper"][:, -1, :3]

    @torch.no_grad()
    def reconstruct(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return real frames through the autoencoder, the background kept from the first: the ceiling of any dream."""
        frames = frames.to(self.camera.device)
        latents = self.autoencoder.encode(frames.flatten(0, 1))
        decoded = self.autoencoder.decode(latents).unflatten(0, frames.shape[:2])
        threshold, softness, window = self.config.background
        return keep_background(
            decoded, frames[:, 0], decoded[:, 0], threshold=threshold, softness=softness, window=window
        )

    def save_pretrained(self, folder: str | os.PathLike, *, half: bool = True) -> None:
        """Write the checkpoint: `prophet.json` and one diffusers folder per network; whole or not at all.

        Args:
            folder: target; parts of an earlier checkpoint there are replaced, other files kept.
            half: store weights as float16 (they are computed in float32 on a CPU).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as draft:
            for name in PARTS:
                save_part(getattr(self, name), Path(draft) / name, half=half)
            (Path(draft) / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            for name in PARTS:
                shutil.rmtree(folder / name, ignore_errors=True)
                (Path(draft) / name).replace(folder / name)
            (Path(draft) / CONFIG).replace(folder / CONFIG)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Prophet":
        """Load what `save_pretrained` wrote.

        Args:
            folder: local folder.
            device: where the networks go.
            dtype: of the computation.

        Raises:
            CheckpointError: the folder or a file of it is missing, truncated or of another architecture.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"no Prophet checkpoint at {folder}: {CONFIG} not found; give a folder that save_pretrained wrote, "
                'or weights="bundled"'
            )
        try:
            config = ProphetConfig(**{k: _frozen(v) for k, v in json.loads((folder / CONFIG).read_text()).items()})
        except (TypeError, json.JSONDecodeError) as error:
            known = ", ".join(f.name for f in fields(ProphetConfig))
            raise CheckpointError(f"{folder / CONFIG} must be JSON with the keys {known}: {error}") from error
        parts: dict[str, Any] = {name: _load_part(folder, name, dtype) for name in PARTS}
        return cls(**parts, config=config).to(device)


def save_part(part: ModelMixin, folder: Path, *, half: bool) -> None:
    """Write one network as diffusers does: `config.json` and `diffusion_pytorch_model.safetensors`."""
    part.save_config(folder)
    state = {k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in part.state_dict().items()}
    save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def _load_part(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
    kind = PARTS[name]
    try:
        part = kind.from_config(kind.load_config(folder / name, local_files_only=True))
        part.load_state_dict(load_file(folder / name / SAFETENSORS_WEIGHTS_NAME), strict=True)
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load {folder / name}: {error}; fetch or save the checkpoint again") from error
    return part if dtype == torch.float32 else part.to(dtype)


def _frozen(value: Any) -> Any:
    """Lists to tuples, as the frozen config holds them."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
