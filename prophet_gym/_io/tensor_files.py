"""Weights and training states on a disk: never more than tensors and plain data, never NaN, never more than the file.

Everything that reads weights reads them here, so that one check holds for all: nothing of a file is executed, a small
file cannot unpack to a large one, and damaged weights are refused before a model computes with them.
"""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prophet_gym._checks import first_line, listed, shown
from prophet_gym._io.atomic import atomic_file
from prophet_gym._io.files import refuse_pointer
from prophet_gym.errors import CheckpointError, MissingWeightsError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
# Key of a safetensors header, and of the JSON file beside that says which weights belong to it: a sum of both.
MARK = "save"
# What distributed training and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")
# What files of torch before 1.6 begin with: a pickle of torch.serialization.MAGIC_NUMBER.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

Value = TypeVar("Value")


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the state dict of a `.safetensors`, `.pt`, `.pth` or `.bin` file, mapped into memory, on the CPU.

    A missing file raises MissingWeightsError, one with anything but plain tensors of finite numbers CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"no weights at {path}; give a .pt or .safetensors file")
    refuse_pointer(path, CheckpointError)
    if path.suffix == ".safetensors":
        try:
            content: object = load_file(path)
        except Exception as error:  # whatever a damaged header makes the reader raise
            raise _unreadable(path, error) from error
    elif path.suffix in TORCH_SUFFIXES:
        content = read_torch(path)
    else:
        raise CheckpointError(f"{path} must end in .safetensors, {', '.join(TORCH_SUFFIXES)}")
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} must hold a state dict (names -> tensors), got {type(content).__name__}")
    wrong = [
        f"{shown(key)} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)
    ]
    if wrong:
        raise CheckpointError(f"{path} must hold tensors alone, got {listed(wrong)}")
    tensors: dict[str, Tensor] = dict(content)
    # One that repeats a stored number a billion times is small in a file, and fills the memory when it is copied.
    odd = [name for name, value in tensors.items() if not _is_plain(value)]
    if odd:
        raise CheckpointError(f"{path} must hold plain contiguous tensors, which {listed(odd)} are not")
    require_finite(tensors, path)
    return tensors


def read_torch(path: str | os.PathLike, device: torch.device | str = "cpu") -> object:
    """Return what `torch.save` wrote, tensors and plain data, with every entry's checksum compared.

    On the CPU its tensors are mapped, not read. A missing file raises FileNotFoundError, any other one CheckpointError.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    refuse_pointer(path, CheckpointError)
    try:
        _require_stored(path)
        return torch.load(path, map_location=device, mmap=torch.device(device).type == "cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        # Without torch's own message, which advises to unpickle it all the same.
        raise CheckpointError(
            f"{path} holds objects other than tensors, which are never unpickled, or it is damaged; give "
            "a file of tensors alone, or .safetensors"
        ) from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise _unreadable(path, error) from error


def write_torch(content: object, path: Path) -> None:
    """Write what `read_torch` reads: whole or not at all."""
    with atomic_file(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch says of a full disk no more than that a position is unexpected
            raise OSError(f"cannot write {path}: {shown(str(error))}; is the disk full?") from error


def write_tensors(state: Mapping[str, Tensor], path: Path, mark: str | None = None) -> None:
    """Write a state dict as safetensors, as diffusers loads it, with the mark of the whole save if there is one."""
    require_finite(state, path, why="cannot be written")
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry alone, since safetensors writes several in another order every time: same weights, same bytes.
    metadata = {"format": "pt"} if mark is None else {MARK: mark}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata=metadata)


def read_mark(path: Path) -> str | None:
    """Return the mark of the save that wrote a safetensors file; None for a file without one."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(MARK)
    except Exception as error:  # whatever a damaged header makes the reader raise
        raise _unreadable(path, error) from error


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of safetensors bytes: the library reads them from files alone."""
    # The JSON header follows its own length in 8 bytes.
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def unwrapped(state: Mapping[str, Value]) -> dict[str, Value]:
    """Return a state dict without the prefixes that wrappers around the model put before every name."""
    found = dict(state)
    # Compiling inside of data parallelism puts two of them before every name.
    while prefix := next((each for each in _WRAPPERS if found and all(n.startswith(each) for n in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def mark_of(*parts: Mapping[str, Tensor] | str) -> str:
    """Return the mark of what a save writes, state dicts and texts of configs: a sum, the same for the same content."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
            continue
        for name, tensor in sorted(part.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def require_mark(path: Path, mark: str | None, source: Path) -> None:
    """Raise CheckpointError unless a safetensors file, read before, is of the save that `source` names."""
    if read_mark(path) != mark:
        raise CheckpointError(
            f"{path} and {source} are of two different saves: another process is saving there, or one was killed "
            "while it did; save the checkpoint again"
        )


def require_finite(tensors: Mapping[str, Tensor], source: object, *, why: str = "is damaged") -> None:
    """Raise CheckpointError if a number is NaN or infinite; names the tensors."""
    broken = [name for name, value in tensors.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(f"{source} {why}: {listed(broken)} hold numbers that are not finite (NaN or infinity)")


def _require_stored(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    if start == _LEGACY:
        raise CheckpointError(
            f"{path} is in the format of torch before 1.6, which cannot be checked: write it again, "
            "torch.save(torch.load(FILE, weights_only=True), FILE)"
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError(f"{path} unpacks to more than its own size, which torch.save never writes")
        changed = archive.testzip()
    if changed is not None:
        raise CheckpointError(
            f"{path} is damaged: the checksum of its entry {shown(changed)} differs; fetch or save it again"
        )


def _is_plain(value: Tensor) -> bool:
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type == "meta":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    wide = value.float() if value.element_size() < 2 else value  # eight bits have no order of their own
    # NaN is both the least and the greatest. One pass, at the speed of reading, in every dtype.
    least, greatest = wide.aminmax()
    return bool(least.isfinite() and greatest.isfinite())


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot read {path}: {first_line(error)}; it is damaged or cut, fetch or save it again")
