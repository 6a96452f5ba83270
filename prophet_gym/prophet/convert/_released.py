"""Make a checkpoint's folder of released files, which are mapped rather than read, and never hold more than tensors."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophet_gym._checks import listed
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import misfits
from prophet_gym._io.files import reading
from prophet_gym._io.header import CONFIG
from prophet_gym._io.hub import WAN_VAE, WAN_VAE_FILES, fetch, parse_hub_name
from prophet_gym._io.networks import WEIGHTS_NAME
from prophet_gym._io.tensor_files import read_tensors
from prophet_gym.embodiments import get_embodiment
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, WanAutoencoder
from prophet_gym.prophet._base import save_parts
from prophet_gym.prophet._full import FullConfig, FullProphet, require_fit
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.prophet.convert._layout import convert_transformer, is_counter, without_text

_PIXELS_PER_TOKEN = 16  # the VAE's 8 times the patch's 2
_SMALLEST_SIDE = 64  # the VAE's 8 times the coarsest pool of the history
# Rises when a checkpoint that was converted earlier would be another now.
_CACHED_LAYOUT = 1


def read_released(path: str | os.PathLike) -> dict[str, Tensor]:
    """Map the weights of a released `.pt` or `.safetensors` file into memory; counters and caches are left out."""
    tensors = {key: value for key, value in read_tensors(path).items() if not is_counter(key)}
    kinds = [f"{key} ({value.dtype})" for key, value in tensors.items() if not value.is_floating_point()]
    if kinds:
        raise CheckpointError(f"{path} must hold floating-point weights, got {listed(kinds)}")
    uneven = [key for key, value in tensors.items() if not value.is_contiguous()]
    if uneven:
        raise CheckpointError(f"{path} must hold plain contiguous tensors, which {listed(uneven)} are not")
    shared = _shared(tensors)
    if shared:
        raise CheckpointError(
            f"{path} has tensors that share memory ({listed(shared)}), so that one change would be two: save each by "
            "itself, torch.save({name: tensor.clone() for name, tensor in state.items()}, FILE)"
        )
    if sum(value.numel() * value.element_size() for value in tensors.values()) > Path(path).stat().st_size:
        raise CheckpointError(f"the tensors of {path} claim more bytes than the file has")
    return tensors


def _shared(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that begin at the same place of the same memory as another one."""
    names: dict[int, list[str]] = {}
    for name, value in tensors.items():
        if value.numel():
            names.setdefault(value.data_ptr(), []).append(name)
    return [name for together in names.values() if len(together) > 1 for name in together]


@dataclass(frozen=True)
class Conversion:
    """Hold the choices there are when a released file is converted."""

    frame_size: tuple[int, int] | None = None  # the robot's own if not given
    action_dim: int | None = None  # of a model action; the layout's own if not given
    # The cross-attentions, a fifth of the weights, which put out zero while text is off.
    keep_text: bool = True
    embodiment: str = "libero"
    draw_tools: bool = False


def converted(source: Path, embodiment: str, cache: Path) -> Path:
    """Return the checkpoint folder of a released file with the public Wan VAE, made in `cache` when first asked for."""
    stat = source.stat()
    key = hashlib.sha256(f"{_CACHED_LAYOUT} {source.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    folder = cache / "converted" / f"{source.stem}-{embodiment}-{key[:16]}"
    if (folder / CONFIG).is_file():
        return folder
    vae = fetch(parse_hub_name(WAN_VAE), only=WAN_VAE_FILES)
    # Another process may write the same there: whichever ends last replaces every file by one of equal content.
    _convert(source, folder, vae, Conversion(keep_text=False, embodiment=embodiment))
    return folder


def convert_file(source: str | os.PathLike, target: str | os.PathLike, vae: Path | None, how: Conversion) -> FullConfig:
    """Write the checkpoint folder of a released file; after an error nothing is there.

    The weights keep their dtype. They pass from the mapped source to the new file, so memory holds little more than the
    pages of the source. Without the folder of a Wan VAE, `autoencoder` is left out.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} holds something already; give a new or empty folder")
    return _convert(Path(source), target, vae, how)


def _convert(source: Path, target: Path, vae: Path | None, how: Conversion) -> FullConfig:
    tensors = read_released(source)
    transformer, state = convert_transformer(tensors, how.action_dim)
    if not how.keep_text:
        transformer, state = without_text(transformer, state)
    config = _full_config(transformer, how)
    with torch.device("meta"):
        empty = ProphetTransformer3DModel(**transformer)
    require_fit(config, empty.config)
    parts: dict[str, Any] = {"transformer": (state, empty)}
    if vae is not None:
        parts["autoencoder"] = _read_vae(vae)
    with atomic_directory(target, last=CONFIG) as temporary:
        save_parts(temporary, FullProphet.__name__, config, parts)
    return config


def _full_config(transformer: Mapping[str, Any], how: Conversion) -> FullConfig:
    """Return the config of a checkpoint with this transformer; raise CheckpointError if chunk or frame size is odd."""
    robot = get_embodiment(how.embodiment)
    chunk, frame_size = transformer["actions_per_slot"], how.frame_size or robot.frame_size
    if chunk % FRAMES_PER_LATENT:
        raise CheckpointError(
            f"the chunk of {chunk} actions of {transformer['action_dim']} numbers is no multiple of "
            f"{FRAMES_PER_LATENT}; give the action_dim that the model was trained with"
        )
    if any(side < _SMALLEST_SIDE or side % _PIXELS_PER_TOKEN for side in frame_size):
        raise CheckpointError(
            f"frame_size must be multiples of {_PIXELS_PER_TOKEN} of at least {_SMALLEST_SIDE}, got {frame_size}"
        )
    suite = FullConfig.suite if robot.name == "libero" else robot.name
    return FullConfig(
        chunk=chunk,
        frame_size=frame_size,
        action_dim=robot.action_spec.dim,
        embodiment=robot.name,
        draw_tools=how.draw_tools,
        suite=suite,
    )


def _read_vae(source: Path) -> tuple[dict[str, Tensor], WanAutoencoder]:
    """Return the weights of the Wan VAE and its network without weights, after a look at its architecture."""
    folder = source / "vae" if (source / "vae" / "config.json").is_file() else source
    if not (folder / "config.json").is_file():
        raise MissingWeightsError(f"no Wan VAE at {source}: it must hold config.json, or a subfolder vae that does")
    weights = read_released(folder / WEIGHTS_NAME)
    advice = "it is damaged or cut, fetch it again"
    with reading(f"cannot read {folder / 'config.json'}", advice, CheckpointError), torch.device("meta"):
        settings: Any = WanAutoencoder.load_config(folder, local_files_only=True)
        empty: Any = WanAutoencoder.from_config(settings)
    wrong = misfits(empty.state_dict(), weights)
    if wrong or not empty.normalisation_fits():
        reason = wrong or "latents_mean and latents_std do not fit"
        raise CheckpointError(f"{folder} is no Wan VAE of its own config: {reason}")
    return weights, empty
