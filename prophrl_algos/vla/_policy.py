"""What published flow policies have in common: the world around the network, not the network.

An adapter (`pi05.py`, `pi0.py`, `smolvla.py`) gives the prefix and the velocity; pictures, prompts, scales and signs
are here, so that they are the same for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophrl_algos.flow.policy import FlowSpec, Obs, TensorContext
from prophrl_algos.vla._lora import LoraTargets, lora_targets, targets_in
from prophrl_algos.vla._merge import fitted
from prophrl_algos.vla._observations import shown_images, shown_state
from prophrl_algos.vla._tokenization import Prompt, Tokenize, padded, trimmed
from prophrl_algos.vla.conventions import (
    Affine,
    Convention,
    env_to_policy,
    normalise,
    policy_image,
    policy_to_env,
    unnormalise,
)
from prophrl_algos.vla.io._weights import load_strictly


@dataclass(frozen=True)
class ImageConfig:
    """How pictures are brought to the size of the network.

    Attributes:
        size: height and width, pixels.
        antialias: whether shrinking averages, as PIL's bilinear does (openpi), or not, as torch's (lerobot).
        centred: whether what is added to make it square is on both sides, or on the left and top (SmolVLA).
    """

    size: int
    antialias: bool = False
    centred: bool = True


@dataclass(frozen=True)
class ProcessorConfig:
    """How a network was trained to be spoken to.

    Attributes:
        convention: of the benchmark.
        images: their size.
        actions: the scale of its action numbers.
        state: of the state's; None if it reads no state.
        state_columns: to which the normalised state is padded with zeros.
        tokenize: texts to tokens.
        prompt: instruction and normalised state to a text.
        max_tokens: of a prompt.
        without_state: `refuse` observations without a state, or take the `mean`.
    """

    convention: Convention
    images: ImageConfig
    actions: Affine
    state: Affine | None
    state_columns: int
    tokenize: Tokenize
    prompt: Prompt
    max_tokens: int
    without_state: str = "refuse"


class PublishedPolicy(nn.Module):
    """Pictures, prompts, scales and signs around a network; subclasses add what is of their family."""

    FAMILY: ClassVar[str]
    """A name of `prophrl_algos.vla._lora.TARGETS`: all layers of the family that may have adapters."""
    before: tuple[str, ...]
    """What the names of weights begin with that the prefix is computed with."""

    def __init__(
        self, network: nn.Module, spec: FlowSpec, processor: ProcessorConfig, config: Mapping[str, Any] | None = None
    ) -> None:
        """Take a network over.

        Args:
            network: trained parameters require a gradient, the others do not.
            spec: the sizes; the action numbers are those of the convention.
            processor: what is around it.
            config: what `make_network` made the network of, plain data; without it the policy cannot be saved.
        """
        super().__init__()
        numbers = processor.actions.scale.shape[0]
        if numbers != spec.action_dim:
            raise ValueError(f"the statistics are of {numbers} action numbers, the policy has {spec.action_dim}")
        self.network, self.spec, self.processor, self.config = network, spec, processor, config

    @staticmethod
    def make_network(config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a config, in float32."""
        raise NotImplementedError

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """Let what is trained require a gradient, in float32.

        Args:
            train: as in `LoadOptions`.
            language: as in `LoadOptions`.
            lora: the layers that take adapters; the family's if not given.
        """
        raise NotImplementedError

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of the pretrained part, where it is not trained."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy with its adapters, if it has any; `prophrl_algos.load_policy` reads it."""
        from prophrl_algos.vla.io._policies import save_published

        save_published(self, Path(folder))

    def load_weights(self, state: Mapping[str, Tensor], *, source: object) -> None:
        """Take the weights of this family's `state_dict`, whatever was trained of them; see `fitted`.

        Raises:
            CheckpointError: they do not fit; names the tensors.
        """
        own = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        known = lora_targets(self.FAMILY).parts + (targets_in(self.network) or LoraTargets(())).parts
        load_strictly(self.network, fitted(own, self.network, LoraTargets(known), source=source), source=source)

    def prefix(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], obs: Obs, device: torch.device
    ) -> TensorContext:  # fmt: skip
        """What the network makes of pictures (-1..1), tokens and state, for `velocity` to read."""
        raise NotImplementedError

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32."""
        raise NotImplementedError

    def reads_gradient(self) -> bool:
        """Whether what is trained lies before the velocity, so that the prefix needs a gradient."""
        weights = self.network.named_parameters()
        return any(weight.requires_grad for name, weight in weights if name.startswith(self.before))

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Pictures as the policy was trained on them, in the env's size; tokens of the prompt; the state.

        A view that the env does not have is left out, which is what masking it does.

        Raises:
            ValueError: the first view is missing, images are not uint8 `(rows, h, w, 3)`, a prompt is too long, or a
                state is needed and missing.
        """
        processor = self.processor
        first, *others = processor.convention.views
        obs: dict[str, Tensor] = {}
        for view in (first, *(name for name in others if name in env_obs)):
            frames = shown_images(env_obs, view, len(instructions))
            obs[view] = policy_image(frames, processor.convention.image).contiguous()
        state = self._state(env_obs, len(instructions))
        rows = [None] * len(instructions) if state is None else state.unbind(0)
        texts = [processor.prompt(text, row) for text, row in zip(instructions, rows, strict=True)]
        obs["tokens"], obs["token_mask"] = padded(processor.tokenize(texts), processor.max_tokens, texts)
        return obs if state is None else {**obs, "state": state}

    def encode(self, obs: Obs, *, grad: bool) -> TensorContext:
        """The prefix of pictures, prompt and state; without a gradient where nothing of it is trained."""
        device = next(self.network.parameters()).device
        with torch.set_grad_enabled(grad and torch.is_grad_enabled() and self.reads_gradient()):
            views = [obs[name] for name in self.processor.convention.views if name in obs]
            images = [resized(view.to(device), self.processor.images) for view in views]
            tokens, mask = trimmed(obs)
            read = {**obs, "tokens": tokens.to(device), "token_mask": mask.to(device)}
            return self.prefix(images, read, device)

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Latents to commands of the env."""
        del obs
        actions = x0[:, : self.spec.exec_steps, : self.spec.action_dim]
        return policy_to_env(unnormalise(actions, self.processor.actions), self.processor.convention)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Mean squared error of the velocity on the real action numbers, at one time per row.

        Times have the density 1.5 sqrt(t) on 0.001..1: the Beta(1.5, 1) of openpi, lerobot and transformers.
        """
        device = next(self.network.parameters()).device
        latents = normalise(
            env_to_policy(actions.to(device).float(), self.processor.convention), self.processor.actions
        )
        x0 = F.pad(latents, (0, self.spec.latent_dim - self.spec.action_dim))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        t = (torch.rand(len(x0), generator=generator) ** (2 / 3) * 0.999 + 0.001).to(device)
        found = self.velocity(self.encode(obs, grad=True), torch.lerp(x0, noise, t[:, None, None]), t)
        real = (..., slice(self.spec.action_dim))
        return F.mse_loss(found[real], (noise - x0)[real])

    def _state(self, env_obs: Mapping[str, Any], rows: int) -> Float[Tensor, "b s"] | None:
        processor = self.processor
        if processor.state is None:
            return None
        numbers = len(processor.state.scale)
        given = shown_state(env_obs, rows, numbers, processor.without_state)
        if given is None:
            return torch.zeros(rows, processor.state_columns)
        return F.pad(normalise(given, processor.state), (0, processor.state_columns - numbers))


def resized(frames: UInt8[Tensor, "b h w 3"], how: ImageConfig) -> Float[Tensor, "b 3 s s"]:
    """Pictures at the network's size, -1..1, their shape kept by adding black.

    lerobot adds -3 rather than black on openpi's networks, which is a slip of its; on square pictures nothing is added.
    """
    pixels = frames.movedim(-1, 1).float() / 255
    height, width = pixels.shape[2:]
    ratio = max(height, width) / how.size
    size = (int(height / ratio), int(width / ratio))
    if size != (height, width):
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=how.antialias)
    down, across = how.size - size[0], how.size - size[1]
    left, top = (across // 2, down // 2) if how.centred else (across, down)
    return F.pad(pixels, (left, across - left, top, down - top)).clamp(0, 1) * 2 - 1
