"""Tiny random weights in the Prismatic policies' own classes: for tests, examples and trying a set-up out.

Each has the layers, masks and windows of the real one, and learns nothing worth having.
"""

import torch

from prophrl_algos.vla.prismatic._files import choose_trained
from prophrl_algos.vla.prismatic._openvla_oft import OpenVLAOFT
from prophrl_algos.vla.prismatic._policy import Numbers, PrismaticConfig
from prophrl_algos.vla.prismatic._sequence import Tokenizer
from prophrl_algos.vla.prismatic._vision import VitSize
from prophrl_algos.vla.prismatic._vla_adapter import VLAAdapter

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
QWEN2 = SIZES | {"model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True}
# Its prompt ends with token 29871.
LLAMA = SIZES | {"model_type": "llama", "num_key_value_heads": 4, "vocab_size": 29888, "pad_token_id": 0}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
DINO = VitSize(width=32, depth=2, heads=4, hidden=48, grid=2, registers=4, dino=True)
SIGLIP = VitSize(width=32, depth=2, heads=4, hidden=48, grid=2)
ACTIONS: Numbers = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
STATES: Numbers = {"q01": [-1.0] * 8, "q99": [1.0] * 8}


def tiny_vla_adapter(num_steps: int = 4, *, train: str = "expert", head: str = "flow", seed: int = 0) -> VLAAdapter:
    """VLA-Adapter's Pro release with a language model of two layers.

    Args:
        num_steps: K.
        train: as in `LoadOptions`.
        head: as in `LoadOptions`.
        seed: of the weights.
    """
    config = _config(QWEN2, num_steps, head, {"pro": True})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = VLAAdapter(config, byte_tokenizer(None))
    choose_trained(policy, train)
    return policy.eval()


def tiny_openvla_oft(num_steps: int = 4, *, train: str = "expert", head: str = "flow", seed: int = 0) -> OpenVLAOFT:
    """OpenVLA-OFT with a language model and a transformer of two layers; arguments as of `tiny_vla_adapter`."""
    small = {} if head == "l1" else {"dit_width": 32, "dit_layers": 2, "dit_heads": 4}
    config = _config(LLAMA, num_steps, head, small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = OpenVLAOFT(config, byte_tokenizer("<s>"))
    choose_trained(policy, train)
    return policy.eval()


def byte_tokenizer(start: str | None) -> Tokenizer:
    """A real byte-level BPE that knows the words of the prompts; `start` is put before every text, as Llama's is."""
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=letters, show_progress=False)  # pyright: ignore[reportCallIssue]
    prompts = [kind.PROMPT.template for kind in (VLAAdapter, OpenVLAOFT)]
    backend.train_from_iterator(prompts * 3, trainer)
    backend.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])  # pyright: ignore[reportCallIssue]
    if start:
        backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
        )
    return Tokenizer(backend.to_str())


def _config(text: dict, num_steps: int, head: str, settings: dict) -> PrismaticConfig:
    return PrismaticConfig(
        text=text | TOKENS,
        first=DINO,
        second=SIGLIP,
        actions=ACTIONS,
        states=STATES,
        num_steps=num_steps,
        without_state="mean",
        head=head,
        settings=settings,
    )
