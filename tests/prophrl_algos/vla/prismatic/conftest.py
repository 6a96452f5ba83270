"""Synthetic checkpoints of VLA-Adapter and OpenVLA-OFT in the published layouts: real classes, random weights, tiny."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

WIDTH, LAYERS, GRID, HORIZON, NUMBERS = 32, 2, 2, 8, 7
VISION = 32
TIMM = ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
Q01 = [-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, 0.0]
Q99 = [0.9, 0.7, 0.8, 0.2, 0.1, 0.3, 1.0]
STATISTICS = {
    "libero_object_no_noops": {
        "action": {"q01": Q01, "q99": Q99, "mask": [True] * 6 + [False]},
        "proprio": {"q01": [-0.5] * 8, "q99": [0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 0.5, 1.0]},
    }
}
TEXT = {
    "qwen2": {
        "model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "bfloat16",
    },
    "llama": {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 29888, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    },
}  # fmt: skip


def byte_tokenizer(start: str | None) -> Tokenizer:
    """A real byte-level BPE; `start` is put before every text, as Llama's is."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=letters, show_progress=False)
    words = (
        "system user assistant You are Qwen, created by Alibaba Cloud. You are a helpful assistant. What action should"
    )
    tokenizer.train_from_iterator([f"{words} the robot take to In: Out:"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return tokenizer


def vision_weights(draw, depth: int, *, dino: bool) -> dict[str, torch.Tensor]:
    """Of one vision transformer, as timm calls them; the last block and what follows have no effect on a policy."""
    found = {"patch_embed.proj.weight": draw(VISION, 3, 14, 14), "patch_embed.proj.bias": draw(VISION)}
    found["pos_embed"] = draw(1, GRID**2, VISION)
    if dino:
        found |= {"cls_token": draw(1, 1, VISION), "reg_token": draw(1, 4, VISION)}
    layers = [
        ("attn.qkv", VISION, 3 * VISION),
        ("attn.proj", VISION, VISION),
        ("mlp.fc1", VISION, 48),
        ("mlp.fc2", 48, VISION),
    ]
    for block in range(depth):
        for name, into, out in layers:
            found[f"blocks.{block}.{name}.weight"] = draw(out, into)
            found[f"blocks.{block}.{name}.bias"] = draw(out)
        for name in ("norm1", "norm2"):
            found[f"blocks.{block}.{name}.weight"] = 1 + draw(VISION)
            found[f"blocks.{block}.{name}.bias"] = draw(VISION)
        for name in ("ls1", "ls2") if dino else ():
            found[f"blocks.{block}.{name}.scale_factor"] = 1 + draw(VISION)
    found |= {"norm.weight": draw(VISION), "norm.bias": draw(VISION)}
    return (
        found if dino else found | {"attn_pool.latent": draw(1, 1, VISION), "attn_pool.q.weight": draw(VISION, VISION)}
    )


def head_weights(draw, family: str, *, pro: bool) -> dict[str, torch.Tensor]:
    """Of the action head, as its class calls them."""
    wide = NUMBERS * WIDTH
    found = {"layer_norm1.weight": draw(wide), "layer_norm1.bias": draw(wide), "fc1.weight": draw(WIDTH, wide)}
    found |= {"fc1.bias": draw(WIDTH), "layer_norm2.weight": 1 + draw(WIDTH), "layer_norm2.bias": draw(WIDTH)}
    found |= {"fc2.weight": draw(NUMBERS, WIDTH), "fc2.bias": draw(NUMBERS)}
    plain, own = ["q_proj", "k_proj", "v_proj", "o_proj"], ["k_self", "v_self", "k_adapter", "v_adapter"]
    layers = (["q_proj", "o_proj", *own, "k_task", "v_task"] if pro else plain) if family == "vla-adapter" else []
    for block in range(LAYERS):
        start = f"mlp_resnet_blocks.{block}."
        found |= {f"{start}ffn.0.weight": 1 + draw(WIDTH), f"{start}ffn.0.bias": draw(WIDTH)}
        for name in ["ffn.1", *layers]:
            found |= {f"{start}{name}.weight": draw(WIDTH, WIDTH), f"{start}{name}.bias": draw(WIDTH)}
        if family == "vla-adapter":
            found[f"{start}gating_factor"] = 0.5 + draw(1)
        if pro:
            found |= {f"{start}film_gen.0.weight": draw(2 * WIDTH, WIDTH), f"{start}film_gen.0.bias": draw(2 * WIDTH)}
    return found


@dataclass
class Checkpoint:
    """A published checkpoint on disk and in memory."""

    folder: Path
    family: str
    pro: bool
    model: dict[str, torch.Tensor]
    head: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    text: dict = field(default_factory=dict)

    def write(self, *, shards: int = 1) -> Path:
        """All files, under the names that their authors give them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": "openvla", "text_config": self.text, "timm_model_ids": TIMM, "image_sizes": [224, 224]}
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
        self.tokenizer.save(str(self.folder / "tokenizer.json"))
        names = sorted(self.model)
        if shards == 1:
            save_file(self.model, self.folder / "model.safetensors")
        else:
            places = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
            for file in set(places.values()):
                save_file({n: self.model[n] for n in names if places[n] == file}, self.folder / file)
            index = {"metadata": {}, "weight_map": places}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))
        step = "" if self.family == "vla-adapter" else "150000_"
        for name, weights in (("action_head", self.head), ("proprio_projector", self.state)):
            prefix = "module.model." if name == "action_head" else "module."
            torch.save({prefix + n: t for n, t in weights.items()}, self.folder / f"{name}--{step}checkpoint.pt")
        return self.folder


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(family, pro=..., dtype=...)`: not yet written."""

    def make(family="vla-adapter", *, pro=True, dtype=torch.float32, seed=0):
        from transformers import AutoConfig, AutoModelForCausalLM

        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return (0.15 * torch.randn(shape, generator=generator)).to(dtype)

        text = TEXT["qwen2" if family == "vla-adapter" else "llama"]
        rest = {name: value for name, value in text.items() if name != "model_type"}
        language = AutoModelForCausalLM.from_config(AutoConfig.for_model(text["model_type"], **rest))
        model = {
            f"language_model.{name}": 1 + draw(*tensor.shape) if "norm" in name else draw(*tensor.shape)
            for name, tensor in language.state_dict().items()
            if not (name == "lm_head.weight" and text.get("tie_word_embeddings"))
        }
        for name, depth, dino in (("featurizer", 3, True), ("fused_featurizer", 2, False)):
            eye = vision_weights(draw, depth, dino=dino)
            model |= {f"vision_backbone.{name}.{n}": tensor for n, tensor in eye.items()}
        for name, into, out in (("fc1", 2 * VISION, 8 * VISION), ("fc2", 8 * VISION, WIDTH), ("fc3", WIDTH, WIDTH)):
            model |= {f"projector.{name}.weight": draw(out, into), f"projector.{name}.bias": draw(out)}
        if family == "vla-adapter":
            model["action_queries.weight"] = draw(64, WIDTH)
        state = {"fc1.weight": draw(WIDTH, 8), "fc1.bias": draw(WIDTH)}
        state |= {"fc2.weight": draw(WIDTH, WIDTH), "fc2.bias": draw(WIDTH)}
        tokenizer = byte_tokenizer(None if family == "vla-adapter" else "<s>")
        pro = pro and family == "vla-adapter"
        head = head_weights(draw, family, pro=pro)
        return Checkpoint(tmp_path / family, family, pro, model, head, state, tokenizer, text)

    return make


@pytest.fixture
def seen():
    """`seen(rows)`: an observation with both pictures and a state."""

    def make(rows=3, *, seed=0, wrist=True, state=True):
        rng = np.random.default_rng(seed)
        found = {"image": rng.integers(0, 256, (rows, 40, 40, 3), dtype=np.uint8)}
        if wrist:
            found["wrist_image"] = rng.integers(0, 256, (rows, 40, 40, 3), dtype=np.uint8)
        if state:
            found["state"] = rng.normal(0, 0.4, (rows, 8)).astype(np.float32)
        return found

    return make


@pytest.fixture
def awake():
    """Give layers that begin as 0 random weights: they hide errors."""

    def stir(policy, scale=0.3):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in policy.action_head.parameters():
                if not weight.any():
                    weight.copy_(scale * torch.randn(weight.shape, generator=generator))
        return policy

    return stir


@pytest.fixture
def loaded(checkpoint):
    """`loaded(family, pro, **options)` from files in the published layout, all float32, K = 4."""
    from prophrl_algos import LoadOptions, load_policy

    def make(family="vla-adapter", pro=True, **options):
        folder = checkpoint(family, pro=pro).write()
        return load_policy(folder, LoadOptions(**{"dtype": torch.float32, "num_steps": 4} | options))

    return make
