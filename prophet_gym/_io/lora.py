"""Low-rank adapters (LoRA, arXiv 2106.09685) of Prophet's transformer: added, saved alone, loaded, merged."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from prophet_gym._checks import require_count
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import misfits
from prophet_gym._io.files import reading
from prophet_gym._io.tensor_files import read_tensors, write_tensors
from prophet_gym.errors import CheckpointError

# The paper's choice: q, k, v, output and both MLP layers of every block.
TARGETS = r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
WEIGHTS_NAME, CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"


def add_lora(model: nn.Module, rank: int) -> None:
    """Add trainable adapters, scaled by 1, and freeze the rest; the output is as before."""
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise ValueError(f"the rank of an adapter must be at least 1, got {rank}")
    model.requires_grad_(requires_grad=False)
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=TARGETS)
    inject_adapter_in_model(config, model)


def save_lora(model: nn.Module, folder: Path) -> None:
    """Write the adapters alone, with their config, in peft's layout."""
    from peft.utils import get_peft_model_state_dict

    state = {name: value.contiguous().cpu() for name, value in get_peft_model_state_dict(model).items()}
    configs: Any = model.peft_config
    with atomic_directory(folder, last=CONFIG_NAME) as temporary:
        write_tensors(state, temporary / WEIGHTS_NAME)
        configs["default"].save_pretrained(str(temporary))


def load_lora(model: nn.Module, folder: Path) -> None:
    """Add saved adapters to a model that has none; raise CheckpointError if they are missing, damaged or another's."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import set_peft_model_state_dict

    if not (folder / WEIGHTS_NAME).is_file():
        raise CheckpointError(
            f"no adapter at {folder}: {WEIGHTS_NAME} not found; `prophet train` and `prophet pretrain` write one to "
            "OUT/lora, given --lora-rank"
        )
    state = read_tensors(folder / WEIGHTS_NAME)
    with reading(f"the adapter at {folder} has a damaged {CONFIG_NAME}", "save it again", CheckpointError):
        config: Any = LoraConfig.from_pretrained(str(folder))
        rank = require_count("r", config.r)
        if rank > max(min(value.shape) for value in state.values()):
            raise ValueError(f"r={rank}, and no tensor of {WEIGHTS_NAME} is of that rank")
        inject_adapter_in_model(config, model)
    own = {name.replace(".default.", "."): value for name, value in model.state_dict().items() if "lora_" in name}
    if wrong := misfits(own, state):
        raise CheckpointError(f"the adapter at {folder} is for another model: {wrong}")
    set_peft_model_state_dict(model, state)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the matrices that they update, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()  # pyright: ignore[reportCallIssue]
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
