"""Make policies with a few random weights in the published networks' own classes, to try a set-up out.

Each has the layers, masks, caches and time convention of the real one, and has learnt nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.policy_memory.full_sizes import smolvlm_of
from prophrl_algos.flow import FlowSpec
from prophrl_algos.vla._experts import Pi0Policy, Pi05Policy, SmolVLAPolicy
from prophrl_algos.vla._prefix_policy import PrefixPolicy
from prophrl_algos.vla._processor import ImageConfig, ProcessorConfig
from prophrl_algos.vla._units import Affine
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.prismatic import OpenVLAOFT, VLAAdapter
from prophrl_algos.vla.prismatic._config import Numbers, PrismaticConfig
from prophrl_algos.vla.prismatic._policy import PrismaticPolicy
from prophrl_algos.vla.prismatic._vision import VitSize

VOCABULARY = 64
NUMBERS, STATE = 7, 8
WIDTH = 8
"""Columns of the latent and of the padded state."""
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
PI05_CONFIG = {"max_action_dim": WIDTH, "max_state_dim": WIDTH, "image_resolution": (28, 28)}
SMOLVLA_CONFIG = {"max_action_dim": WIDTH, "max_state_dim": WIDTH, "num_vlm_layers": 2, "expert_width_multiplier": 0.5}

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
QWEN2 = TEXT | {"model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True}
# OpenVLA-OFT's prompt ends with token 29871.
LLAMA = TEXT | {"model_type": "llama", "num_key_value_heads": 4, "vocab_size": 29888, "pad_token_id": 0}
SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
DINO = VitSize(width=32, depth=2, heads=4, hidden=48, grid=2, registers=4, dino=True)
SIGLIP = VitSize(width=32, depth=2, heads=4, hidden=48, grid=2)
ACTIONS: Numbers = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
STATES: Numbers = {"q01": [-1.0] * STATE, "q99": [1.0] * STATE}

Prismatic = TypeVar("Prismatic", bound=PrismaticPolicy)
Made = TypeVar("Made", bound=PrefixPolicy | PrismaticPolicy)


def tiny_pi0(horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert") -> Pi0Policy:
    """Return Pi0 in transformers' classes."""
    how = processor("openpi", ImageConfig(28), "line", VOCABULARY)
    policy = Pi0Policy(pi0_network(horizon), _spec(horizon, exec_steps, num_steps), how, pi0_config(horizon))
    return _ready(policy, train)


def tiny_pi05(
    horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert", discrete_state: bool = False
) -> Pi05Policy:
    """Return Pi0.5 in lerobot's classes; with `discrete_state` the prompt names the state, as lerobot's does."""
    config = {"chunk_size": horizon, **PI05_CONFIG}
    with pi05_sizes():
        network = Pi05Policy.make_network(config)
    randomise(network)
    how = processor("openpi", ImageConfig(28), "task_and_state" if discrete_state else "line", 60, state=discrete_state)
    return _ready(Pi05Policy(network, _spec(horizon, exec_steps, num_steps), how, config), train)


def tiny_smolvla(horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert") -> SmolVLAPolicy:
    """Return SmolVLA in lerobot's classes."""
    config = {"chunk_size": horizon, **SMOLVLA_CONFIG}
    with smolvlm_sizes():
        network = SmolVLAPolicy.make_network(config)
    randomise(network)
    how = processor("smolvla", ImageConfig(32, centred=False), "line", VOCABULARY)
    return _ready(SmolVLAPolicy(network, _spec(horizon, exec_steps, num_steps), how, config), train)


def tiny_vla_adapter(
    num_steps: int = 4, *, train: str = "expert", seed: int = 0
) -> VLAAdapter:  # fmt: skip
    """Return VLA-Adapter's Pro release with a language model of two layers."""
    config = _config(QWEN2, num_steps, {"pro": True})
    return _prismatic(VLAAdapter, config, byte_tokenizer(None), train, seed)


def tiny_openvla_oft(
    num_steps: int = 4, *, train: str = "expert", seed: int = 0
) -> OpenVLAOFT:  # fmt: skip
    """Return OpenVLA-OFT with a language model and a transformer of two layers."""
    config = _config(LLAMA, num_steps, {})
    return _prismatic(OpenVLAOFT, config, byte_tokenizer("<s>"), train, seed)


def pi0_network(horizon: int) -> Any:
    """Return `transformers.PI0ForConditionalGeneration` with a few thousand weights."""
    network = Pi0Policy.make_network(pi0_config(horizon))
    randomise(network)
    return network


def pi0_config(horizon: int, *, heads: int = 2, head_dim: int = 8) -> dict[str, Any]:
    """Return the config of a tiny network, as transformers writes it."""
    gemma = {**SIZES, "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": head_dim}
    text = {"model_type": "gemma", **gemma, "vocab_size": VOCABULARY}
    vision = {"model_type": "siglip_vision_model", **SIZES, "patch_size": 14, "image_size": 28}
    vlm = {"model_type": "paligemma", "text_config": text, "projection_dim": 16, "image_token_id": VOCABULARY}
    return {
        "model_type": "pi0",
        "vlm_config": {**vlm, "vision_config": {**vision, "vision_use_head": False}},
        "dit_config": {"model_type": "gemma", **gemma, "hidden_size": 8},
        "chunk_size": horizon,
        "max_action_dim": WIDTH,
        "max_state_dim": WIDTH,
        "num_inference_steps": 3,
    }


@contextmanager
def pi05_sizes() -> Iterator[None]:
    """Make lerobot's pi0.5 tiny, whose sizes are written into its module."""
    from lerobot.policies.pi05 import modeling_pi05 as module

    with patch.object(module, "get_gemma_config", gemma_size), gemma_sizes(module):
        yield


def gemma_size(variant: str) -> SimpleNamespace:
    """Return tiny sizes of PaliGemma or of the expert, in the place of openpi's and lerobot's."""
    width = {"gemma_2b": 16, "gemma_300m": 8}[variant]
    # The joint training pass knows of eight heads only.
    return SimpleNamespace(width=width, depth=2, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=4)


@contextmanager
def gemma_sizes(module: Any) -> Iterator[None]:
    """Give the classes that a module makes its networks of a small vocabulary and vision encoder."""
    changed = {
        "PaliGemmaForConditionalGeneration": _with_tiny_vision,
        "PaliGemmaForConditionalGenerationWithPiGemma": _with_tiny_vision,
        "GemmaForCausalLM": _with_few_words,
        "PiGemmaForCausalLM": _with_few_words,
    }
    with ExitStack() as stack:
        for name, change in changed.items():
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, partial(change, getattr(module, name))))
        yield


@contextmanager
def smolvlm_sizes() -> Iterator[None]:
    """Make lerobot's SmolVLA on a tiny SmolVLM, without fetching anything."""
    text = {"model_type": "llama", **SIZES, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": VOCABULARY}
    vision = {**SIZES, "patch_size": 8, "image_size": 32}
    with smolvlm_of({"text_config": text, "vision_config": vision, "scale_factor": 2}):
        yield


def processor(
    family: str, images: ImageConfig, prompt: str, max_tokens: int, *, state: bool = True
) -> ProcessorConfig:  # fmt: skip
    """Return a config of LIBERO with scales that are not 1, and characters for tokens."""
    return ProcessorConfig(
        convention=convention("libero", family),
        images=images,
        actions=Affine(torch.linspace(-0.1, 0.1, NUMBERS), torch.linspace(0.5, 1.0, NUMBERS)),
        state=Affine(torch.zeros(STATE), torch.full((STATE,), 0.5)) if state else None,
        state_columns=WIDTH,
        tokenizer=char_tokenizer(),
        prompt=prompt,
        max_tokens=max_tokens,
    )


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Draw every weight: what is initialised with zeros (a time modulation) hides errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def char_tokenizer() -> Any:
    """Return a Hugging Face tokenizer of a start and single characters, whatever their case."""
    from tokenizers import Regex, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    chars = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:;-"
    backend: Any = Backend(WordLevel({each: number for number, each in enumerate(("?", "<s>", *chars))}, "?"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def byte_tokenizer(start: str | None) -> Any:
    """Return a byte-level BPE that knows the prompts; `start` is put before every text, as Llama's tokenizer does."""
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    backend: Any = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made: Any = BpeTrainer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = made(vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([kind.PROMPT for kind in (VLAAdapter, OpenVLAOFT)] * 3, trainer)
    added: Any = AddedToken
    backend.add_special_tokens([added(each, special=True) for each in SPECIAL])
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
        )
    return backend


def _prismatic(
    kind: type[Prismatic], config: PrismaticConfig, tokenizer: Any, train: str, seed: int
) -> Prismatic:  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = kind(config, tokenizer)
    return _ready(policy, train)


def _config(text: Mapping[str, Any], num_steps: int, settings: Mapping[str, Any]) -> PrismaticConfig:
    return PrismaticConfig(text, DINO, SIGLIP, ACTIONS, STATES, num_steps=num_steps, settings=settings)


def _ready(policy: Made, train: str) -> Made:
    policy.let_train(train)
    policy.without_state = "mean"
    return policy.eval()


def _spec(horizon: int, exec_steps: int, num_steps: int) -> FlowSpec:
    return FlowSpec(horizon, WIDTH, NUMBERS, exec_steps, num_steps)


def _with_tiny_vision(made: Any, config: Any) -> nn.Module:
    for name, value in {**SIZES, "projection_dim": 16, "patch_size": 14, "image_size": 28}.items():
        setattr(config.vision_config, name, value)
    config.projection_dim = config.hidden_size = 16
    return _with_few_words(made, config, config.text_config)


def _with_few_words(made: Any, config: Any, words: Any = None) -> nn.Module:
    (config if words is None else words).vocab_size = VOCABULARY
    return made(config=config)
