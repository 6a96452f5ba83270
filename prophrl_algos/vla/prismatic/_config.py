"""Describe Prismatic policies as plain data, and read their published files, with every tensor accounted for.

Weights of the language model and the vision encoders lie in safetensors, those of the head and the state projector in
`.pt` files of their training, statistics in `dataset_statistics.json`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prophet_gym._checks import unknown_option
from prophet_gym._io.tensor_files import read_tensors, unwrapped
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._units import Affine, affine
from prophrl_algos.vla.conventions import Convention, convention
from prophrl_algos.vla.io._statistics import sound
from prophrl_algos.vla.io._weights import CONFIG, read_json, read_safetensors
from prophrl_algos.vla.prismatic._vision import HEADS, VitSize, vit_size

GRIPPER = 6
Numbers = Mapping[str, Sequence[float] | Sequence[bool]]
TOKENIZER = "tokenizer.json"
HEAD = "action_head--*.pt"
_VISION_ENCODERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
# The language model's head, what the vision encoders have behind the features that are read, and a layer of the Pro
# head that its authors left in unused: none has an effect on the actions.
_UNUSED = re.compile(
    r"language_model\.lm_head\.weight|vision_backbone\.\w+\.(norm|attn_pool)\..*"
    r"|action_head\..*\.film_gen\.0\.(weight|bias)"
)


@dataclass(frozen=True)
class PrismaticConfig:
    """Hold sizes and statistics of a Prismatic policy; `states` is None for a policy that reads none."""

    text: Mapping[str, Any]
    """Configuration of the language model, in transformers' words."""
    first: VitSize
    """Sizes of DINOv2."""
    second: VitSize
    """Sizes of SigLIP."""
    actions: Numbers
    """Statistics of the training data: `q01`, `q99`, and `mask` for the numbers that are scaled."""
    states: Numbers | None
    benchmark: str = "libero"
    horizon: int = 8
    exec_steps: int = 8
    num_steps: int = 10
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the head."""

    @property
    def action_dim(self) -> int:
        return len(self.actions["q01"])

    def scales(self) -> tuple[Convention, Affine, Affine | None]:
        """Return the conventions of the benchmark, and the scales of actions and states."""
        how = convention(self.benchmark, "prismatic")
        actions = scaling(self.actions, how, gripper=GRIPPER)
        return how, actions, None if self.states is None else scaling(self.states, how)

    @classmethod
    def from_json(cls, said: Mapping[str, Any], source: Path) -> "PrismaticConfig":
        """Return the config that `dataclasses.asdict` described; KeyError, TypeError or ValueError if it is damaged."""
        vision = {name: VitSize(**said[name]) for name in ("first", "second")}
        if said.get("head", "flow") != "flow":
            raise CheckpointError(f"{source}: this policy has no flow head, load the published one again")
        # Earlier releases stored these two as well.
        given: Mapping[str, Any] = {name: said[name] for name in said if name not in ("head", "without_state")}
        config = cls(**{**given, **vision})
        sound_numbers(config.actions, "actions", source)
        if config.states is not None:
            sound_numbers(config.states, "states", source)
        return config


def sound_numbers(given: Any, feature: str, source: Path) -> Numbers:
    """Return the statistics of a feature that are read, as lists; CheckpointError if they make no sense."""
    given = given if isinstance(given, Mapping) else {}
    read = sound({name: given.get(name) for name in ("q01", "q99")}, "QUANTILES", feature, source)
    plain: dict[str, Any] = {name: value.tolist() for name, value in read.items()}
    mask = given.get("mask")
    if mask is None:
        return plain
    if not isinstance(mask, list) or len(mask) != len(plain["q01"]) or not all(isinstance(e, bool) for e in mask):
        raise CheckpointError(f"{source}: mask of {feature!r} must be {len(plain['q01'])} booleans, got {mask}")
    return plain | {"mask": mask}


def scaling(numbers: Numbers, how: Convention, gripper: int | None = None) -> Affine:
    """Return the scale of actions or states.

    A gripper of 0 and 1 that the statistics leave alone becomes -1 and 1, so that noise of one size suits all
    dimensions. Numbers that never changed in the training data are 0, as in prismatic's `zeros_mask`.
    """
    statistics = {name: torch.tensor(numbers[name], dtype=torch.float32) for name in ("q01", "q99")}
    mask = torch.tensor(numbers.get("mask", [True] * len(numbers["q01"])), dtype=torch.bool)
    found = affine(how.scaling, statistics, eps=how.eps, mask=mask)
    still = mask & (statistics["q01"] == statistics["q99"])
    found = Affine(torch.where(still, statistics["q01"], found.offset), found.scale)
    if gripper is None or bool(mask[gripper]):
        return found
    is_gripper = torch.arange(len(mask)) == gripper
    return Affine(*(torch.where(is_gripper, 0.5, part) for part in found))


def read_published(
    folder: Path, found: Mapping[str, Any], options: LoadOptions
) -> tuple[PrismaticConfig, dict[str, Tensor]]:
    """Return config and weights of a published policy, under the names of its files."""
    weights = read_safetensors(folder)
    head_file, state_file = _one(folder, HEAD), _one(folder, "proprio_projector--*.pt")
    if head_file is None:
        raise MissingWeightsError(f"{folder} holds no {HEAD}")
    if _one(folder, "vision_backbone--*.pt") is not None:
        raise CheckpointError(f"{folder} has language-conditioned vision encoders (FiLM), which no adapter reads")
    names = found.get("timm_model_ids", [])
    if len(names) != len(_VISION_ENCODERS) or not set(names) <= set(HEADS):
        raise CheckpointError(
            f"{folder / CONFIG} must name the vision encoders {sorted(HEADS)}, timm_model_ids is {names}"
        )
    sizes = [
        vit_size({n.removeprefix(prefix): each for n, each in weights.items() if n.startswith(prefix)}, HEADS[name])
        for prefix, name in zip(_VISION_ENCODERS, names, strict=True)
    ]
    # The last block of each encoder is behind the features that are read.
    last = tuple(f"{prefix}blocks.{size.depth}." for prefix, size in zip(_VISION_ENCODERS, sizes, strict=True))
    head = {name.removeprefix("model."): tensor for name, tensor in unwrapped(read_tensors(head_file)).items()}
    features = ("action",) if state_file is None else ("action", "proprio")
    numbers = _statistics(folder, found, options, features)
    settings: dict[str, Any] = {}
    # Names of weights tell bridge attention, and that of the Pro release.
    if any(name.endswith("gating_factor") for name in head):
        settings = {"pro": any(".k_self." in name for name in head)}
        # Its first layer is given zeros, which the norm before it turns into its bias: it says a constant.
        del head["layer_norm1.weight"]
        first = [head.pop(name).float() for name in ("layer_norm1.bias", "fc1.weight", "fc1.bias")]
        head["query"] = F.relu(F.linear(*first))
    state = {} if state_file is None else unwrapped(read_tensors(state_file))
    for part, tensors in {"action_head": head, "proprio_projector": state}.items():
        weights |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    how = convention(options.benchmark, "prismatic")
    config = PrismaticConfig(
        text=found["text_config"],
        first=sizes[0],
        second=sizes[1],
        actions=numbers["action"],
        states=None if state_file is None else numbers["proprio"],
        benchmark=options.benchmark,
        horizon=how.exec_steps,
        exec_steps=how.exec_steps,
        settings=settings,
    )
    used = (name for name in weights if not name.startswith(last) and not _UNUSED.fullmatch(name))
    return config, {name: weights[name] for name in used}


def read_tokenizer(folder: Path, given: Any) -> Any:
    """Return the checkpoint's tokenizer, or the one given: a Hugging Face tokenizer or a folder.

    The `tokenizers` library alone reads its file, so that no class is chosen by a file.
    """
    from tokenizers import Tokenizer

    if given is not None and not isinstance(given, str | Path):
        return given.backend_tokenizer
    file = Path(folder if given is None else given) / TOKENIZER
    if not file.is_file():
        raise MissingWeightsError(f"{file.parent} holds no {TOKENIZER}; fetch it from the checkpoint's repository")
    return Tokenizer.from_str(file.read_text(encoding="utf-8"))


def _statistics(
    folder: Path, config: Mapping[str, Any], options: LoadOptions, read: tuple[str, ...]
) -> Mapping[str, Any]:
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
    return {name: sound_numbers(found.get(name), name, file) for name in read}


def _one(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise CheckpointError(f"{folder} must hold one {pattern}, got {[path.name for path in found]}")
    return found[0] if found else None
