"""Make flow policies of VLA-Adapter (arXiv 2509.09372) and OpenVLA-OFT (arXiv 2502.19645), heads on a Prismatic VLM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prophrl_algos.flow import Context, FlowSpec, Obs, device_of
from prophrl_algos.vla._base import PublishedPolicy
from prophrl_algos.vla._lora import PROJECTIONS, LoraPart, LoraTargets
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._processor import padded_tokens
from prophrl_algos.vla.io._weights import CONFIG, Renames, load_strictly, renamed
from prophrl_algos.vla.prismatic._config import GRIPPER, TOKENIZER, PrismaticConfig, read_published, read_tokenizer
from prophrl_algos.vla.prismatic._heads import BridgeFlowHead, OftFlowHead
from prophrl_algos.vla.prismatic._images import prepared
from prophrl_algos.vla.prismatic._vision import FusedVision, Projector

_MAX_TOKENS = 96
"""Largest number of tokens of a prompt. LIBERO's longest instruction takes about half of it."""
_QUERIES = 64
_STOP = 2
"""Token behind the action slots."""


class PrismaticPolicy(PublishedPolicy):
    """Wrap a Prismatic vision-language model; see `VLAAdapter` and `OpenVLAOFT`.

    Latents are normalised actions: q01..q99 become -1..1, the gripper goes from -1 (closed) to 1 (open). Observations
    have `image`, optionally `wrist_image` (uint8, any size, upright) and `state` (the robot's, in its units). An absent
    wrist image is left out of the sequence, as in the training of policies with one camera (`num_images_in_input=1`).
    """

    RENAMES: ClassVar[Renames] = (
        # Published files call LayerScale's gamma scale_factor, since transformers renames any "gamma" that it loads.
        (r"\.scale_factor", ".gamma"),
        (r"^language_model\.model\.", "language_model."),
    )
    LANGUAGE: ClassVar[str]
    """`model_type` of the language model."""
    PROMPT: ClassVar[str]
    """Text with `{task}` for the instruction in lower case."""
    LAST: ClassVar[int | None]
    """Token that ends the prompt."""
    CAUSAL: ClassVar[bool]
    DRAWS: ClassVar[int] = 4
    NEW: ClassVar[str]
    """Pattern of the weights that no published head has."""

    action_head: Any

    def __init__(self, config: PrismaticConfig, tokenizer: Any) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        with torch.device("cpu"):  # also where the weights are made on another device
            self.convention, self.action_scale, self.state_scale = config.scales()
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
        """Return a flow head with new weights."""
        raise NotImplementedError

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        text = config.get("text_config") if config.get("model_type") == "openvla" else None
        if isinstance(text, Mapping) and text.get("model_type") == cls.LANGUAGE:
            return f"{CONFIG} says openvla on {cls.LANGUAGE}"
        return super().recognises(config)

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "PrismaticPolicy":
        read, weights = read_published(folder, config, options)
        policy = cls.make_saved(folder, {"policy": asdict(read)}, options)
        # A flow head that begins as the published one; what is new is the same every time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            policy.action_head = policy.make_head(read)
        new = {name for name in policy.state_dict() if re.fullmatch(cls.NEW, name)}
        load_strictly(policy, renamed(weights, cls.RENAMES), may_miss=new, source=folder)
        # A published head says a gripper from 0 to 1, and latents have one from -1 to 1.
        if not read.actions.get("mask", [True] * read.action_dim)[GRIPPER]:
            with torch.no_grad():
                policy.action_head.out.weight[GRIPPER] *= 2
                policy.action_head.out.bias[GRIPPER] = 2 * policy.action_head.out.bias[GRIPPER] - 1
        return policy

    @classmethod
    def make_saved(cls, folder: Path, said: Mapping[str, Any], options: LoadOptions) -> "PrismaticPolicy":
        config = PrismaticConfig.from_json(said["policy"], folder / CONFIG)
        tokenizer = read_tokenizer(folder, options.tokenizer)
        dtype = torch.float32 if options.train == "full" else options.dtype
        # On the meta device nothing is drawn, which would take minutes for 7 B weights.
        with torch.device("meta"):
            policy = cls(config, tokenizer).to(dtype)
        for name, part in policy.named_children():
            if not name.startswith(cls.BACKBONE):
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

    def velocity(self, ctx: Context, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        return self.action_head.velocity(ctx, x.float(), t.float()).float()

    def latents(self, actions: Float[Tensor, "b h a"]) -> Float[Tensor, "b h a"]:
        return super().latents(actions).clamp(-1, 1)  # as in the training of the published policies

    def pieces(self, obs: Obs) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Return the embeddings of each row: the patches of all its images, and its prompt."""
        images = obs["image"].to(device_of(self))
        patches = self.projector(self.vision_backbone(images.flatten(0, 1)))
        lengths = obs["token_mask"].sum(1).tolist()
        words = self.language_model.get_input_embeddings()(obs["tokens"][:, : max(lengths)].to(device_of(self)))
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
        stop = self.language_model.get_input_embeddings()(torch.tensor([_STOP], device=device_of(self)))
        joined = [torch.cat([*pieces, stop.to(pieces[0])]) for pieces in rows]
        lengths = torch.tensor([len(row) for row in joined], device=device_of(self))
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


class VLAAdapter(PrismaticPolicy):
    """Act with VLA-Adapter, on Qwen2.5-0.5B; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is causal: the prompt's first token, all patches, the rest of the prompt, 64 learned queries, a stop
    token. The head reads every layer, each window one place early, as published: the first token and all patches but
    the last, and the prompt's last token and all queries but the last.
    """

    FAMILY: ClassVar[str] = "vla-adapter"
    LAYOUT: ClassVar[str] = (
        "VLA-Adapter as published: config.json with a Qwen2 text_config, model.safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "qwen2"
    PROMPT: ClassVar[str] = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to {task}?<|im_end|>\n<|im_start|>assistant\n"
    )
    LAST: ClassVar[int | None] = None
    CAUSAL: ClassVar[bool] = True
    BACKBONE: ClassVar[tuple[str, ...]] = ("language_model", "vision_backbone", "projector", "action_queries")
    RENAMES: ClassVar[Renames] = (
        *PrismaticPolicy.RENAMES,
        (r"^action_head\.mlp_resnet_blocks\.", "action_head.blocks."),
        (r"^action_head\.layer_norm2\.", "action_head.norm."),
        (r"^action_head\.fc2\.", "action_head.out."),
    )
    NEW: ClassVar[str] = r"action_head\.(noise\..*|positions|time\..*|offsets)"
    # The flow head is new and trained whole; the rank is OpenVLA-OFT's (vla-scripts/finetune.py).
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 32),), (r"(.*\.)?action_queries", r"(.*\.)?action_head")
    )

    def __init__(self, config: PrismaticConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.action_queries = nn.Embedding(_QUERIES, self.text_config.hidden_size)

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        width, layers = self.text_config.hidden_size, self.text_config.num_hidden_layers
        return BridgeFlowHead(width, layers, config.horizon, config.action_dim, **config.settings)

    def context(self, obs: Obs) -> Context:
        patches, prompts = self.pieces(obs)
        queries = self.action_queries(torch.arange(_QUERIES, device=device_of(self))).to(patches[0])
        # Each row is put together by itself and padded behind, so that a batch says what its rows say alone.
        rows = [[text[:1], seen, text[1:], queries] for seen, text in zip(patches, prompts, strict=True)]
        layers, lengths = self.run(rows, every_layer=True)
        token = self.state_token(obs)
        # The head alone sees the robot's state.
        return self.action_head.prefix(
            [layer[:, : len(patches[0])] for layer in layers],
            # One early: -1 for the stop token, -1 for the window.
            [windows(layer, lengths - _QUERIES - 2, _QUERIES) for layer in layers],
            token,
        )


class OpenVLAOFT(PrismaticPolicy):
    """Act with OpenVLA-OFT, on Llama-2-7B; `prophrl_algos.load_policy` makes one of a published checkpoint.

    The sequence is the prompt's first token, all patches, the robot's state, the rest of the prompt, one zero for each
    number of each action, and a stop token; all see all. The head reads the last layer one place early, as published:
    the prompt's last token and all slots but the last.
    """

    FAMILY: ClassVar[str] = "openvla-oft"
    LAYOUT: ClassVar[str] = (
        "OpenVLA-OFT as published: config.json with a Llama text_config, safetensors, action_head--*.pt"
    )
    LANGUAGE: ClassVar[str] = "llama"
    PROMPT: ClassVar[str] = "In: What action should the robot take to {task}?\nOut:"
    # Llama's tokenizer puts 29871, an empty token, before the action tokens.
    LAST: ClassVar[int | None] = 29871
    CAUSAL: ClassVar[bool] = False
    BACKBONE: ClassVar[tuple[str, ...]] = ("language_model", "vision_backbone", "projector", "proprio_projector")
    RENAMES: ClassVar[Renames] = (*PrismaticPolicy.RENAMES, (r"^action_head\.", "action_head.published."))
    NEW: ClassVar[str] = r"action_head\.(?!published\.).*"
    # OpenVLA-OFT vla-scripts/finetune.py: rank 32, alpha min(rank, 16); the flow head is new and trained whole.
    LORA: ClassVar[LoraTargets] = LoraTargets(
        (LoraPart(rf".*language_model.*\.{PROJECTIONS}", 32, 16),), (r"(.*\.)?action_head",)
    )

    def make_head(self, config: PrismaticConfig) -> nn.Module:
        return OftFlowHead(self.text_config.hidden_size, config.horizon, config.action_dim)

    def context(self, obs: Obs) -> Context:
        patches, prompts = self.pieces(obs)
        slots = self.config.horizon * self.config.action_dim
        zeros = patches[0].new_zeros(slots, patches[0].shape[1])
        state = self.state_token(obs)
        tokens = [[] for _ in patches] if state is None else [[row] for row in state[:, None].to(zeros)]
        rows = [
            [words[:1], seen, *token, words[1:], zeros]
            for seen, token, words in zip(patches, tokens, prompts, strict=True)
        ]
        (last,), lengths = self.run(rows, every_layer=False)
        return self.action_head.prefix(windows(last, lengths - slots - 2, slots))
