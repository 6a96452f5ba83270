"""What VLA-Adapter and OpenVLA-OFT share: pictures and a prompt through a language model, a head on its states.

The wrist's picture is left out of the sequence where there is none, as in the training of policies with one camera
(`num_images_in_input=1`), so it has no effect at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prophrl_algos.flow.policy import Context, FlowSpec, Obs
from prophrl_algos.vla._lora import LoraTargets, add_lora, lora_targets
from prophrl_algos.vla._merge import fitted
from prophrl_algos.vla._observations import shown_images, shown_state
from prophrl_algos.vla.conventions import (
    Affine,
    Convention,
    affine,
    convention,
    env_to_policy,
    normalise,
    policy_image,
    policy_to_env,
    unnormalise,
)
from prophrl_algos.vla.io._weights import load_strictly
from prophrl_algos.vla.prismatic._images import prepared
from prophrl_algos.vla.prismatic._sequence import Prompt, Tokenizer, attention_bias, padded, prompt_tokens
from prophrl_algos.vla.prismatic._vision import FusedVision, Projector, StateProjector, VitSize

GRIPPER = 6
Numbers = Mapping[str, Sequence[float] | Sequence[bool]]


@dataclass(frozen=True)
class PrismaticConfig:
    """Sizes and statistics of a Prismatic policy; plain data.

    Attributes:
        text: the language model's configuration, in transformers' words.
        first: sizes of DINOv2.
        second: sizes of SigLIP.
        actions: statistics of the training data's actions: `q01`, `q99` and `mask`, the numbers that are scaled.
        states: statistics of the robot's state; None for a policy that reads none.
        benchmark: what it acts in, a name of `prophrl_algos.vla.conventions`.
        horizon: actions of a chunk.
        exec_steps: of them that are executed.
        num_steps: K, denoising steps.
        without_state: as in `prophrl_algos.vla._load.LoadOptions`.
        head: `l1`, as published, or `flow`.
        settings: of the head, by name.
    """

    text: Mapping[str, Any]
    first: VitSize
    second: VitSize
    actions: Numbers
    states: Numbers | None
    benchmark: str = "libero"
    horizon: int = 8
    exec_steps: int = 8
    num_steps: int = 10
    without_state: str = "refuse"
    head: str = "flow"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        return len(self.actions["q01"])


class PrismaticPolicy(nn.Module):
    """A flow policy on a Prismatic vision-language model; see `VLAAdapter` and `OpenVLAOFT`.

    Latents are normalised actions, q01..q99 to -1..1, the gripper from -1 (closed) to 1 (open). Observations have
    `image`, perhaps `wrist_image` (uint8, any size, upright) and `state` (the robot's, in units).
    """

    FAMILY: ClassVar[str]
    PROMPT: ClassVar[Prompt]
    CAUSAL: ClassVar[bool]
    EXPERT: ClassVar[tuple[str, ...]]
    """Modules that are trained where the language model and the eyes are not."""

    def __init__(self, config: PrismaticConfig, tokenizer: Tokenizer) -> None:
        """Draw the weights.

        Args:
            config: sizes and statistics.
            tokenizer: the checkpoint's own.
        """
        from transformers import AutoConfig, AutoModel

        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.spec = FlowSpec(
            config.horizon, config.action_dim, config.action_dim, config.exec_steps, config.num_steps
        )  # fmt: skip
        self.lora: LoraTargets | None = None
        # The precision is the default of the moment, whatever the checkpoint notes.
        text = {name: value for name, value in config.text.items() if name not in ("torch_dtype", "dtype")}
        self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        width = self.text_config.hidden_size
        self.vision_backbone = FusedVision(config.first, config.second)
        self.projector = Projector(self.vision_backbone.width, width)
        self.language_model = AutoModel.from_config(self.text_config)
        self.action_head = self.make_head(config)
        self.proprio_projector = None if config.states is None else StateProjector(len(config.states["q01"]), width)

    @classmethod
    def published_settings(cls, head: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Settings of a published head, by what its weights are called."""
        raise NotImplementedError

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        """The head of a config, with new weights.

        It has `prefix(states)`, what does not depend on noise or time; `velocity(ctx, x, t)`, float32; and
        `loss(ctx, x0, generator)` of demonstrated latents. A flow head also has `start_from(published_head)`.
        """
        raise NotImplementedError

    def begin_flow(self) -> None:
        """Exchange the published head for a flow head that begins as it; what is new is the same every time."""
        self.config = replace(self.config, head="flow")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            published, self.action_head = self.action_head, self.make_head(self.config)
        self.head.start_from(published)

    @property
    def convention(self) -> Convention:
        """How it meets its benchmark."""
        return convention(self.config.benchmark, "prismatic")

    @cached_property
    def action_scale(self) -> Affine:
        """Of latents."""
        return scaling(self.config.actions, self.convention, gripper=GRIPPER)

    @cached_property
    def state_scale(self) -> Affine | None:
        """Of the robot's state; None for a policy that reads none."""
        return None if self.config.states is None else scaling(self.config.states, self.convention)

    @property
    def head(self) -> Any:
        """The head that acts."""
        return self.action_head

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Pictures as the vision backbones see them (uint8), tokens, and the normalised state.

        Raises:
            ValueError: an instruction is too long, images are not uint8 `(rows, h, w, 3)`, or a state is missing or has
                another size.
        """
        first, *others = self.convention.views
        views = [first, *(name for name in others if name in env_obs)]
        size = self.vision_backbone.image_size
        images = [shown_images(env_obs, name, len(instructions)) for name in views]
        shown = [policy_image(each, self.convention.image) for each in images]
        tokens, mask = prompt_tokens(self.tokenizer, self.PROMPT, instructions)
        obs = {
            "image": torch.stack([prepared(each.numpy(), size) for each in shown], 1),
            "image_mask": torch.ones(len(instructions), len(views), dtype=torch.bool),
            "tokens": tokens,
            "token_mask": mask,
        }
        if self.state_scale is not None:
            obs["state"] = self._state(env_obs, len(instructions), self.state_scale)
        return obs

    def encode(self, obs: Obs, *, grad: bool) -> Context:
        """The language model once, and what the head reads of it."""
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return self.head.prefix(self.states(obs))

    def states(self, obs: Obs) -> Any:
        """What the head reads of the language model's states."""
        raise NotImplementedError

    def velocity(self, ctx: Context, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """v(x, t) in float32."""
        return self.head.velocity(ctx, x.float(), t.float()).float()

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Latents to commands of the benchmark, the gripper open or closed."""
        del obs
        return policy_to_env(unnormalise(x0[:, : self.spec.exec_steps].float(), self.action_scale), self.convention)

    def latents(self, actions: Float[Tensor, "b h a"]) -> Float[Tensor, "b h d"]:
        """Demonstrated commands to latents, clipped to -1..1 as in the training of the published policies."""
        return normalise(env_to_policy(actions.float(), self.convention), self.action_scale).clamp(-1, 1)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """The head's loss: flow matching, or the mean absolute error of a published head."""
        context = self.encode(obs, grad=True)
        return self.head.loss(context, self.latents(actions.to(self.device)), generator)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy; `prophrl_algos.load_policy` reads it."""
        from prophrl_algos.vla.prismatic._files import save_prismatic

        save_prismatic(self, Path(folder))

    def load_weights(self, state: Mapping[str, Tensor], *, source: object) -> None:
        """Take the weights of this family's `state_dict`, whatever was trained of them; see `fitted`.

        Raises:
            CheckpointError: they do not fit; names the tensors.
        """
        known = lora_targets(self.FAMILY).parts + (self.lora or LoraTargets(())).parts
        load_strictly(self, fitted(state, self, LoraTargets(known), source=source), source=source)

    def adapt(self, targets: LoraTargets) -> list[str]:
        """Freeze all but low-rank adapters and the small modules that `targets` names; what is trained now."""
        names = add_lora(self, targets)
        self.lora = targets
        return names

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.projector.fc1.weight.device

    def _state(self, env_obs: Mapping[str, Any], rows: int, scale: Affine) -> Float[Tensor, "b s"]:
        numbers = len(scale.offset)
        state = shown_state(env_obs, rows, numbers, self.config.without_state)
        if state is None:
            return torch.zeros(rows, numbers)
        return normalise(state, scale).clamp(-1, 1)

    def pieces(self, obs: Obs) -> tuple[list[Tensor], list[Tensor]]:
        """Of each row: its patches, one after the other for all its pictures, and its prompt, as embeddings."""
        shown = obs["image_mask"].to(self.device)
        patches = self.projector(self.vision_backbone(obs["image"].to(self.device)[shown])).flatten(0, 1)
        counts = (shown.sum(1) * self.vision_backbone.featurizer.size.grid**2).tolist()
        lengths = obs["token_mask"].sum(1).tolist()
        longest = max(lengths)
        words = self.language_model.get_input_embeddings()(obs["tokens"][:, :longest].to(self.device))
        return list(patches.split(counts)), [row[:length] for row, length in zip(words, lengths, strict=True)]

    def stop(self) -> Float[Tensor, "1 d"]:
        """The embedding behind the action slots."""
        return self.language_model.get_input_embeddings()(torch.tensor([self.PROMPT.stop], device=self.device))

    def run(
        self, rows: Sequence[Sequence[Float[Tensor, "_ d"]]], *, every_layer: bool
    ) -> tuple[Sequence[Float[Tensor, "b n d"]], Int[Tensor, " b"]]:
        """Sequences through the language model: states of every layer, or of the last one, and their lengths."""
        embeddings, lengths = padded(rows)
        dtype = self.language_model.get_input_embeddings().weight.dtype
        bias = attention_bias(lengths, embeddings.shape[1], dtype, causal=self.CAUSAL)
        found = self.language_model(
            inputs_embeds=embeddings.to(dtype), attention_mask=bias, use_cache=False, output_hidden_states=every_layer
        )
        return found.hidden_states[1:] if every_layer else [found.last_hidden_state], lengths


def scaling(numbers: Numbers, how: Convention, gripper: int | None = None) -> Affine:
    """The scale of actions or states; a gripper of 0 and 1, which the statistics leave alone, becomes -1 and 1.

    Numbers that never changed in the training data are 0, as there (prismatic's `zeros_mask`).
    """
    statistics = {name: torch.tensor(numbers[name], dtype=torch.float32) for name in ("q01", "q99")}
    mask = torch.tensor(numbers.get("mask", [True] * len(numbers["q01"])), dtype=torch.bool)
    found = affine(how.scaling, statistics, eps=how.eps, mask=mask)
    still = mask & (statistics["q01"] == statistics["q99"])
    found = Affine(torch.where(still, statistics["q01"], found.offset), found.scale)
    if gripper is None or bool(mask[gripper]):
        return found
    halves = torch.full((), 0.5)
    is_gripper = torch.arange(len(mask)) == gripper
    return Affine(torch.where(is_gripper, halves, found.offset), torch.where(is_gripper, halves, found.scale))


def rescale_output(layer: nn.Module, numbers: Numbers) -> None:
    """Make a published head's last layer say latents: a gripper from 0 to 1 becomes one from -1 to 1."""
    assert isinstance(layer, nn.Linear)
    if not numbers.get("mask", [True] * layer.out_features)[GRIPPER]:
        with torch.no_grad():
            layer.weight[GRIPPER] *= 2
            layer.bias[GRIPPER] = 2 * layer.bias[GRIPPER] - 1
