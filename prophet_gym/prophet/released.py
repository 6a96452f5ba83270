"""Released files on a disk -> tensors, mapped rather than read, and never more than tensors."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.prophet.convert import is_counter

TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Map the tensors of a `.pt` or `.safetensors` file into memory; counters and caches are left out.

    Nothing of the file is executed: a `.pt` is read with `weights_only=True`, and one that unpacks to more than its own
    size is refused.

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointError: it is no such file, damaged, or holds something else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"no weights at {path}; give a .pt or .safetensors file")
    if path.suffix == ".safetensors":
        content = _guarded(path, lambda: load_file(path))
    elif path.suffix in TORCH_SUFFIXES:
        content = _guarded(path, lambda: _load_torch(path))
    else:
        raise CheckpointError(f"{path} must end in .safetensors, {', '.join(TORCH_SUFFIXES)}")
    return _only_tensors(path, content)


def _guarded(path: Path, load: Callable[[], object]) -> object:
    try:
        return load()
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds objects other than tensors, which are never unpickled") from error
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(f"cannot read {path}: {reason}; it is damaged or cut, fetch it again") from error


def _load_torch(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} unpacks to more than its own size, which torch.save never writes")
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _only_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} must hold a state dict (names -> tensors), got {type(content).__name__}")
    tensors = {key: value for key, value in content.items() if not is_counter(key)}
    wrong = [f"{key} ({type(value).__name__})" for key, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path} must hold tensors alone, got {', '.join(wrong[:10])}")
    uneven = [k for k, v in tensors.items() if v.layout != torch.strided or not v.is_contiguous() or v.is_quantized]
    if uneven:
        raise CheckpointError(f"{path} must hold plain contiguous tensors, which {', '.join(uneven[:10])} are not")
    if sum(value.numel() * value.element_size() for value in tensors.values()) > path.stat().st_size:
        raise CheckpointError(f"the tensors of {path} claim more bytes than the file has")
    return tensors
