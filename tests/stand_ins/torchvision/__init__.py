"""Stands where lerobot and timm look for torchvision, whose build on PyPI does not match a CPU build of torch.

They import it and name its classes; no network of theirs that is tested here computes anything with it. Every submodule
can be imported, every name in it is an empty class, and whatever is asked of a class is a text.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__path__: list[str] = []


class _Named(type):
    """Of classes whose members (of an enumeration, as a rule) are their own names."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Submodules(MetaPathFinder, Loader):
    """Makes any `torchvision.x.y`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.startswith(f"{__name__}.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: _member(module.__name__, name)


def _member(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name.islower():
        return import_module(f"{module}.{name}")
    return _Named(name, (), {"__module__": module})


def __getattr__(name: str) -> Any:
    return _member(__name__, name)


sys.meta_path.append(_Submodules())
