"""What the small and the full Prophet share: checks of what they are given, and how they are saved and loaded."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym._batches import batch_size
from prophet_gym._checks import shown
from prophet_gym._io.atomic import atomic_directory, read_whole
from prophet_gym._io.companions import CARD, card, carry_companions, is_ours
from prophet_gym._io.configs import config_of, keys_of
from prophet_gym._io.engine import Run, make_engine
from prophet_gym._io.header import CLASS, CONFIG, Header, read_header, write_header
from prophet_gym._io.hub import push_folder, resolve
from prophet_gym._io.lora import load_lora, merge_lora
from prophet_gym._io.networks import WEIGHTS_NAME, load_part, stored
from prophet_gym._io.processor import reuse_memory
from prophet_gym._io.progress import progress
from prophet_gym._io.tensor_files import mark_of, require_mark, write_tensors
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet._diffusers import ModelMixin
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.world_model import Chunk, State

_Model = TypeVar("_Model", bound="Prophet")


class Prophet(nn.Module):
    """Simulate a robot: `Prophet.from_pretrained` returns the small or the full one, whichever a checkpoint names."""

    config_class: ClassVar[type]
    # The name of each network, which is its folder in a checkpoint, and its class.
    networks: ClassVar[Mapping[str, type]]
    # The networks that `offload_autoencoder` keeps on the CPU.
    offloaded: ClassVar[tuple[str, ...]] = ()
    only_dtype: ClassVar[torch.dtype | None] = None

    config: Any
    transformer: ProphetTransformer3DModel
    autoencoder: Any
    # The folder that the model was loaded from, whose companions a save takes along.
    source: Path | None = None
    _engine: Run | None = None

    def __init__(self, config: Any, **networks: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.chunk, self.frame_size, self.action_dim = config.chunk, config.frame_size, config.action_dim
        for name, kind in self.networks.items():
            if not isinstance(networks[name], kind):
                raise TypeError(
                    f"the {name} of a {type(self).__name__} must be a {kind.__name__}, "
                    f"got {type(networks[name]).__name__}"
                )
            setattr(self, name, networks[name])
        self.eval().requires_grad_(requires_grad=False)

    def use_engine(self, name: str) -> None:
        """Choose what runs the transformer in dreams: `auto`, `eager` (PyTorch), `compiled` or `openvino`.

        Dreams of two engines differ by the rounding of float32.

        Raises:
            UnknownOptionError: There is no such engine, or OpenVINO is not installed.
        """
        self._engine = make_engine(self.transformer, name)

    @property
    def _network(self) -> Run:
        return self._engine or self.transformer

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Begin a dream from one to four real frames, oldest first; before them the first one is repeated.

        Raises:
            ValueError: The frames have another size than the checkpoint's.
            InvalidStartError: The checkpoint must know where the tools are: use `encode_initial_states`.
        """
        return self._begin(self._checked_frames(frames))

    @torch.no_grad()
    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Dream one chunk.

        Args:
            state: From `encode` or the chunk before.
            actions: In the units of the checkpoint's robot.
            generators: One CPU generator per batch element; element i draws from its own only.

        Raises:
            ValueError: The actions have another shape than `b chunk action_dim`, or there is another number of
                generators.
        """
        self._require_actions(state, actions, generators)
        return self._dream(state, actions, generators)

    def _require_actions(self, state: State, actions: Tensor, generators: Sequence[torch.Generator]) -> None:
        wanted = (batch_size(state), self.chunk, self.action_dim)
        if tuple(actions.shape) != wanted or len(generators) != wanted[0]:
            raise ValueError(
                f"actions must have shape {wanted} with one generator for each batch element, "
                f"got {tuple(actions.shape)} and {len(generators)} generators"
            )

    def _begin(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        raise NotImplementedError

    def _dream(self, state: State, actions: Float[Tensor, "b k a"], generators: Sequence[torch.Generator]) -> Chunk:
        raise NotImplementedError

    def save_pretrained(self, folder: str | os.PathLike, *, half: bool = True) -> None:
        """Write the checkpoint: `prophet.json` and one diffusers folder per network, whole or not at all.

        A model that `from_pretrained` loaded takes along what its checkpoint has beside the networks (initial states,
        success head, object reader), so that `gym.make(weights=folder)` works. A model card lists them.

        Args:
            folder: Target. Parts of an earlier checkpoint there are replaced, other files kept.
            half: Whether to store weights as float16 (they are computed in float32 on a CPU) or in their own dtype.

        Raises:
            CheckpointError: A number is not finite, or too large for float16.
        """
        self._save(Path(folder), half=half, repo=None)

    def push_to_hub(
        self, repo: str, *, revision: str | None = None, private: bool | None = None, half: bool = True
    ) -> str:
        """Upload the checkpoint with a manifest of its files, and return the address of the commit.

        Args:
            repo: `owner/repo`, created if it does not exist.
            revision: Branch to write to, created if it does not exist; the main one if not given.
            private: Whether a new repository is private; the account's default if not given.
            half: As in `save_pretrained`.

        Raises:
            MissingWeightsError: The Hub cannot be reached or does not let this account write there.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), half=half, repo=repo)
            return push_folder(Path(folder), repo, revision=revision, private=private)

    def _save(self, target: Path, *, half: bool, repo: str | None) -> None:
        parts = {name: (stored(getattr(self, name), half=half), getattr(self, name)) for name in self.networks}
        with atomic_directory(target, last=CONFIG) as temporary:
            save_parts(temporary, type(self).__name__, self.config, parts)
            companions = carry_companions(self.source, target, temporary)
            if is_ours(target / CARD):
                name = repo or "path/to/this/folder"
                text = card(name, source=self.source, companions=companions, config=self.config)
                (temporary / CARD).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        offload_autoencoder: bool = False,
        lora: str | os.PathLike | None = None,
    ) -> _Model:
        """Load what `save_pretrained`, `push_to_hub` or `prophet convert` wrote.

        Args:
            source: Local folder, or `owner/repo` of the Hub.
            revision: Branch, tag or commit of the Hub repository.
            device: Where the networks go.
            dtype: Of the computation; the small Prophet knows float32 alone.
            offload_autoencoder: Keep the full Prophet's VAE on the CPU and move it to the device while it works.
            lora: Adapters that were trained on this checkpoint, to be merged into it: local folder, or `owner/repo`.

        Raises:
            ValueError: The small Prophet does not know the dtype.
            MissingWeightsError: There is no such folder, and nothing of that name on the Hub.
            CheckpointError: The folder is of another class, or a file of it is missing, truncated or does not fit.
        """
        if torch.device(device).type == "cpu":
            reuse_memory()
        folder = _local_folder(source, revision, needs=CONFIG)
        adapters = None if lora is None else _local_folder(lora, None)

        def load() -> _Model:
            # The header is read first and the parts' marks last: whatever is renamed in between is seen.
            header = read_header(folder)
            kind, config = cls._kind_of(header, folder)
            if kind.only_dtype not in (None, dtype):
                raise ValueError(f"a {kind.__name__} computes in {kind.only_dtype}, got dtype={dtype}")
            rests = kind.offloaded if offload_autoencoder else ()
            parts = {
                name: load_part(network, folder / name, device="cpu" if name in rests else device, dtype=dtype)
                for name, network in kind.networks.items()
            }
            for name in parts:
                require_mark(folder / name / WEIGHTS_NAME, (header.marks or {}).get(name), folder / CONFIG)
            if adapters is not None:
                load_lora(parts["transformer"], adapters)
                merge_lora(parts["transformer"])
            try:
                prophet = kind(**parts, config=config)
            except CheckpointError as error:
                raise CheckpointError(f"{folder}: {error}") from error
            prophet.source = folder
            return prophet

        return read_whole(folder, load, last=CONFIG)

    @classmethod
    def _kind_of(cls, header: Header, folder: Path) -> tuple[Any, Any]:
        """Return the class and the config that a header names; raise CheckpointError unless it is of this class."""
        found: list[Any] = [cls]
        for kind in found:
            found.extend(kind.__subclasses__())
        kinds = {kind.__name__: kind for kind in found if hasattr(kind, "networks")}
        if header.class_name not in kinds:
            given = shown(repr(header.class_name))
            raise CheckpointError(f"{folder / CONFIG}: {CLASS} must be one of {', '.join(sorted(kinds))}, got {given}")
        kind = kinds[header.class_name]
        try:
            return kind, config_of(kind.config_class, header.config)
        except (TypeError, AttributeError, ValueError) as error:
            keys = keys_of(kind.config_class)
            raise CheckpointError(f"{folder / CONFIG} must be JSON with the keys {keys}: {error}") from error

    def _checked_frames(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return the frames on the model's device; raise ValueError unless they have its size."""
        if tuple(frames.shape[2:4]) != self.frame_size:
            raise ValueError(
                f"frames must be {self.frame_size} pixels, got {tuple(frames.shape[2:4])}; resize them first"
            )
        return frames.to(next(self.transformer.parameters()).device)


def save_parts(
    folder: Path, class_name: str, config: Any, parts: Mapping[str, tuple[Mapping[str, Tensor], ModelMixin]]
) -> None:
    """Write a checkpoint's own files into a folder of `atomic_directory`, each with the mark of this save.

    Of each part there are the weights, and the network whose config it has.
    """
    marks = {}
    with progress(None, "save", total=2 * len(parts), unit="pass", passing=True) as bar:  # every weight is read twice
        for name, (state, part) in parts.items():
            marks[name] = mark_of(state, part.to_json_string())
            bar.update()
        for name, (state, part) in parts.items():
            part.save_config(folder / name)
            write_tensors(state, folder / name / WEIGHTS_NAME, marks[name])
            bar.update()
    write_header(folder, class_name, asdict(config), marks)


def _local_folder(source: str | os.PathLike, revision: str | None, needs: str | None = None) -> Path:
    """Return the folder itself, or that of a Hub repository, which must have the file `needs`."""
    folder = Path(source).expanduser()
    if isinstance(source, str) and not folder.exists():
        return resolve(source if revision is None else f"{source}@{revision}", {}, needs=needs)
    if revision is not None:
        raise CheckpointError(f"revision={revision!r} is for Hub repositories, and {folder} is a local folder")
    return folder
