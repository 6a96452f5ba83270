"""Tiny random weights in the published networks' own classes: for tests, examples and trying a set-up out.

Each has the layers, masks, caches and time convention of the real one, and learns nothing worth having.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from prophrl_algos.flow.policy import FlowSpec
from prophrl_algos.vla import smolvla
from prophrl_algos.vla._policy import ImageConfig, ProcessorConfig
from prophrl_algos.vla._tokenization import Prompt, char_tokenizer, line, task_and_state
from prophrl_algos.vla.conventions import Affine, Convention, convention
from prophrl_algos.vla.pi import _pi0 as pi0
from prophrl_algos.vla.pi import _pi05 as pi05

VOCABULARY = 64
NUMBERS = 7
STATE = 8
WIDTH = 8
"""Columns of the latent and of the padded state."""
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def tiny_pi0(horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert") -> pi0.Pi0Policy:
    """Pi0 in transformers' classes; ImportError says what to install."""
    config = pi0_config(horizon)
    network = pi0_network(horizon)
    pi0.choose_trained(network, train)
    how = processor(convention("libero", "openpi"), ImageConfig(28), line, VOCABULARY)
    return pi0.Pi0Policy(network, _spec(horizon, exec_steps, num_steps), how, config).eval()


def tiny_pi05(
    horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert", discrete_state: bool = False
) -> pi05.Pi05Policy:
    """Pi0.5 in lerobot's classes; ImportError says what to install.

    Args:
        horizon: H.
        exec_steps: C.
        num_steps: K.
        train: as in `LoadOptions`.
        discrete_state: whether the prompt names the state, as lerobot's does.
    """
    config = {"chunk_size": horizon, **PI05_CONFIG}
    with pi05_sizes():
        network = pi05.make_network(config, precision="float32")
    randomise(network)
    pi05.choose_trained(network, train)
    prompt = task_and_state if discrete_state else line
    how = processor(convention("libero", "openpi"), ImageConfig(28), prompt, 60, state=discrete_state)
    return pi05.Pi05Policy(network, _spec(horizon, exec_steps, num_steps), how, config).eval()


def tiny_smolvla(
    horizon: int = 4, exec_steps: int = 2, num_steps: int = 3, *, train: str = "expert"
) -> smolvla.SmolVLAPolicy:
    """SmolVLA in lerobot's classes; ImportError says what to install."""
    config = {"chunk_size": horizon, **SMOLVLA_CONFIG}
    with smolvlm_sizes():
        network = smolvla.make_network(config)
    randomise(network)
    smolvla.choose_trained(network, train)
    how = processor(convention("libero", "smolvla"), ImageConfig(32, centred=False), line, VOCABULARY)
    return smolvla.SmolVLAPolicy(network, _spec(horizon, exec_steps, num_steps), how, config).eval()


PI05_CONFIG = {"max_action_dim": WIDTH, "max_state_dim": WIDTH, "image_resolution": (28, 28)}
SMOLVLA_CONFIG = {"max_action_dim": WIDTH, "max_state_dim": WIDTH, "num_vlm_layers": 2, "expert_width_multiplier": 0.5}


def pi0_network(horizon: int) -> Any:
    """`transformers.PI0ForConditionalGeneration` of a few thousand weights."""
    config = pi0_config(horizon)
    network = pi0.make_network(config)
    randomise(network)
    return network


def pi0_config(horizon: int, *, heads: int = 2, head_dim: int = 8) -> dict[str, Any]:
    """Of a tiny network, as transformers writes it."""
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
    """Inside it lerobot's pi0.5 is made tiny; its sizes are written into its module."""
    pi05.require_lerobot()
    from lerobot.policies.pi05 import modeling_pi05 as module

    with patch.object(module, "get_gemma_config", gemma_size), gemma_sizes(module):
        yield


def gemma_size(variant: str) -> SimpleNamespace:
    """Of PaliGemma and of the expert, in the place of openpi's and lerobot's."""
    width = {"gemma_2b": 16, "gemma_300m": 8}[variant]
    # The joint training pass knows of eight heads only.
    return SimpleNamespace(width=width, depth=2, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=4)


@contextmanager
def gemma_sizes(module: Any) -> Iterator[None]:
    """Inside it the classes that a module makes its networks of are given few words and a small eye."""
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
    """Inside it lerobot's SmolVLA is made on a tiny SmolVLM, and nothing is fetched."""
    smolvla.require_lerobot()
    from lerobot.policies.smolvla import smolvlm_with_expert as module
    from transformers import AutoConfig

    text = {"model_type": "llama", **SIZES, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": VOCABULARY}
    vision = {**SIZES, "patch_size": 8, "image_size": 32}
    parts = {"text_config": text, "vision_config": vision, "scale_factor": 2}
    config = AutoConfig.for_model("smolvlm", **parts, image_token_id=1, pad_token_id=0)
    words = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=2, global_image_token_id=3))
    with ExitStack() as stack:
        for name, found in {"AutoConfig": config, "AutoProcessor": words}.items():
            stack.enter_context(patch.object(module, name, SimpleNamespace(from_pretrained=partial(_given, found))))
        yield


def processor(
    how: Convention, images: ImageConfig, prompt: Prompt, max_tokens: int, *, state: bool = True
) -> ProcessorConfig:
    """Scales that are not 1, bytes for tokens, and the middle of the state where there is none."""
    return ProcessorConfig(
        convention=how,
        images=images,
        actions=Affine(torch.linspace(-0.1, 0.1, NUMBERS), torch.linspace(0.5, 1.0, NUMBERS)),
        state=Affine(torch.zeros(STATE), torch.full((STATE,), 0.5)) if state else None,
        state_columns=WIDTH,
        tokenize=char_tokenizer(VOCABULARY),
        prompt=prompt,
        max_tokens=max_tokens,
        without_state="mean",
    )


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Draw every weight: what is initialised with zeros (a time modulation) hides errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


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


def _given(found: Any, *_: Any, **__: Any) -> Any:
    return found
