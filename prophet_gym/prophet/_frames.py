"""What the small Prophets share: latents of single frames, and a flow that starts at the last frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym._checks import require_none
from prophet_gym._io.configs import beyond_bounds
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet._autoencoder import (
    FRAMES_PER_LATENT,
    SPATIAL_COMPRESSION,
    FrameAutoencoder,
    keep_background,
    statistics_fit,
    unstack_frames,
)
from prophet_gym.prophet._base import Prophet
from prophet_gym.prophet._flow import flow_levels, sample_euler
from prophet_gym.prophet._gripper import ChunkInputs, flow_source
from prophet_gym.prophet._transformer import beyond_table, predict_clean
from prophet_gym.world_model import Chunk, State

# The largest number that a config may hold: a dream of larger ones soon overflows.
_LARGEST_NUMBER = 1e4


@dataclass(frozen=True)
class FrameConfig:
    """Hold what a checkpoint of any Prophet that dreams in latents of single frames fixes beside its networks."""

    chunk: int = 8  # actions, a multiple of 4
    frame_size: tuple[int, int] = (128, 128)  # height and width, multiples of 8
    action_dim: int = 7
    past_frames: int = 20  # those of the given slot included; a multiple of 4
    steps: int = 1  # network calls per chunk
    noise_scale: float = 0.1  # see `flow_source`
    background: tuple[float, float, int] = (12.0, 3.0, 5)  # of `keep_background`
    stillness: tuple[float, float] | None = (0.3, 0.05)  # of `keep_still`; None leaves all latents as sampled
    # Of the simulator, or the data set, that the training data are of.
    suite: str = "libero_object"
    look: str = "light"
    embodiment: str = "libero"

    def __post_init__(self) -> None:
        gates = [self.background[:2], *([] if self.stillness is None else [self.stillness])]
        numbers = [*self.background, *(self.stillness or ()), self.noise_scale]
        require_none(
            {
                f"chunk={self.chunk} must be a multiple of {FRAMES_PER_LATENT} and steps={self.steps} at least 1": (
                    self.chunk < 1 or self.chunk % FRAMES_PER_LATENT > 0 or self.steps < 1
                ),
                f"past_frames={self.past_frames} must be a multiple of {FRAMES_PER_LATENT}": (
                    self.past_frames < FRAMES_PER_LATENT or self.past_frames % FRAMES_PER_LATENT > 0
                ),
                **beyond_bounds(self.frame_size, (self.chunk, self.steps, self.past_frames)),
                f"noise_scale={self.noise_scale} must be at least 0": self.noise_scale < 0,
                f"background={self.background} and stillness={self.stillness} must have a threshold of at least 0, a "
                "softness above 0 and a window of at least 1": (
                    any(threshold < 0 or softness <= 0 for threshold, softness in gates) or self.background[2] < 1
                ),
                **beyond_size("background, stillness and noise_scale", numbers),
            }
        )

    def loss_weight(
        self,
        target: Float[Tensor, "b k c h w"],
        initial: Float[Tensor, "b c h w"],
        source: Float[Tensor, "b k c h w"],
        known: Bool[Tensor, " b"],
    ) -> Float[Tensor, "b k c h w"] | None:
        """Return how much every number of a chunk's latents counts in training, None for alike.

        `source` is where the flow of each frame starts, `initial` the frame that the dream began at.
        """
        del target, initial, source, known
        return None


class FrameProphet(Prophet):
    """Dream in latents of single frames: what the small Prophets share, whatever they read besides."""

    only_dtype = torch.float32
    views: ClassVar[int] = 1  # cameras whose views lie in one latent

    config: FrameConfig
    autoencoder: FrameAutoencoder

    def __init__(self, config: FrameConfig, **networks: nn.Module) -> None:
        super().__init__(config, **networks)
        self._require_fit({})

    @torch.no_grad()
    def resume(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"]) -> State:
        """Begin a dream in the middle of an episode: like `encode`, with any number of frames and a moving arm.

        Args:
            frames: Recorded frames, oldest first; the model reads as many of the last as it carries.
            past_actions: The chunk of actions that led to the newest of them.
        """
        return self._begin(self._checked_frames(frames), past_actions)

    @torch.no_grad()
    def reconstruct(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return recorded frames as a dream would show them, with the first's background: an upper bound on dreams."""
        frames = self._checked_frames(frames)
        latents = self.autoencoder.encode(frames.flatten(0, 1))
        decoded = self.autoencoder.decode(latents).unflatten(0, frames.shape[:2])
        return self._shown(decoded, frames[:, 0], decoded[:, 0])

    def _begin(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"] | None = None) -> State:
        frames = frames[:, -self.config.past_frames :]
        return self._carried(frames, self._encoded_view(frames), past_actions)

    def _encoded_view(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t c y x"]:
        return self.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).float()

    def _carried(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        latents: Float[Tensor, "b t c y x"],
        past_actions: Float[Tensor, "b k a"] | None,
    ) -> State:
        """Return what a dream carries from its first frames, whose latents may hold more than they show."""
        repeats = self.config.past_frames - latents.shape[1]
        # A dream carries a fixed number of frames, so that states of all ages are one batch.
        past = torch.cat([latents[:, :1].expand(-1, repeats, -1, -1, -1), latents], dim=1)
        before = self._before(len(frames)) if past_actions is None else past_actions
        return {
            "latents": past.contiguous(),
            "commands": before.to(past),
            "reference": frames[:, -1].clone(),
            "reference_decoded": self.autoencoder.decode(self._front(latents[:, -1])),
        }

    def _before(self, rows: int) -> Float[Tensor, "b k a"]:
        """Return the chunk of actions that is taken to have come before a dream."""
        raise NotImplementedError

    def _inputs(self, state: State, actions: Float[Tensor, "b k a"]) -> ChunkInputs:
        """Return the inputs of the chunk that follows a state."""
        raise NotImplementedError

    def _followed(self, inputs: ChunkInputs, latents: Float[Tensor, "b k c y x"]) -> dict[str, Tensor]:
        """Return what else of the state is new after a chunk."""
        raise NotImplementedError

    def _known(self, state: State, latents: Float[Tensor, "b k c y x"]) -> Float[Tensor, "b k c y x"]:
        """Return the latents without views that a dream began without."""
        del state
        return latents

    def _front(self, latents: Float[Tensor, "*b y x"]) -> Float[Tensor, "*b y x"]:
        """Return what the frames show of the latents."""
        return latents

    @property
    def decodable(self) -> int:
        """Return the number of past frames that a state can decode."""
        return self.config.past_frames

    @torch.no_grad()
    def advance(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> State:
        """Return the state after one chunk: `rollout` without the frames and the uncertainty, which cost half of it."""
        self._require_actions(state, actions, generators)
        return self._advance(state, actions, generators)[0]

    @torch.no_grad()
    def decode(self, state: State, ages: Int[Tensor, " b"]) -> UInt8[Tensor, "b h w 3"]:
        """Return one frame of each element, `ages[i]` before its newest, as the dream shows it."""
        decoded = self.autoencoder.decode(self._front(latents_at(state, ages)))[:, None]
        return self._shown(decoded, state["reference"], state["reference_decoded"])[:, 0]

    @torch.no_grad()
    def uncertainty(self, state: State) -> Float[Tensor, " b"]:
        """Return how far the newest latents are from those of the frame that they decode to, see `inconsistency`."""
        newest = self._front(state["latents"][:, -1])
        return inconsistency(newest, self.autoencoder.encode(self.autoencoder.decode(newest)).float())

    def _dream(self, state: State, actions: Float[Tensor, "b k a"], generators: Sequence[torch.Generator]) -> Chunk:
        """Sample the chunk's latents, decode them, keep the background; then look where the gripper went."""
        following, latents = self._advance(state, actions, generators)
        latents = self._front(latents)
        decoded = self.autoencoder.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        return Chunk(
            state=following,
            frames=self._shown(decoded, state["reference"], state["reference_decoded"]),
            uncertainty=inconsistency(latents[:, -1], self.autoencoder.encode(decoded[:, -1]).float()),
        )

    def _advance(
        self, state: State, actions: Float[Tensor, "b k a"], generators: Sequence[torch.Generator]
    ) -> tuple[State, Float[Tensor, "b k c h w"]]:
        """Return the state after a chunk, and the latents of its frames."""
        past = state["latents"]
        actions = actions.to(past)
        inputs = self._inputs(state, actions)
        latents = self._known(state, self._sample(inputs, generators))
        following = {
            **state,
            "latents": torch.cat([past, latents], dim=1)[:, -self.config.past_frames :].clone(),
            "commands": actions.clone(),
            **self._followed(inputs, latents),
        }
        return following, latents

    def _shown(
        self,
        decoded: UInt8[Tensor, "b k h w 3"],
        reference: UInt8[Tensor, "b h w 3"],
        reference_decoded: UInt8[Tensor, "b h w 3"],
    ) -> UInt8[Tensor, "b k h w 3"]:
        return keep_background(decoded, reference, reference_decoded, *self.config.background)

    def _sample(self, inputs: ChunkInputs, generators: Sequence[torch.Generator]) -> Float[Tensor, "b k c h w"]:
        """Sample the chunk's per-frame latents."""
        slots = (inputs.given.shape[1], self.config.chunk // FRAMES_PER_LATENT, *inputs.given.shape[3:])
        noise = torch.stack([torch.randn(slots, generator=g) for g in generators]).to(inputs.given)
        sigmas = flow_levels(self.config.steps)
        # The solver takes x = x0 + sigma * noise, so the flow's source is scaled to its noise level.
        start = float(sigmas[0]) * flow_source(inputs, noise, self.config.noise_scale)
        latents = unstack_frames(sample_euler(partial(predict_clean, self._network, inputs), start, sigmas))
        if self.config.stillness is None:
            return latents
        return keep_still(latents, unstack_frames(inputs.given)[:, -1], *self.config.stillness)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Return rows and columns of a frame's latents."""
        return self._sides[1:]

    @property
    def _sides(self) -> tuple[int, int, int]:
        """Return the slots, rows and columns of a chunk's latents."""
        rows, columns = (side // SPATIAL_COMPRESSION for side in self.config.frame_size)
        return 1 + self.config.chunk // FRAMES_PER_LATENT, self.views * rows, columns

    def _require_fit(self, more: Mapping[str, bool]) -> None:
        """Raise CheckpointError unless networks and config fit together, and nothing `more` is wrong."""
        table, vae = self.transformer.config, self.autoencoder.config
        problems = {
            # Those of latents may both be left out.
            "the autoencoder must have latents_mean and latents_std, finite numbers, one for each of "
            f"{vae['latent_channels']}": (
                (vae["latents_mean"], vae["latents_std"]) != (None, None)
                and not statistics_fit(vae["latents_mean"], vae["latents_std"], vae["latent_channels"])
            ),
            **beyond_table(self._sides, table["max_size"]),
            f"the transformer's rope_scale must be three numbers above 0, got {table['rope_scale']}": (
                not statistics_fit(table["rope_scale"], table["rope_scale"], 3)
            ),
        }
        require_none({**problems, **more}, CheckpointError, "prophet.json and the networks do not fit: ")


def latents_at(state: State, ages: Int[Tensor, " b"]) -> Float[Tensor, "b c y x"]:
    """Return the latents of one frame of each element, `ages[i]` before its newest."""
    latents = state["latents"]
    return latents[torch.arange(len(ages)), latents.shape[1] - 1 - ages.to(latents.device)]


def beyond_size(names: str, numbers: Sequence[float | int]) -> dict[str, bool]:
    """Return the problem of a config's numbers that are too large for a dream."""
    too_large = any(abs(number) > _LARGEST_NUMBER for number in numbers)
    return {f"{names} must be at most {_LARGEST_NUMBER:g} in size": too_large}


def inconsistency(latents: Float[Tensor, "b c h w"], encoded_again: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return how far a dream's last latents are from those of the frame that they decode to: its uncertainty.

    Root mean square over channels and cells, in standard deviations of real latents. Latents of real frames come back
    almost as they were; a dream that has left what the autoencoder knows does not. How well this ranks the true error
    is measured by `benchmarks/uncertainty.py`.

    Differences from the paper: it has no such signal.
    """
    return (encoded_again - latents).square().mean(dim=(1, 2, 3)).sqrt()


def keep_still(
    latents: Float[Tensor, "b k c h w"], last: Float[Tensor, "b c h w"], threshold: float, softness: float
) -> Float[Tensor, "b k c h w"]:
    """Keep the last given latent where the sampled one hardly differs from it.

    What stands still then stays exactly as it was, instead of changing a little with every chunk. Half of the change is
    kept where its root mean square over channels, the maximum over a window of 3 x 3, is `threshold`.

    Differences from the paper: there is no such gate.
    """
    change = latents - last[:, None]
    size = F.max_pool2d(change.square().mean(dim=2).sqrt(), 3, stride=1, padding=1)
    return last[:, None] + torch.sigmoid((size - threshold) / softness)[:, :, None] * change
