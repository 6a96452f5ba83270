"""The full Prophet's recipe: Wan latents, sixty past frames, thirty-five steps from noise (reference.md section 1)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments.kinematics import ARM_DIM
from prophet_gym.errors import CheckpointError, InvalidStartError
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT
from prophet_gym.prophet.conditioning import Conditions, predict_velocity
from prophet_gym.prophet.history import HistoryOrder
from prophet_gym.prophet.recipe import Networks, require_bounds
from prophet_gym.prophet.sampling import sample_ab2
from prophet_gym.prophet.schedule import karras_sigmas
from prophet_gym.prophet.tools import action_video, plan, start_cameras, start_tools
from prophet_gym.prophet.transformer import ProphetTransformer3DModel
from prophet_gym.prophet.wan import SPATIAL_COMPRESSION, WanAutoencoder
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State


@dataclass(frozen=True)
class FullConfig:
    """What a checkpoint of the full Prophet fixes beside its networks. The defaults are the released LIBERO model's.

    Attributes:
        chunk: actions per rollout, a multiple of 4.
        frame_size: height and width in pixels, multiples of 16.
        action_dim: numbers per command.
        history_frames: past frames that are remembered, the current one excluded.
        steps: sampler steps per chunk; the network is called once more.
        embodiment: the robot whose commands it takes (`prophet_gym.embodiments`).
        draw_tools: whether the action-frame conditioner gets pictures of the tools, drawn where the commands lead. Then
            every start must say where the tools are, and what camera looks on where that is not fixed. Off for the
            released weights: how their pictures were drawn is not published. `prophet pretrain --draw-tools` trains
            with ours.
        suite: the start set the model was trained on.
        look: the look of the simulator in its training data.
    """

    chunk: int = 20
    frame_size: tuple[int, int] = (256, 256)
    action_dim: int = 7
    history_frames: int = 60
    steps: int = 35
    embodiment: str = "libero"
    draw_tools: bool = False
    suite: str = "libero_object"
    look: str = "official"


class FullRecipe:
    """How the full Prophet dreams. Its state is the past frames, which the VAE encodes anew for each chunk.

    Args:
        config: of the checkpoint.

    Differences from the paper: action frames need the tools' poses and a calibrated camera, so they are left out unless
    the config says `draw_tools`; our pictures are those of `action_frames.draw_tools`.
    """

    name: ClassVar[str] = "full"
    parts: ClassVar[Mapping[str, type]] = {"transformer": ProphetTransformer3DModel, "autoencoder": WanAutoencoder}

    def __init__(self, config: FullConfig) -> None:
        if config.chunk < 1 or config.chunk % FRAMES_PER_LATENT:
            raise ValueError(f"chunk={config.chunk} must be a multiple of {FRAMES_PER_LATENT}")
        if config.steps < 1 or config.history_frames < 0:
            raise ValueError(
                f"steps={config.steps} must be at least 1 and history_frames={config.history_frames} at least 0"
            )
        require_bounds(config.frame_size, (config.chunk, config.steps, config.history_frames))
        self.robot = get_embodiment(config.embodiment)
        if config.action_dim != self.robot.action_spec.dim:
            raise ValueError(
                f"action_dim={config.action_dim} must be the {self.robot.action_spec.dim} numbers of a command of "
                f"{self.robot.name}"
            )
        self.config = config

    def check(self, networks: Networks) -> None:
        """Raise CheckpointError unless the networks are for this chunk, frame size, robot and choice of conditions."""
        own = networks["transformer"].config
        problems = []
        slots = 1 + self.config.chunk // FRAMES_PER_LATENT
        latents = (slots, *(side // SPATIAL_COMPRESSION for side in self.config.frame_size))
        if any(side > most for side, most in zip(latents, own["max_size"], strict=True)):
            problems.append(f"a chunk has latents of {latents}, but the transformer's table ends at {own['max_size']}")
        if "autoencoder" in networks and not networks["autoencoder"].normalisation_fits():
            problems.append("the VAE's config must have latents_mean and latents_std for every channel")
        if own["actions_per_slot"] != self.config.chunk:
            problems.append(f"chunk={self.config.chunk}, but the transformer reads {own['actions_per_slot']} actions")
        if own["action_dim"] < ARM_DIM * self.robot.arms:
            problems.append(
                f"{self.robot.name} has {self.robot.arms} arm(s) of {ARM_DIM} numbers, but the transformer reads "
                f"{own['action_dim']}"
            )
        if self.config.draw_tools and own["action_frames"] != "pooled":
            problems.append("draw_tools is set, but the transformer has no action-frame conditioner")
        if problems:
            raise CheckpointError(f"prophet.json and the weights do not fit: {'; '.join(problems)}")

    def begin(
        self,
        networks: Networks,  # noqa: ARG002
        frames: UInt8[Tensor, "b t h w 3"],
        past_actions: Float[Tensor, "b k a"] | None,
        starts: Sequence[InitialState] | None = None,
    ) -> State:
        """Keep the frames, the first one repeated before it, and the tools' poses where anything depends on them."""
        state = {"frames": last_frames(frames, self.config.history_frames + 1)}
        if self.robot.posed or self.config.draw_tools:
            if past_actions is not None:
                raise InvalidStartError(
                    f"a dream of {self.robot.name} cannot begin in the middle of an episode: this checkpoint must know "
                    "where the tools are; begin with encode_initial_states"
                )
            rows = [None] * len(frames) if starts is None else starts
            state["tools"] = start_tools(self.robot, rows, drawn=self.config.draw_tools).to(frames.device)
        if self.config.draw_tools:
            assert starts is not None
            state["camera"] = start_cameras(self.robot, starts).to(frames.device)
        return state

    def dream(
        self,
        networks: Networks,
        state: State,
        actions: Float[Tensor, "b k a"],
        generators: Sequence[torch.Generator],
    ) -> Chunk:
        """Encode the past and what the commands come to, sample the chunk's latents, decode them after the given."""
        transformer, autoencoder = networks["transformer"], networks["autoencoder"]
        past = state["frames"]
        planned = plan(self.robot, actions, state.get("tools"), transformer.config["action_dim"])
        drawn = None
        if "camera" in state and planned.tools is not None:
            drawn = action_video(planned.tools, state["camera"], self.config.frame_size)
        with onloaded(autoencoder, transformer.device):
            conditions = encode_conditions(
                autoencoder, past, planned.actions.to(transformer.device), transformer.config["history_order"], drawn
            )
        shape = (*conditions.given.shape[1:2], self.config.chunk // FRAMES_PER_LATENT, *conditions.given.shape[3:])
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(conditions.given)
        latents = sample_chunk(transformer, conditions, noise, karras_sigmas(self.config.steps))
        with onloaded(autoencoder, transformer.device):
            frames = decode_chunk(autoencoder, conditions.given, latents)
        following = {name: value.clone() for name, value in state.items()}
        following["frames"] = appended(past, frames)
        if planned.tools is not None:
            following["tools"] = planned.tools[:, -1].clone()
        return Chunk(state=following, frames=frames)

    def cut(self, state: State, chunk: Chunk, steps: int) -> State:
        """See `Prophet.cut`: what is carried is the past frames, and poses that the commands cut off did not change."""
        return {**chunk.state, "frames": appended(state["frames"], chunk.frames[:, :steps])}

    def reconstruct(self, networks: Networks, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return real frames through the VAE; the last one is repeated until there are 1 + 4n."""
        padded = torch.cat([frames, frames[:, -1:].repeat(1, -(frames.shape[1] - 1) % FRAMES_PER_LATENT, 1, 1, 1)], 1)
        with onloaded(networks["autoencoder"], frames.device):
            return networks["autoencoder"].decode(networks["autoencoder"].encode(padded))[:, : frames.shape[1]]


@contextmanager
def onloaded(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to `device` and back to where it rests: nothing happens if it rests there."""
    rest = next(module.parameters()).device
    if rest == device:
        yield
        return
    module.to(device)
    try:
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

    Args:
        past: frames before the current one, oldest first.
        order: which end of the history is finest.
    """
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
    """Encode what a chunk is conditioned on.

    Args:
        autoencoder: encodes given frame, history and action video alike.
        past: history and, last, the given frame.
        actions: the model's numbers.
        order: which end of the history is finest; None for a model without memory.
        action_video: the end effector drawn at the given frame and after each action.
    """
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
    return autoencoder.decode(torch.cat([given, latents], dim=2))[:, 1:].contiguous()


def sample_chunk(
    transformer: ProphetTransformer3DModel,
    conditions: Conditions,
    noise: Float[Tensor, "b c t h w"],
    sigmas: Float[Tensor, " levels"],
) -> Float[Tensor, "b c t h w"]:
    """Sample the latents of a chunk's generated slots: Adams-Bashforth steps, then one clean prediction.

    The given slot is replaced by the clean latent, labelled sigma_cond, in every call (reference.md: "One call"). The
    network runs in its own dtype, the sampler in that of `noise`.

    Args:
        transformer: the network.
        conditions: the rest of its inputs.
        noise: standard normal.
        sigmas: falling noise levels.
    """
    dtype = next(transformer.parameters()).dtype
    inputs = Conditions(
        given=conditions.given.to(dtype),
        history=None if conditions.history is None else conditions.history.to(dtype),
        actions=conditions.actions.to(dtype),
        action_frames=None if conditions.action_frames is None else conditions.action_frames.to(dtype),
        drawn=conditions.drawn,
    )

    def predict_clean(x: Tensor, sigma: float) -> Tensor:
        tau = sigma / (1 + sigma)
        noisy = (1 - tau) * x
        time = torch.full((x.shape[0],), tau, device=x.device)
        return noisy - tau * predict_velocity(transformer, inputs, noisy.to(dtype), time).to(x)

    x = sample_ab2(predict_clean, float(sigmas[0]) * noise, sigmas)
    return predict_clean(x, float(sigmas[-1]))
