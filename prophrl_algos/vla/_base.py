"""Share what all published policies do: load and save, train in one of four modes, see and act by a convention."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophrl_algos.flow import Context, FlowPolicy, Obs, device_of
from prophrl_algos.vla._action_head import flow_targets
from prophrl_algos.vla._lora import LoraPart, LoraTargets, add_lora, fitted
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla._units import Affine, as_array, env_to_policy, policy_to_env, shown_images
from prophrl_algos.vla.conventions import Convention
from prophrl_algos.vla.io._weights import CONFIG, Renames, load_strictly, read_json, read_saved, require_sizes, saving


class PublishedPolicy(nn.Module, FlowPolicy):
    """Hold what is common to `PrefixPolicy` and `PrismaticPolicy`."""

    FAMILY: ClassVar[str]
    """Name of the family in the `config.json` of saved policies."""
    LAYOUT: ClassVar[str]
    """One line that names the files it reads, for error messages."""
    RENAMES: ClassVar[Renames] = ()
    LORA: ClassVar[LoraTargets]
    """Train these layers in the mode `lora`."""
    LANGUAGE_LORA: ClassVar[tuple[LoraPart, ...]] = ()
    """Add adapters to these with the option `language`."""
    NETWORK: ClassVar[str] = ""
    """Name of the module whose layers may take adapters; the policy itself if empty."""
    BACKBONE: ClassVar[str | tuple[str, ...]]
    """Freeze weights whose names begin so, those of pretrained models, in the mode `expert`; it trains the rest."""
    DRAWS: ClassVar[int] = 1
    """Number of noises and times per demonstration in the loss; the context is computed once for all of them."""
    LEAST_TIME: ClassVar[float] = 0.0
    """Smallest time in the loss."""

    lora: LoraTargets | None = None
    """Keep what the adapters were made from; None without adapters."""
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

    def context(self, obs: Obs) -> Context:
        """Return what `velocity` reads of an observation, once for all denoising steps."""
        raise NotImplementedError

    def unread(self) -> re.Pattern[str]:
        """Return what the names of weights begin with on which no action depends."""
        return re.compile("(?!)")

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of the pretrained model where it is not trained."""

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        """Return why a folder with this `config.json` is of this family, or None if it is not."""
        own = f"prophrl-{cls.FAMILY}"
        return f"{CONFIG} says model_type {own}, as prophrl writes it" if config.get("model_type") == own else None

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> "PublishedPolicy":
        """Load a published checkpoint (see `LAYOUT`) or a saved policy, on the CPU, in eval mode.

        A saved policy may be trained further in any mode. With `train="lora"` or `"none"` its adapters come back as
        they were; `"expert"` and `"full"` add them to the weights.
        """
        config = read_json(folder / CONFIG)
        require_sizes(config, folder / CONFIG)
        lora = None
        if saved := config.get("model_type") == f"prophrl-{cls.FAMILY}":
            if (benchmark := config.get("policy", config).get("benchmark")) != options.benchmark:
                raise ValueError(
                    f"{folder} acts in {benchmark!r}, not {options.benchmark!r}; say so with LoadOptions(benchmark=...)"
                )
            if said := config["lora"]:
                lora = LoraTargets(tuple(LoraPart(**part) for part in said["parts"]), tuple(said["whole"]))
            policy = cls.make_saved(folder, config, options)
        else:
            policy = cls.load_published(folder, config, options)
        steps = {name: getattr(options, name) for name in ("exec_steps", "num_steps") if getattr(options, name)}
        policy.spec, policy.without_state = replace(policy.spec, **steps), options.without_state
        policy.let_train(options.train, language=options.language, lora=lora)
        policy.cast(options.dtype)
        if saved:
            # What is trained was chosen before, since it takes the weights in float32.
            policy._fill(read_saved(folder, config), lora or LoraTargets(()), source=folder)
        return policy.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy with its adapters, whole or not at all; `prophrl_algos.load_policy` reads it."""
        lora = None if self.lora is None else asdict(self.lora)
        said = {"model_type": f"prophrl-{self.FAMILY}", **self.describe(), "lora": lora}
        with saving(Path(folder), said, self.state_dict()) as new:
            self.save_tokenizer(new)

    def load_weights(self, state: Mapping[str, Tensor], *, source: object) -> None:
        """Load weights of this family's `state_dict`, whatever was trained of them."""
        own = () if self.lora is None else self.lora.parts
        self._fill(state, LoraTargets(self.LORA.parts + self.LANGUAGE_LORA + own), source=source)

    def let_train(self, train: str, *, language: bool = False, lora: LoraTargets | None = None) -> None:
        """Let what is trained require a gradient, in float32; `lora` replaces the family's own adapters, or stays."""
        network, unread = self.get_submodule(self.NETWORK), self.unread()
        if train == "lora" or (train == "none" and lora is not None):
            more = self.LANGUAGE_LORA if language else ()
            self.lora = lora or replace(self.LORA, parts=self.LORA.parts + more)
            add_lora(network, self.lora)
        for name, weight in network.named_parameters():
            if train != "lora":
                weight.requires_grad = train == "full" or (train == "expert" and not name.startswith(self.BACKBONE))
            # A weight without a gradient would only be moved by weight decay.
            if unread.match(name):
                weight.requires_grad = False
            if weight.requires_grad:
                weight.data = weight.data.float()

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
        if "state" not in env_obs:
            raise ValueError(
                f"this policy reads {numbers} numbers of the robot's state, the observation has {sorted(env_obs)}: "
                "take an env that gives 'state', as LIBERO-* with cameras=('agentview', 'wrist'), or load it with "
                "LoadOptions(without_state='mean')"
            )
        given = as_array(env_obs["state"])
        if given.dtype.kind not in "fiub" or given.shape != (rows, numbers):
            raise ValueError(
                f"observation['state'] must be ({rows}, {numbers}) numbers, got {given.dtype} {given.shape}"
            )
        if not np.isfinite(given).all():
            row, number = np.argwhere(~np.isfinite(given))[0]
            raise ValueError(
                f"observation['state'] must be finite, number {number} of batch element {row} is {given[row, number]}"
            )
        return self.state_scale.normalise(torch.from_numpy(np.ascontiguousarray(given)).float())

    def encode(self, obs: Obs, *, grad: bool) -> Context:
        """Return what `velocity` reads of images, prompt and state."""
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return self.context(obs)

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the velocity on the real dimensions."""
        # Padded dimensions are noised like the others, since the network reads them, but they are not scored.
        x0 = F.pad(self.latents(actions.to(device_of(self))), (0, self.spec.latent_dim - self.spec.action_dim))
        x, t, velocity = flow_targets(x0, self.DRAWS, generator, least=self.LEAST_TIME)
        context, real = self.encode(obs, grad=True), (..., slice(self.spec.action_dim))
        found = self.velocity(context if self.DRAWS == 1 else context.repeat_interleave(self.DRAWS), x, t)
        return F.mse_loss(found[real], velocity[real])

    def latents(self, actions: Float[Tensor, "b h a"]) -> Float[Tensor, "b h a"]:
        """Return demonstrated actions as normalised actions of the policy."""
        return self.action_scale.normalise(env_to_policy(actions.float(), self.convention))

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Return the executed actions in the env's units."""
        del obs
        latents = x0[:, : self.spec.exec_steps, : self.spec.action_dim].float()
        return policy_to_env(self.action_scale.undo(latents), self.convention)

    def _fill(self, state: Mapping[str, Tensor], targets: LoraTargets, *, source: object) -> None:
        network = self.get_submodule(self.NETWORK)
        own = {name.removeprefix(f"{self.NETWORK}."): tensor for name, tensor in state.items()}
        load_strictly(network, fitted(own, network, targets, source=source), source=source)
