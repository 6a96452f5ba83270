"""The small Prophet's recipe: per-frame latents, a tracked gripper, a flow that starts at the last frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT, FrameAutoencoder, keep_background, unstack_frames
from prophet_gym.prophet.conditioning import (
    GRIPPER_FEATURES,
    ChunkInputs,
    chunk_inputs,
    flow_source,
    predict_velocity,
)
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.recipe import Networks, require_bounds, statistics_fit
from prophet_gym.prophet.sampling import sample_euler
from prophet_gym.prophet.transformer import ProphetTransformer3DModel
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State

CELL = 8
"""Pixels of a latent's side."""
GRIPPER_DIM = 4
"""Position and opening."""
LARGEST_NUMBER = 1e4
"""What a config may hold: a dream of larger numbers is soon none."""
AT_SOURCE = 1e5
"""Noise level that stands for flow time 1, the largest that training draws (reference.md: "Training objective")."""


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
        no_op: the command that keeps the arm where it is: what came before the first action.
        background: threshold, softness (grey levels) and window (pixels) of `keep_background`.
        stillness: threshold and softness (normalised latents) of `keep_still`; None leaves all latents as sampled.
        reader_weight: see `GripperTracker.correct`.
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
    no_op: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    background: tuple[float, float, int] = (12.0, 3.0, 5)
    stillness: tuple[float, float] | None = (0.3, 0.05)
    reader_weight: float = 0.1
    suite: str = "libero_object"
    look: str = "light"


class SmallRecipe:
    """How the small Prophet dreams.

    Args:
        config: of the checkpoint.
    """

    name: ClassVar[str] = "small"
    parts: ClassVar[Mapping[str, type]] = {
        "transformer": ProphetTransformer3DModel,
        "autoencoder": FrameAutoencoder,
        "tracker": GripperTracker,
    }

    def __init__(self, config: ProphetConfig) -> None:
        if config.chunk < 1 or config.chunk % FRAMES_PER_LATENT or config.steps < 1:
            raise ValueError(
                f"chunk={config.chunk} must be a multiple of {FRAMES_PER_LATENT} and steps={config.steps} at least 1"
            )
        if config.past_frames < FRAMES_PER_LATENT or config.past_frames % FRAMES_PER_LATENT:
            raise ValueError(f"past_frames={config.past_frames} must be a multiple of {FRAMES_PER_LATENT}")
        require_bounds(config.frame_size, (config.chunk, config.steps, config.past_frames))
        if config.noise_scale < 0 or not 0 <= config.reader_weight <= 1:
            raise ValueError(
                f"noise_scale={config.noise_scale} must be at least 0 and reader_trust={config.reader_weight} in 0..1"
            )
        gates = [config.background[:2], *([] if config.stillness is None else [config.stillness])]
        if any(threshold < 0 or softness <= 0 for threshold, softness in gates) or config.background[2] < 1:
            raise ValueError(
                f"background={config.background} and stillness={config.stillness} must have a threshold of at least 0, "
                "a softness above 0 and a window of at least 1"
            )
        if [len(row) for row in config.camera] != [4, 4, 4]:
            raise ValueError(f"camera must be three rows of four numbers, got rows of {[*map(len, config.camera)]}")
        numbers = [*config.no_op, *sum(config.camera, ()), *config.background, *(config.stillness or ())]
        if any(abs(number) > LARGEST_NUMBER for number in [*numbers, config.noise_scale]):
            raise ValueError(
                f"no_op, camera, background, stillness and noise_scale must be at most {LARGEST_NUMBER:g} in size"
            )
        if len(config.no_op) != config.action_dim:
            raise ValueError(f"no_op must have action_dim={config.action_dim} numbers, got {len(config.no_op)}")
        self.config = config

    def check(self, networks: Networks) -> None:
        """Raise CheckpointError unless the transformer reads commands of the config's size, frame by frame."""
        own = networks["transformer"].config["action_dim"]
        if own != self.config.action_dim + GRIPPER_FEATURES:
            raise CheckpointError(
                f"the transformer reads {own} numbers a frame, which must be {self.config.action_dim} of the command "
                f"and {GRIPPER_FEATURES} of the gripper: prophet.json and the weights are of two checkpoints"
            )
        problems = [
            f"the {name} must have {kind}_mean and {kind}_std, finite numbers, one for each of {count}"
            for name, kind, count in _scales(networks)
            if not _normalised(networks[name].config, kind, count)
        ]
        sides = (1 + self.config.chunk // FRAMES_PER_LATENT, *(side // CELL for side in self.config.frame_size))
        table = networks["transformer"].config
        if any(side > most for side, most in zip(sides, table["max_size"], strict=True)):
            problems.append(f"a chunk has latents of {sides}, but the transformer's table ends at {table['max_size']}")
        if not statistics_fit(table["rope_scale"], table["rope_scale"], 3):
            problems.append(f"the transformer's rope_scale must be three numbers above 0, got {table['rope_scale']}")
        if "tracker" in networks:
            tracker = networks["tracker"].config
            has = {
                "chunk": tracker["chunk"],
                "action_dim": tracker["action_dim"],
                "latent_size": [*tracker["latent_size"]],
            }
            due = {"chunk": self.config.chunk, "action_dim": self.config.action_dim, "latent_size": [*sides[1:]]}
            problems += [
                f"the tracker's {name} is {has[name]}, not {due[name]}" for name in due if has[name] != due[name]
            ]
        if problems:
            raise CheckpointError(f"prophet.json and the networks do not fit: {'; '.join(problems)}")

    def begin(
        self,
        networks: Networks,
        frames: UInt8[Tensor, "b t h w 3"],
        past_actions: Float[Tensor, "b k a"] | None,
        starts: Sequence[InitialState] | None = None,  # noqa: ARG002 (frames say all that it reads)
    ) -> State:
        """Encode each frame; before the first one it is repeated, before the first action the arm was held."""
        frames = frames[:, -self.config.past_frames :]
        latents = networks["autoencoder"].encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float()
        repeats = self.config.past_frames - frames.shape[1]
        past = torch.cat([latents[:, :1].expand(-1, repeats, -1, -1, -1), latents], dim=1)
        no_op = torch.tensor(self.config.no_op, device=frames.device).expand(frames.shape[0], self.config.chunk, -1)
        return {
            "latents": past.contiguous(),
            "gripper": networks["tracker"].read_frames(past[:, -FRAMES_PER_LATENT:]),
            "commands": no_op.clone() if past_actions is None else past_actions.to(no_op),
            "reference": frames[:, -1].clone(),
            "reference_decoded": networks["autoencoder"].decode(latents[:, -1]),
        }

    def dream(
        self,
        networks: Networks,
        state: State,
        actions: Float[Tensor, "b k a"],
        generators: Sequence[torch.Generator],
    ) -> Chunk:
        """Sample the chunk's latents, decode them, keep the background; then look where the gripper went."""
        past, tracker = state["latents"], networks["tracker"]
        actions = actions.to(past)
        camera = torch.tensor(self.config.camera, device=past.device)
        inputs = chunk_inputs(tracker, past, state["gripper"], state["commands"], actions, camera)
        latents = self._sample(networks["transformer"], inputs, generators)
        decoded = networks["autoencoder"].decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        frames = self.show(decoded, state["reference"], state["reference_decoded"])
        following = {
            **state,
            "latents": torch.cat([past, latents], dim=1)[:, -self.config.past_frames :].clone(),
            "gripper": tracker.correct(
                inputs.path[:, -FRAMES_PER_LATENT:], latents[:, -FRAMES_PER_LATENT:], self.config.reader_weight
            ),
            "commands": actions.clone(),
        }
        uncertainty = inconsistency(latents[:, -1], networks["autoencoder"].encode(decoded[:, -1]).float())
        return Chunk(state=following, frames=frames, uncertainty=uncertainty)

    def show(
        self,
        decoded: UInt8[Tensor, "b k h w 3"],
        reference: UInt8[Tensor, "b h w 3"],
        reference_decoded: UInt8[Tensor, "b h w 3"],
    ) -> UInt8[Tensor, "b k h w 3"]:
        """Decoded frames with the start frame's background, see `keep_background`."""
        threshold, softness, window = self.config.background
        return keep_background(
            decoded, reference, reference_decoded, threshold=threshold, softness=softness, window=window
        )

    def reconstruct(self, networks: Networks, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return real frames through the autoencoder, the background kept from the first."""
        latents = networks["autoencoder"].encode(frames.flatten(0, 1))
        decoded = networks["autoencoder"].decode(latents).unflatten(0, frames.shape[:2])
        return self.show(decoded, frames[:, 0], decoded[:, 0])

    def _sample(
        self, transformer: ProphetTransformer3DModel, inputs: ChunkInputs, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b k c h w"]:
        """Sample the chunk's per-frame latents."""
        slots = (inputs.given.shape[1], self.config.chunk // FRAMES_PER_LATENT, *inputs.given.shape[3:])
        noise = torch.stack([torch.randn(slots, generator=g) for g in generators]).to(inputs.given)
        times = torch.linspace(1, 0, self.config.steps + 1)[1:-1]
        sigmas = torch.cat([torch.tensor([AT_SOURCE]), times / (1 - times), torch.zeros(1)])

        def predict_clean(x: Tensor, sigma: float) -> Tensor:
            tau = sigma / (1 + sigma)
            noisy = (1 - tau) * x
            time = torch.full((len(generators),), tau, device=x.device)
            return noisy - tau * predict_velocity(transformer, inputs, noisy, time)

        start = AT_SOURCE * flow_source(inputs, noise, self.config.noise_scale)
        latents = unstack_frames(sample_euler(predict_clean, start, sigmas))
        if self.config.stillness is None:
            return latents
        threshold, softness = self.config.stillness
        last = unstack_frames(inputs.given)[:, -1]
        return keep_still(latents, last, threshold=threshold, softness=softness)


def _scales(networks: Networks) -> list[tuple[str, str, int]]:
    """Networks with a mean and a deviation, what these are of, and of how many numbers."""
    found = [("autoencoder", "latents", networks["autoencoder"].config["latent_channels"])]
    return [("tracker", "gripper", GRIPPER_DIM), *found] if "tracker" in networks else found


def _normalised(config: Any, kind: str, count: int) -> bool:
    """Whether a network's config has a mean and a deviation as it must; those of latents may be left out."""
    mean, std = config[f"{kind}_mean"], config[f"{kind}_std"]
    return (kind == "latents" and mean is None and std is None) or statistics_fit(mean, std, count)


def inconsistency(latents: Float[Tensor, "b c h w"], encoded_again: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The dream's doubt: how far its last frame's latents are from those of the frame that they decode to.

    Root mean square over channels and cells, in standard deviations of real latents. Latents of real frames come back
    almost as they were; a dream that has left what the autoencoder knows does not. How well this ranks the true error
    is measured by `benchmarks/doubt.py`.

    Args:
        latents: dreamt, normalised.
        encoded_again: the same frame decoded and encoded.

    Differences from the paper: it has no such signal.
    """
    return (encoded_again - latents).square().mean(dim=(1, 2, 3)).sqrt()


def keep_still(
    latents: Float[Tensor, "b k c h w"], last: Float[Tensor, "b c h w"], *, threshold: float, softness: float
) -> Float[Tensor, "b k c h w"]:
    """Keep the last given latent where the sampled one hardly differs from it.

    What is meant to stand still then stays exactly as it was, instead of changing a little with every chunk.

    Args:
        latents: sampled, normalised.
        last: the last given one.
        threshold: root mean square of the change over channels, its maximum over a window of 3 x 3, at which half of
            the change is kept.
        softness: of the threshold.

    Differences from the paper: there is no such gate.
    """
    change = latents - last[:, None]
    size = F.max_pool2d(change.square().mean(dim=2).sqrt(), 3, stride=1, padding=1)
    return last[:, None] + torch.sigmoid((size - threshold) / softness)[:, :, None] * change
