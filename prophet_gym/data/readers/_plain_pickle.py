"""Pickles of arrays and containers, read without executing anything that is in them.

BRIDGE is published as pickles (`obs_dict.pkl`, `policy_out.pkl`, `out.npy`). `pickle.load` calls whatever a file names;
here a file may name numpy's arrays, scalars and types alone, as docs.python.org/3/library/pickle.html advises
("Restricting Globals").
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from prophet_gym._io.files import reading, require_file

# The functions by which numpy rebuilds what it pickles: their modules are called otherwise from release to release.
_NUMPY: dict[str, Any] = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


def _latin1(text: str, encoding: str) -> bytes:
    """Return the bytes that a text stands for: pickles of protocols before 3 hold bytes so."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes a text as {encoding}")
    return text.encode(encoding)


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays and plain containers are read")


def load_pickle(path: Path) -> Any:
    """Return what a pickle holds; ValueError for one that is cut or names anything but arrays and containers."""
    return _load(path, lambda file: _Plain(file).load())


def load_object_array(path: Path) -> list[Any]:
    """Return the objects of an `.npy` file that `numpy.save` wrote of a list; ValueError as `load_pickle`'s."""
    found = _load(path, _objects)
    if found.ndim != 1 or found.dtype.kind != "O":
        raise ValueError(f"{path} must hold a list of objects, holds {found.dtype} {found.shape}; name another")
    return found.tolist()


def _objects(file: BinaryIO) -> np.ndarray:
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    _, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise ValueError(f"its numbers are {dtype}")
    return _Plain(file).load()


def _load(path: Path, read: Callable[[BinaryIO], Any]) -> Any:
    require_file(path)
    with reading(f"{path} must be a whole pickle of arrays", "fetch it again"), path.open("rb") as file:
        return read(file)
