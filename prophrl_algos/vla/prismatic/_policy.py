"""Make flow policies on Prismatic vision-language models, with a head on the states of the language model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prophrl_algos.flow import Context, FlowSpec, Obs
from prophrl_algos.vla._action_head import flow_targets
from prophrl_algos.vla._base import PublishedPolicy
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._processor import padded_tokens
from prophrl_algos.vla._units import Affine
from prophrl_algos.vla.conventions import Convention, convention
from prophrl_algos.vla.io._weights import CONFIG, load_strictly, own_type
from prophrl_algos.vla.prismatic._config import (
    GRIPPER,
    TOKENIZER,
    PrismaticConfig,
    read_published,
    read_tokenizer,
    rescale_output,
    scaling,
)
from prophrl_algos.vla.prismatic._images import prepared
from prophrl_algos.vla.prismatic._vision import FusedVision, Projector

_MAX_TOKENS = 96
"""Largest number of tokens of a prompt. LIBERO's longest instruction takes about half of it."""
_DRAWS = 4
"""Number of noises and times per demonstration in the loss."""
_STOP = 2
"""Token behind the action slots."""


class PrismaticPolicy(PublishedPolicy):
    """Wrap a Prismatic vision-language model; see `VLAAdapter` and `OpenVLAOFT`.

    Latents are normalised actions: q01..q99 become -1..1, the gripper goes from -1 (closed) to 1 (open). Observations
    have `image`, optionally `wrist_image` (uint8, any size, upright) and `state` (the robot's, in its units). An absent
    wrist image is left out of the sequence, as in the training of policies with one camera (`num_images_in_input=1`).
    """

    LANGUAGE: ClassVar[str]
    """`model_type` of the language model."""
    PROMPT: ClassVar[str]
    """Text with `{task}` for the instruction in lower case."""
    LAST: ClassVar[int | None]
    """Token that ends the prompt."""
    CAUSAL: ClassVar[bool]
    EXPERT: ClassVar[tuple[str, ...]]
    """Modules that are trained where the language model and the vision encoders are not."""

    action_head: Any

    def __init__(self, config: PrismaticConfig, tokenizer: Any) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.spec = FlowSpec(config.horizon, config.action_dim, config.action_dim, config.exec_steps, config.num_steps)
        # The precision is torch's default of the moment, whatever the checkpoint notes.
        text = {name: value for name, value in config.text.items() if name not in ("torch_dtype", "dtype")}
        self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        width = self.text_config.hidden_size
        self.vision_backbone = FusedVision(config.first, config.second)
        features = self.vision_backbone.width
        self.projector = Projector(features, 4 * features, width, width)
        self.language_model = AutoModel.from_config(self.text_config)
        self.action_head = self.make_head(config)
        self.proprio_projector = None if config.states is None else Projector(len(config.states["q01"]), width, width)

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        """Return the published head or a flow around it, by `config.head`, with new weights."""
        raise NotImplementedError

    def context(self, obs: Obs) -> Context:
        """Return what the head reads of the language model's states."""
        raise NotImplementedError

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        if config.get("model_type") == own_type(cls.FAMILY):
            return f"{CONFIG} says model_type {own_type(cls.FAMILY)!r}"
        said = config.get("text_config")
        text = said.get("model_type") if isinstance(said, Mapping) else None
        is_own = config.get("model_type") == "openvla" and text == cls.LANGUAGE
        return f"{CONFIG} says openvla on {cls.LANGUAGE}" if is_own else None

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "PrismaticPolicy":
        read, weights = read_published(folder, config, options)
        policy = cls._empty(read, folder, options)
        load_strictly(policy, weights, source=folder)
        rescale_output(policy.action_head.fc2, read.actions)
        policy.config = replace(read, head="flow")
        # A flow head that begins as the published one; what is new is the same every time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            published, policy.action_head = policy.action_head, policy.make_head(policy.config)
        policy.action_head.start_from(published)
        return policy

    @classmethod
    def make_saved(cls, folder: Path, said: Mapping[str, Any], options: LoadOptions) -> "PrismaticPolicy":
        config = PrismaticConfig.from_json(said["policy"], folder / CONFIG)
        options.require_benchmark(config.benchmark, folder)
        return cls._empty(config, folder, options)

    @classmethod
    def _empty(cls, config: PrismaticConfig, folder: Path, options: LoadOptions) -> "PrismaticPolicy":
        """Return a policy with memory but no weights; what is trained is float32."""
        tokenizer = read_tokenizer(folder, options.tokenizer)
        dtype = torch.float32 if options.train == "full" else options.dtype
        # On the meta device nothing is drawn, which would take minutes for 7 B weights.
        with torch.device("meta"):
            policy = cls(config, tokenizer).to(dtype)
        for name, part in policy.named_children():
            if name in cls.EXPERT:
                part.float()
        policy.to_empty(device="cpu")
        # Rotary frequencies are no weights: they are computed, not loaded.
        model = policy.language_model
        model.rotary_emb = type(model.rotary_emb)(config=policy.text_config)
        return policy

    def describe(self) -> dict[str, Any]:
        steps = {name: getattr(self.spec, name) for name in ("exec_steps", "num_steps")}
        return {"policy": asdict(replace(self.config, **steps))}

    def save_tokenizer(self, folder: Path) -> None:
        (folder / TOKENIZER).write_text(self.tokenizer.to_str(), encoding="utf-8")

    def in_expert(self, name: str) -> bool:
        return name.split(".")[0] in self.EXPERT

    @cached_property
    def convention(self) -> Convention:
        return convention(self.config.benchmark, "prismatic")

    @cached_property
    def action_scale(self) -> Affine:
        return scaling(self.config.actions, self.convention, gripper=GRIPPER)

    @cached_property
    def state_scale(self) -> Affine | None:
        """Return the scale of the robot's state; None for a policy that reads none."""
        return None if self.config.states is None else scaling(self.config.states, self.convention)

    def prepare(self, env_obs: Mapping[str, Any], instructions: Sequence[str]) -> Obs:
        """Return images as the vision encoders see them (uint8), tokens, and the normalised state."""
        rows, size = len(instructions), self.vision_backbone.image_size
        views = self.views(env_obs, rows).values()
        texts = [self.PROMPT.format(task=instruction.lower()) for instruction in instructions]
        tokens = [self.tokenizer.encode(text).ids for text in texts]
        if self.LAST is not None:
            tokens = [ids if ids[-1] == self.LAST else [*ids, self.LAST] for ids in tokens]
        obs = {"image": torch.stack([prepared(each.numpy(), size) for each in views], 1)}
        obs["tokens"], obs["token_mask"] = padded_tokens(tokens, _MAX_TOKENS, instructions)
        if self.state_scale is not None:
            obs["state"] = self.shown_state(env_obs, rows).clamp(-1, 1)
        return obs

    def encode(self, obs: Obs, *, grad: bool) -> Context:
        """Run the language model once and return what the head reads of it."""
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return self.context(obs)

    def velocity(self, ctx: Context, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return self.action_head.velocity(ctx, x.float(), t.float()).float()

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the loss of flow matching."""
        # Clipped as in the training of the published policies.
        x0 = self.latents(actions.to(self.device)).clamp(-1, 1)
        # The context is computed once for all draws.
        x, t, velocity = flow_targets(x0, _DRAWS, generator)
        return F.mse_loss(self.velocity(self.encode(obs, grad=True).repeat_interleave(_DRAWS), x, t), velocity)

    def pieces(self, obs: Obs) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Return the embeddings of each row: the patches of all its images, and its prompt."""
        images = obs["image"].to(self.device)
        patches = self.projector(self.vision_backbone(images.flatten(0, 1)))
        lengths = obs["token_mask"].sum(1).tolist()
        words = self.language_model.get_input_embeddings()(obs["tokens"][:, : max(lengths)].to(self.device))
        prompts = [row[:length] for row, length in zip(words, lengths, strict=True)]
        return patches.unflatten(0, (len(images), -1)).flatten(1, 2).unbind(0), prompts

    def state_token(self, obs: Obs) -> Float[Tensor, "b d"] | None:
        """Return the embedding of the robot's state, where the policy reads it."""
        if self.proprio_projector is None:
            return None
        return self.proprio_projector(obs["state"].to(self.proprio_projector.fc1.weight))

    def run(
        self, rows: Sequence[Sequence[Float[Tensor, "_ d"]]], *, every_layer: bool
    ) -> tuple[Sequence[Float[Tensor, "b n d"]], Int[Tensor, " b"]]:
        """Run sequences through the language model; return states of every layer or the last one, and the lengths."""
        stop = self.language_model.get_input_embeddings()(torch.tensor([_STOP], device=self.device))
        joined = [torch.cat([*pieces, stop.to(pieces[0])]) for pieces in rows]
        lengths = torch.tensor([len(row) for row in joined], device=self.device)
        embeddings = pad_sequence(joined, batch_first=True)
        dtype = self.language_model.get_input_embeddings().weight.dtype
        # A mask of every pair: stock Llama is causal, and OpenVLA-OFT was trained on a fork that is not.
        bias = attention_bias(lengths, embeddings.shape[1], dtype, causal=self.CAUSAL)
        found = self.language_model(
            inputs_embeds=embeddings.to(dtype), attention_mask=bias, use_cache=False, output_hidden_states=every_layer
        )
        return found.hidden_states[1:] if every_layer else [found.last_hidden_state], lengths


def attention_bias(
    lengths: Int[Tensor, " b"], longest: int, dtype: torch.dtype, *, causal: bool
) -> Float[Tensor, "b 1 n n"]:
    """Return what is added to attention scores: padding is unseen and, where causal, whatever comes later."""
    places = torch.arange(longest, device=lengths.device)
    seen = (places < lengths[:, None])[:, None].expand(-1, longest, -1)
    if causal:
        seen = seen & (places <= places[:, None])
    bias = torch.zeros(seen.shape, dtype=dtype, device=lengths.device)
    return bias.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def windows(states: Float[Tensor, "b n d"], first: Int[Tensor, " b"], count: int) -> Float[Tensor, "b m d"]:
    """Return `count` states of each row, beginning at its `first`."""
    places = first[:, None] + torch.arange(count, device=states.device)
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
