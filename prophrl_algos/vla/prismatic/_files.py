"""Read the published files of Prismatic policies, with every tensor accounted for.

Weights of the language model and the vision encoders lie in safetensors, those of the head and the state projector in
`.pt` files of their training, statistics in `dataset_statistics.json`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prophet_gym._checks import unknown_option
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla.conventions import convention
from prophrl_algos.vla.io._saved import CONFIG
from prophrl_algos.vla.io._weights import read_json, read_pt, read_safetensors, renamed
from prophrl_algos.vla.prismatic._config import PrismaticConfig, sound_numbers
from prophrl_algos.vla.prismatic._sequence import Tokenizer
from prophrl_algos.vla.prismatic._vision import HEADS, vit_size

HEAD = "action_head--*.pt"
_VISION_ENCODERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
# The language model's head, what the vision encoders have behind the features that are read, and a layer of the Pro
# head that its authors left in unused: none has an effect on the actions.
_UNUSED = re.compile(r"language_model\.lm_head\.weight|vision_backbone\.\w+\.(norm|attn_pool)\..*")
_UNUSED_IN_HEAD = re.compile(r".*\.film_gen\.0\.(weight|bias)")


def read_published(
    folder: Path, found: Mapping[str, Any], options: LoadOptions
) -> tuple[PrismaticConfig, dict[str, Tensor]]:
    """Return config and weights of a published policy, with its L1 head; the head's settings are still empty."""
    if _one(folder, "vision_backbone--*.pt") is not None:
        raise CheckpointError(f"{folder} has language-conditioned vision encoders (FiLM), which no adapter reads")
    names = found.get("timm_model_ids", [])
    if len(names) != len(_VISION_ENCODERS) or not set(names) <= set(HEADS):
        raise CheckpointError(
            f"{folder / CONFIG} must name the vision encoders {sorted(HEADS)}, timm_model_ids is {names}"
        )
    weights = renamed(read_safetensors(folder), _our_name)
    sizes = [
        vit_size({n.removeprefix(prefix): each for n, each in weights.items() if n.startswith(prefix)}, HEADS[name])
        for prefix, name in zip(_VISION_ENCODERS, names, strict=True)
    ]
    # The last block of each encoder is behind the features that are read.
    last = tuple(f"{prefix}blocks.{size.depth}." for prefix, size in zip(_VISION_ENCODERS, sizes, strict=True))
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(last)}
    head_file, state_file = _one(folder, HEAD), _one(folder, "proprio_projector--*.pt")
    if head_file is None:
        raise MissingWeightsError(f"{folder} holds no {HEAD}")
    head, state = renamed(read_pt(head_file), _head_name), {} if state_file is None else read_pt(state_file)
    for part, read in {"action_head": head, "proprio_projector": state}.items():
        weights |= {f"{part}.{name}": tensor for name, tensor in read.items()}
    numbers = _statistics(folder, found, options)
    lacking = [name for name in ("action", *(["proprio"] if state_file else [])) if name not in numbers]
    if lacking:
        raise CheckpointError(
            f"the statistics of {folder} lack {lacking}: give others with LoadOptions(statistics=...)"
        )
    how = convention(options.benchmark, "prismatic")
    config = PrismaticConfig(
        text=found["text_config"],
        first=sizes[0],
        second=sizes[1],
        actions=numbers["action"],
        states=None if state_file is None else numbers["proprio"],
        benchmark=options.benchmark,
        horizon=how.exec_steps,
        exec_steps=options.exec_steps or how.exec_steps,
        num_steps=options.num_steps or 10,
        without_state=options.without_state,
        head="l1",
    )
    return config, weights


def read_tokenizer(folder: Path, options: LoadOptions) -> Tokenizer:
    """Return the checkpoint's tokenizer, or the one of the options."""
    chosen = folder if options.tokenizer is None else options.tokenizer
    if isinstance(chosen, str | Path):
        return Tokenizer.from_folder(Path(chosen))
    return Tokenizer(chosen.backend_tokenizer.to_str())


def _our_name(name: str) -> str | None:
    if _UNUSED.fullmatch(name):
        return None
    # Published files call LayerScale's gamma scale_factor, since transformers renames any "gamma" that it loads.
    return re.sub(r"^language_model\.model\.", "language_model.", name.replace(".scale_factor", ".gamma"))


def _head_name(name: str) -> str | None:
    return None if _UNUSED_IN_HEAD.fullmatch(name) else name.removeprefix("model.")


def _statistics(folder: Path, config: Mapping[str, Any], options: LoadOptions) -> Mapping[str, Any]:
    file = folder / "dataset_statistics.json" if options.statistics is None else options.statistics
    sets = read_json(file) or config.get("norm_stats", {})
    if not sets:
        raise MissingWeightsError(f"there is no {file}; give another with the option `statistics`")
    names = list(sets) if options.unnorm_key is None else [options.unnorm_key]
    if len(names) != 1 or names[0] not in sets:
        raise unknown_option("data set of the statistics (option `unnorm_key`)", options.unnorm_key, sets)
    found = sets[names[0]]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file}: statistics of {names[0]!r} must be an object, got {found!r:.80}")
    return {name: sound_numbers(found.get(name), name, file) for name in ("action", "proprio") if name in found}


def _one(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise CheckpointError(f"{folder} must hold one {pattern}, got {[path.name for path in found]}")
    return found[0] if found else None
