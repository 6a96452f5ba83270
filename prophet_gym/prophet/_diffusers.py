"""Import the parts of diffusers that Prophet is made of, without what diffusers loads beside them.

Imported as they stand, they bring peft, torch._dynamo, transformers' image processors and all other transformers of
diffusers: a large part of the CPU time from `import` to the first step. While they are imported here, stand-ins take
the place of those modules. Afterwards every name of diffusers means what it always does, for us and for everyone else
in the process: the modules that were loaded on stand-ins are copies of our own, and we use their layers alone.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

_DYNAMO = "torch._dynamo"
_HOOKS = "diffusers.hooks.group_offloading"
_Light = TypeVar("_Light", bound="LightModelMixin")


class _StandIn(ModuleType):
    """Stand in for a module: have some names at once, and import the real module for any other."""

    def __init__(self, name: str, **contents: Any) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        self.__dict__.update(contents)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _Mixins(ModuleType):
    """Replace diffusers' loaders of whole models, which the blocks do not need: every name is an empty class."""

    __spec__ = importlib.util.spec_from_loader("diffusers.loaders", loader=None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _standing_in(*modules: ModuleType) -> Iterator[None]:
    """Put modules where those of their names would be imported; what is imported already stays."""
    added = {module.__name__: module for module in modules if module.__name__ not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _decorate_nothing(decorated: Any) -> Any:
    """Stand for `allow_in_graph`: a decorated class may be constructed by a compiled function, which none here is."""
    return decorated


def _allow_in_graph(decorated: Any) -> Any:
    """Do what `torch._dynamo.allow_in_graph` does; torch._dynamo is imported when something is decorated."""
    return importlib.import_module(_DYNAMO).allow_in_graph(decorated)


_dynamo = _StandIn(_DYNAMO, allow_in_graph=_decorate_nothing)
with _standing_in(_dynamo):
    import diffusers.models
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.utils import torch_utils

_root = diffusers.__path__[0]
_packages = {f"diffusers.models.{kind}": f"{_root}/models/{kind}" for kind in ("autoencoders", "transformers", "unets")}
_before = set(sys.modules)
with _standing_in(
    _dynamo, _Mixins("diffusers.loaders"), *(_StandIn(name, __path__=[path]) for name, path in _packages.items())
):
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_cosmos import (
        CosmosAdaLayerNorm,
        CosmosEmbedding,
        CosmosPatchEmbed,
        CosmosRotaryPosEmbed,
        CosmosTransformerBlock,
    )

if torch_utils.maybe_allow_in_graph is _decorate_nothing:
    torch_utils.maybe_allow_in_graph = _allow_in_graph
for _name in set(sys.modules) - _before:
    # Whole models have stand-ins among their bases here: whoever imports them next makes others.
    if _name.startswith(tuple(_packages)):
        del sys.modules[_name]


class LightModelMixin(ModelMixin):
    """Be diffusers' ModelMixin, but import its hooks, and with them peft, only where a hook can have been set."""

    @property
    def device(self) -> torch.device:
        """Return the device of the weights, or that to which diffusers' group offloading brings them."""
        if _HOOKS in sys.modules:
            return super().device
        return next(self.parameters()).device

    def to(self: _Light, *args: Any, **kwargs: Any) -> _Light:
        """Move or convert the weights, as `torch.nn.Module.to` does."""
        if _HOOKS in sys.modules or getattr(self, "hf_quantizer", None) is not None:
            return super().to(*args, **kwargs)
        nn.Module.to(self, *args, **kwargs)
        return self


__all__ = [
    "AutoencoderKLWan",
    "ConfigMixin",
    "CosmosAdaLayerNorm",
    "CosmosEmbedding",
    "CosmosPatchEmbed",
    "CosmosRotaryPosEmbed",
    "CosmosTransformerBlock",
    "LightModelMixin",
    "ModelMixin",
    "apply_rotary_emb",
    "register_to_config",
]
