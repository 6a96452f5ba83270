"""The full Prophet: Wan latents, sixty past frames, thirty-five steps from noise (reference.md section 1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym._checks import require_none
from prophet_gym._io.configs import beyond_bounds
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._embodiment import Embodiment
from prophet_gym.embodiments._kinematics import ARM_DIM
from prophet_gym.errors import CheckpointError, InvalidStartError
from prophet_gym.prophet._action_frames import action_video, plan, start_cameras, start_tools
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION, WanAutoencoder
from prophet_gym.prophet._base import Prophet
from prophet_gym.prophet._flow import karras_sigmas, sample_ab2, sample_euler
from prophet_gym.prophet._transformer import (
    Conditions,
    HistoryOrder,
    ProphetTransformer3DModel,
    beyond_table,
    predict_clean,
)
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State


@dataclass(frozen=True)
class FullConfig:
    """Hold what a checkpoint of the full Prophet fixes beside its networks; by default the released LIBERO model's."""

    chunk: int = 20  # actions, a multiple of 4
    frame_size: tuple[int, int] = (256, 256)  # height and width, multiples of 16
    action_dim: int = 7
    history_frames: int = 60  # the current one excluded
    steps: int = 35  # of the sampler
    # Adams-Bashforth steps and a last call of the network, or the Euler steps that a distilled model takes.
    solver: Literal["ab2", "euler"] = "ab2"
    embodiment: str = "libero"
    # Then every initial state must say where the tools are, and what camera looks on where that is not fixed. Off for
    # the released weights: how their images were drawn is not published.
    draw_tools: bool = False
    # Of the simulator that the training data are of.
    suite: str = "libero_object"
    look: str = "official"

    def __post_init__(self) -> None:
        chunk, steps, past, dim = self.chunk, self.steps, self.history_frames, self.robot.action_spec.dim
        require_none(
            {
                f"chunk={chunk} must be a multiple of {FRAMES_PER_LATENT}": chunk < 1 or chunk % FRAMES_PER_LATENT > 0,
                f"steps={steps} must be at least 1 and history_frames={past} at least 0": steps < 1 or past < 0,
                f"solver={self.solver!r} must be ab2 or euler": self.solver not in ("ab2", "euler"),
                f"action_dim={self.action_dim} must be the {dim} dimensions of an action of {self.robot.name}": (
                    self.action_dim != dim
                ),
                **beyond_bounds(self.frame_size, (chunk, steps, past)),
            }
        )

    @property
    def robot(self) -> Embodiment:
        """Return the embodiment whose actions it takes."""
        return get_embodiment(self.embodiment)


class FullProphet(Prophet):
    """Dream as the paper's model does; the state is the past frames, which the VAE encodes for each chunk.

    Raises:
        TypeError: A network is of another class.
        CheckpointError: The networks and the config do not fit together.

    Differences from the paper: action frames need the poses of the tools and a calibrated camera, so they are left out
    unless the config sets `draw_tools`; `action_frames.draw_tools` draws them.

    Example:
        >>> from prophet_gym.prophet import tiny_full_prophet
        >>> prophet = tiny_full_prophet()
        >>> state = prophet.encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
        >>> prophet.rollout(state, torch.zeros(1, 4, 7), generators=[torch.Generator()]).frames.shape
        torch.Size([1, 4, 32, 32, 3])
    """

    config_class = FullConfig
    networks: ClassVar = {"transformer": ProphetTransformer3DModel, "autoencoder": WanAutoencoder}
    offloaded = ("autoencoder",)

    config: FullConfig
    transformer: ProphetTransformer3DModel
    autoencoder: WanAutoencoder

    def __init__(self, transformer: ProphetTransformer3DModel, autoencoder: WanAutoencoder, config: FullConfig) -> None:
        super().__init__(config, transformer=transformer, autoencoder=autoencoder)
        require_fit(config, transformer.config, normalised=autoencoder.normalisation_fits())

    @torch.no_grad()
    def encode_initial_states(self, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]) -> State:
        """Begin a dream like `encode`, from the frames and, if needed, the tool poses of initial states.

        Raises:
            ValueError: As in `encode`, or the number of initial states is not the batch size.
            InvalidStartError: An initial state lacks the poses of the tools or the camera, which action frames need.
        """
        if len(starts) != len(frames):
            raise ValueError(f"there must be one start for each of {len(frames)} batch elements, got {len(starts)}")
        return self._begin(self._checked_frames(frames), starts)

    @torch.no_grad()
    def resume(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        past_actions: Float[Tensor, "b k a"],  # noqa: ARG002 the frames show where they led
    ) -> State:
        """Begin a dream in the middle of an episode; InvalidStartError if the model needs the poses of the tools."""
        if self.config.robot.posed or self.config.draw_tools:
            raise InvalidStartError(
                f"a dream of {self.config.embodiment} cannot begin in the middle of an episode: this checkpoint must "
                "know where the tools are; begin with encode_initial_states"
            )
        return self._begin(self._checked_frames(frames))

    def _begin(self, frames: UInt8[Tensor, "b t h w 3"], initial_states: Sequence[InitialState] | None = None) -> State:
        state = {"frames": last_frames(frames, self.config.history_frames + 1)}
        robot, drawn = self.config.robot, self.config.draw_tools
        if robot.posed or drawn:
            known = initial_states or [None] * len(frames)
            state["tools"] = start_tools(robot, known, drawn=drawn).to(frames.device)
        if drawn and initial_states:  # without any, start_tools has refused already
            state["camera"] = start_cameras(robot, initial_states).to(frames.device)
        return state

    def _dream(self, state: State, actions: Float[Tensor, "b k a"], generators: Sequence[torch.Generator]) -> Chunk:
        """Encode the past and the actions, sample the chunk's latents, decode them after the given frame."""
        past, device = state["frames"], self.transformer.device
        planned = plan(self.config.robot, actions, state.get("tools"), self.transformer.config["action_dim"])
        drawn = None
        if "camera" in state and planned.tools is not None:
            drawn = action_video(planned.tools, state["camera"], self.config.frame_size)
        order = self.transformer.config["history_order"]
        with onloaded(self.autoencoder, device):
            conditions = encode_conditions(self.autoencoder, past, planned.actions.to(device), order, drawn)
        shape = (*conditions.given.shape[1:2], self.config.chunk // FRAMES_PER_LATENT, *conditions.given.shape[3:])
        # Drawn on the CPU, one generator an element: the same noise on every device and in every batch.
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(conditions.given)
        levels = (euler_levels if self.config.solver == "euler" else karras_sigmas)(self.config.steps)
        latents = sample_chunk(self.transformer, conditions, noise, levels, run=self._network)
        with onloaded(self.autoencoder, device):
            frames = decode_chunk(self.autoencoder, conditions.given, latents)
        following = {name: value.clone() for name, value in state.items()}
        following["frames"] = appended(past, frames)
        if planned.tools is not None:
            following["tools"] = planned.tools[:, -1].clone()
        return Chunk(state=following, frames=frames)

    def cut(self, state: State, chunk: Chunk, steps: int) -> State:
        """Return the state after the first `steps` frames of a chunk that was dreamt from `state`.

        The actions of the frames cut off must be no-ops: the poses of the tools are those at the end of the chunk.
        """
        return {**chunk.state, "frames": appended(state["frames"], chunk.frames[:, :steps])}

    @torch.no_grad()
    def reconstruct(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return recorded frames, encoded and decoded by the VAE: an upper bound on dreams."""
        frames = self._checked_frames(frames)
        # The VAE takes 1 + 4n frames: the last one is repeated until there are so many.
        padded = torch.cat([frames, frames[:, -1:].repeat(1, -(frames.shape[1] - 1) % FRAMES_PER_LATENT, 1, 1, 1)], 1)
        with onloaded(self.autoencoder, frames.device):
            return self.autoencoder.decode(self.autoencoder.encode(padded))[:, : frames.shape[1]]


def require_fit(config: FullConfig, transformer: Mapping[str, Any], *, normalised: bool = True) -> None:
    """Raise CheckpointError unless a transformer of this config is for this chunk, frame size, robot and conditions."""
    slots = 1 + config.chunk // FRAMES_PER_LATENT
    latents = (slots, *(side // SPATIAL_COMPRESSION for side in config.frame_size))
    dim, arms = transformer["action_dim"], config.robot.arms
    problems = {
        **beyond_table(latents, transformer["max_size"]),
        "the VAE's config must have latents_mean and latents_std for every channel": not normalised,
        f"chunk={config.chunk}, but the transformer reads {transformer['actions_per_slot']} actions": (
            transformer["actions_per_slot"] != config.chunk
        ),
        f"{config.embodiment} has {arms} arm(s) of {ARM_DIM} numbers, but the transformer reads {dim}": (
            dim < ARM_DIM * arms
        ),
        "draw_tools is set, but the transformer has no action-frame conditioner": (
            config.draw_tools and transformer["action_frames"] != "pooled"
        ),
    }
    require_none(problems, CheckpointError, "prophet.json and the weights do not fit: ")


@contextmanager
def onloaded(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to `device` and back to where it rests; do nothing if it rests there."""
    rest = next(module.parameters()).device
    if rest == device:
        yield
        return
    try:
        module.to(device)
        yield
    finally:
        module.to(rest)


def last_frames(frames: UInt8[Tensor, "b t h w 3"], count: int) -> UInt8[Tensor, "b n h w 3"]:
    """Return the last `count` frames, the first one repeated before it where there are fewer."""
    missing = max(0, count - frames.shape[1])
    return torch.cat([frames[:, :1].expand(-1, missing, -1, -1, -1), frames[:, -count:]], dim=1).contiguous()


def appended(past: UInt8[Tensor, "b n h w 3"], frames: UInt8[Tensor, "b k h w 3"]) -> UInt8[Tensor, "b n h w 3"]:
    """Append the frames of a chunk and drop as many of the oldest."""
    return torch.cat([past, frames.to(past)], dim=1)[:, -past.shape[1] :].clone()


def history_video(past: UInt8[Tensor, "b n h w 3"], order: HistoryOrder) -> UInt8[Tensor, "b m h w 3"]:
    """Return the 1 + 4n of the past frames that the VAE can encode.

    The released weights (`oldest_finest`) were trained with the remainder lost at the newest end; ours lose the oldest.
    """
    # The VAE would drop the remainder itself, at the newest end, without a word.
    kept = 1 + (past.shape[1] - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT
    return past[:, :kept] if order == "oldest_finest" else past[:, -kept:]


def encode_history(
    autoencoder: WanAutoencoder, past: UInt8[Tensor, "b n h w 3"], order: HistoryOrder | None
) -> Float[Tensor, "b c s y x"] | None:
    """Return the latents of the past before the given frame; None where there is none or no memory reads it."""
    return autoencoder.encode(history_video(past, order)) if order is not None and past.shape[1] else None


def encode_conditions(
    autoencoder: WanAutoencoder,
    past: UInt8[Tensor, "b n h w 3"],
    actions: Float[Tensor, "b k d"],
    order: HistoryOrder | None,
    action_video: UInt8[Tensor, "b f h w 3"] | None = None,
) -> Conditions:
    """Encode what a chunk is conditioned on; the last of the past is the given frame."""
    return Conditions(
        given=autoencoder.encode(past[:, -1:]),
        history=encode_history(autoencoder, past[:, :-1], order),
        actions=actions,
        action_frames=None if action_video is None else autoencoder.encode(action_video),
    )


def decode_chunk(
    autoencoder: WanAutoencoder, given: Float[Tensor, "b c 1 y x"], latents: Float[Tensor, "b c t y x"]
) -> UInt8[Tensor, "b k h w 3"]:
    """Return the frames of a chunk's generated slots, which the VAE decodes after the given one."""
    # The VAE is causal: without the given slot the first generated one would be decoded as a single frame.
    return autoencoder.decode(torch.cat([given, latents], dim=2))[:, 1:].contiguous()


def sample_chunk(
    transformer: ProphetTransformer3DModel,
    conditions: Conditions,
    noise: Float[Tensor, "b c t h w"],
    sigmas: Float[Tensor, " levels"],
    *,
    run: Callable[..., Tensor] | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Sample the latents of a chunk's generated slots: Adams-Bashforth steps, then one clean prediction.

    Levels that end at 0, those of `euler_levels`, are taken in Euler steps instead, one call each.

    The given slot is replaced by the clean latent, labelled sigma_cond, in every call (reference.md: "One call"). The
    network runs in its own dtype, by `run` if that is given, the sampler in that of `noise`.
    """
    dtype = next(transformer.parameters()).dtype
    read = {name: getattr(conditions, name) for name in ("given", "history", "actions", "action_frames")}
    inputs = replace(conditions, **{name: value.to(dtype) for name, value in read.items() if value is not None})
    predict_x0 = partial(predict_clean, run or transformer, remembered(transformer, inputs))
    start, last = float(sigmas[0]) * noise, float(sigmas[-1])
    if last == 0.0:
        return sample_euler(predict_x0, start, sigmas)
    return predict_x0(sample_ab2(predict_x0, start, sigmas), last)


def remembered(transformer: ProphetTransformer3DModel, inputs: Conditions) -> Conditions:
    """Return the same with the keys and values that each block makes of the past, for several calls on one chunk."""
    if inputs.history is None:
        return inputs
    return replace(inputs, history=None, memory=transformer.remember(inputs.history))


def euler_levels(steps: int) -> Float[Tensor, " levels"]:
    """Return Karras' noise levels with 0 in place of the last: Euler steps along them end at a clean prediction."""
    return torch.cat([karras_sigmas(steps)[:-1], torch.zeros(1)])
