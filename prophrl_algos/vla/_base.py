"""Share what all published policies do: load and save, train in one of four modes, see and act by a convention."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophrl_algos.flow import FlowSpec, Obs
from prophrl_algos.vla._lora import LoraPart, LoraTargets, add_lora, fitted
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._units import (
    Affine,
    env_to_policy,
    normalise,
    policy_to_env,
    shown_images,
    shown_state,
    unnormalise,
)
from prophrl_algos.vla.conventions import Convention
from prophrl_algos.vla.io._weights import CONFIG, load_strictly, own_type, read_json, read_saved, require_sizes, saving


class PublishedPolicy(nn.Module):
    """Hold what is common to `PrefixPolicy` and `PrismaticPolicy`."""

    FAMILY: ClassVar[str]
    """Name of the family in the `config.json` of saved policies."""
    LAYOUT: ClassVar[str]
    """One line that names the files it reads, for error messages."""
    LORA: ClassVar[LoraTargets]
    """What is trained in the mode `lora`."""
    LANGUAGE_LORA: ClassVar[tuple[LoraPart, ...]] = ()
    """What has adapters too with the option `language`."""
    PREFIX: ClassVar[str] = ""
    """What the names of the weights in `adapted` begin with."""

    spec: FlowSpec
    lora: LoraTargets | None = None
    """What the adapters were made from; None without adapters."""
    convention: Convention
    action_scale: Affine
    state_scale: Affine | None
    """None for a policy that reads no state."""
    without_state = "refuse"
    """As in `LoadOptions`."""

    @classmethod
    def load_published(cls, folder: Path, config: Mapping[str, Any], options: LoadOptions) -> "PublishedPolicy":
        """Return the policy of a published checkpoint, before it is decided what is trained."""
        raise NotImplementedError

    @classmethod
    def make_saved(cls, folder: Path, said: Mapping[str, Any], options: LoadOptions) -> "PublishedPolicy":
        """Return the policy that a saved config describes, before it has weights."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what `make_saved` needs as plain data; ValueError for parts that no file can describe."""
        raise NotImplementedError

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer into the folder of the policy."""
        raise NotImplementedError

    def in_expert(self, name: str) -> bool:
        """Return whether a weight of `adapted` is of the action expert or flow head."""
        raise NotImplementedError

    def unread(self) -> re.Pattern[str]:
        """Return what the names of weights begin with on which no action depends."""
        return re.compile("(?!)")

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of the pretrained model where it is not trained."""

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""
        return next(self.parameters()).device

    @property
    def adapted(self) -> nn.Module:
        """Return the module whose layers may take adapters."""
        return self

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> "PublishedPolicy":
        """Load a published checkpoint (see `LAYOUT`) or a saved policy, on the CPU, in eval mode.

        A saved policy may be trained further in any mode. With `train="lora"` or `"none"` its adapters come back as
        they were; `"expert"` and `"full"` add them to the weights.
        """
        config = read_json(folder / CONFIG)
        require_sizes(config, folder / CONFIG)
        lora = None
        if saved := config.get("model_type") == own_type(cls.FAMILY):
            if said := config["lora"]:
                lora = LoraTargets(tuple(LoraPart(**part) for part in said["parts"]), tuple(said["whole"]))
            policy = cls.make_saved(folder, config, options)
        else:
            policy = cls.load_published(folder, config, options)
        policy.spec, policy.without_state = options.sized(policy.spec), options.without_state
        if lora is not None and options.train == "none":
            policy.adapt(lora)
        policy.let_train(options.train, language=options.language, lora=lora)
        policy.cast(options.dtype)
        if saved:
            # What is trained was chosen before, since it takes the weights in float32.
            policy._fill(read_saved(folder, config), lora or LoraTargets(()), source=folder)
        return policy.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy with its adapters, whole or not at all; `prophrl_algos.load_policy` reads it."""
        lora = None if self.lora is None else asdict(self.lora)
        said = {"model_type": own_type(self.FAMILY), **self.describe(), "lora": lora}
        with saving(Path(folder), said, self.state_dict()) as new:
            self.save_tokenizer(new)

    def load_weights(self, state: Mapping[str, Tensor], *, source: object) -> None:
        """Load weights of this family's `state_dict`, whatever was trained of them."""
        own = () if self.lora is None else self.lora.parts
        self._fill(state, LoraTargets(self.LORA.parts + self.LANGUAGE_LORA + own), source=source)

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """Let what is trained require a gradient, in float32; `lora` replaces the family's own adapters."""
        if train == "lora":
            self.adapt(lora or replace(self.LORA, parts=self.LORA.parts + (self.LANGUAGE_LORA if language else ())))
        unread = self.unread()
        for name, weight in self.adapted.named_parameters():
            if train != "lora":
                weight.requires_grad = train == "full" or (train == "expert" and self.in_expert(name))
            # A weight without a gradient would only be moved by weight decay.
            if unread.match(name):
                weight.requires_grad = False
            if weight.requires_grad:
                weight.data = weight.data.float()

    def adapt(self, targets: LoraTargets) -> None:
        """Freeze all but low-rank adapters and the modules that `targets` names."""
        add_lora(self.adapted, targets)
        self.lora = targets

    def views(self, env_obs: Mapping[str, Any], rows: int) -> dict[str, UInt8[Tensor, "b h w 3"]]:
        """Return the images as the policy was trained on them, by view; only the first view must be there."""
        first, *others = self.convention.views
        names = (first, *(name for name in others if name in env_obs))
        shown = {name: shown_images(env_obs, name, rows) for name in names}
        return {name: images.flip(-2) if self.convention.mirrored else images for name, images in shown.items()}

    def shown_state(self, env_obs: Mapping[str, Any], rows: int) -> Float[Tensor, "b s"]:
        """Return the normalised state, which the policy must read; where there is none, its mean in the training."""
        assert self.state_scale is not None
        numbers = len(self.state_scale.scale)
        if "state" not in env_obs and self.without_state == "mean":
            # Normalised, the middle of the training data is zero.
            return torch.zeros(rows, numbers)
        return normalise(shown_state(env_obs, rows, numbers), self.state_scale)

    def latents(self, actions: Float[Tensor, "b h a"]) -> Float[Tensor, "b h a"]:
        """Return demonstrated actions as normalised actions of the policy."""
        return normalise(env_to_policy(actions.float(), self.convention), self.action_scale)

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Return the executed actions in the env's units."""
        del obs
        latents = x0[:, : self.spec.exec_steps, : self.spec.action_dim].float()
        return policy_to_env(unnormalise(latents, self.action_scale), self.convention)

    def _fill(self, state: Mapping[str, Tensor], targets: LoraTargets, *, source: object) -> None:
        own = {name.removeprefix(self.PREFIX): tensor for name, tensor in state.items()}
        load_strictly(self.adapted, fitted(own, self.adapted, targets, source=source), source=source)
