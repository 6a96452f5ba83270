"""Prophet: the world model of the figure, put together. Implements `WorldModel`."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory, read_whole
from prophet_gym._io.header import read_header
from prophet_gym.errors import CheckpointError
from prophet_gym.hub import push_folder, resolve
from prophet_gym.prophet.autoencoder import FrameAutoencoder
from prophet_gym.prophet.checkpoint import (
    CONFIG,
    load_part,
    read_config,
    recipe_of,
    require_same_save,
    save_parts,
    stored,
)
from prophet_gym.prophet.companions import CARD, card, carry_companions, is_ours
from prophet_gym.prophet.full import FullConfig
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.lora import load_lora, merge_lora
from prophet_gym.prophet.recipe import Networks, Recipe
from prophet_gym.prophet.small import ProphetConfig
from prophet_gym.prophet.transformer import ProphetTransformer3DModel
from prophet_gym.prophet.wan import WanAutoencoder
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State

__all__ = ["FullConfig", "Prophet", "ProphetConfig"]


class Prophet(nn.Module):
    """A learned simulator: frames in, then chunks of actions in and frames out.

    The small and the full Prophet are this class; what they do differently is the recipe that their config names.

    Args:
        transformer: predicts the flow of a chunk's latents.
        autoencoder: frames <-> latents.
        tracker: where the gripper is; the full Prophet has none.
        config: the rest.

    Example:
        >>> import torch
        >>> from prophet_gym.prophet.presets import tiny_prophet
        >>> prophet = tiny_prophet()
        >>> state = prophet.encode(torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))
        >>> chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator()])
        >>> chunk.frames.shape
        torch.Size([1, 8, 64, 64, 3])
    """

    source: Path | None = None
    """Folder of the checkpoint that the model was loaded from, whose companions a save takes along."""

    def __init__(
        self,
        transformer: ProphetTransformer3DModel,
        autoencoder: FrameAutoencoder | WanAutoencoder,
        tracker: GripperTracker | None,
        config: ProphetConfig | FullConfig,
    ) -> None:
        super().__init__()
        self.transformer, self.autoencoder, self.tracker = transformer, autoencoder, tracker
        self.config, self.recipe = config, recipe_of(config)
        self.chunk, self.frame_size, self.action_dim = config.chunk, config.frame_size, config.action_dim
        for name, kind in self.recipe.parts.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"the {self.recipe.name} Prophet's {name} must be a {kind.__name__}, "
                    f"got {type(getattr(self, name)).__name__}"
                )
        self.recipe.check(self.networks)
        self.eval().requires_grad_(requires_grad=False)

    @property
    def networks(self) -> Networks:
        """The networks by the name of their folder."""
        return {name: getattr(self, name) for name in self.recipe.parts}

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Begin a dream from one to four real frames, oldest first; before them the first one is repeated.

        Raises:
            ValueError: frames of another size than the checkpoint's.
            InvalidStartError: the checkpoint must know where the tools are: use `encode_initial_states`.
        """
        return self.recipe.begin(self.networks, self._checked(frames), None)

    @torch.no_grad()
    def encode_initial_states(self, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]) -> State:
        """Begin a dream as `encode`, from all that is read of the starts: frames and, for some checkpoints, poses.

        Args:
            frames: of the starts, one a row.
            starts: as many.

        Raises:
            ValueError: as `encode`.
            InvalidStartError: a start does not say where the tools are, or what camera looks on, and must.
        """
        if len(starts) != len(frames):
            raise ValueError(f"there must be one start for each of {len(frames)} rows, got {len(starts)}")
        return self.recipe.begin(self.networks, self._checked(frames), None, starts)

    @torch.no_grad()
    def resume(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"]) -> State:
        """Begin a dream in the middle of an episode: as `encode`, but any number of frames and a moving arm.

        Args:
            frames: real frames, oldest first; more than the model carries are left out.
            past_actions: the chunk of commands that led to the newest of them.
        """
        return self.recipe.begin(self.networks, self._checked(frames), past_actions)

    @torch.no_grad()
    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Dream one chunk.

        Args:
            state: from `encode` or the chunk before.
            actions: commands in the units of the checkpoint's robot.
            generators: one CPU generator per row; row i draws from its own only.

        Raises:
            ValueError: actions of another shape than `b chunk action_dim`, or not one generator per row.
        """
        rows = next(iter(state.values())).shape[0]
        if tuple(actions.shape) != (rows, self.chunk, self.action_dim) or len(generators) != rows:
            raise ValueError(
                f"actions must have shape {(rows, self.chunk, self.action_dim)} with one generator a row, "
                f"got {tuple(actions.shape)} and {len(generators)} generators"
            )
        return self.recipe.dream(self.networks, state, actions, generators)

    @property
    def cut(self) -> Callable[[State, Chunk, int], State]:
        """`cut(state, chunk, steps)`: the state after the first `steps` frames of a chunk dreamt from `state`.

        Only where the recipe can, as the full Prophet's. The commands of the frames cut off must have held the robot
        still: the poses of its tools are those of the chunk's end.
        """
        if not hasattr(self.recipe, "cut"):
            raise AttributeError("cut")
        return self.recipe.cut  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def read_gripper(self) -> Callable[[State], Float[Tensor, "b 3"]]:
        """The gripper's position (world metres) as tracked at a state's newest frame; only where there is a tracker."""
        if self.tracker is None:
            raise AttributeError("read_gripper")
        return lambda state: state["gripper"][:, -1, :3]

    @torch.no_grad()
    def see_gripper(self, frames: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3"]:
        """The gripper's position (world metres) as each frame alone shows it, dreamt or real, whatever the commands.

        Raises:
            ValueError: frames of another size than the checkpoint's, or the checkpoint has no tracker.
        """
        if self.tracker is None:
            raise ValueError("see_gripper needs a checkpoint with a tracker, as the bundled one has")
        latents = self.networks["autoencoder"].encode(self._checked(frames[:, None])[:, 0]).float()
        return self.tracker.read(latents)[:, :3]

    @torch.no_grad()
    def reconstruct(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return real frames through the autoencoder, as a dream would show them: the ceiling of any dream."""
        return self.recipe.reconstruct(self.networks, self._checked(frames))

    def save_pretrained(self, folder: str | os.PathLike, *, half: bool = True) -> None:
        """Write the checkpoint: `prophet.json` and one diffusers folder per network; whole or not at all.

        A model that `from_pretrained` loaded takes along what its checkpoint had beside the networks, so that
        `gym.make(weights=folder)` works: starts, success head and object reader. A card says what is whose.

        Args:
            folder: target; parts of an earlier checkpoint there are replaced, other files kept.
            half: store weights as float16 (they are computed in float32 on a CPU); otherwise in their own dtype.
        """
        self._save(Path(folder), half=half, repo=None)

    def _save(self, target: Path, *, half: bool, repo: str | None) -> None:
        parts = {name: (stored(part, half=half), part) for name, part in self.networks.items()}
        with atomic_directory(target, last=CONFIG) as temporary:
            save_parts(parts, self.config, temporary)
            carried = carry_companions(self.source, target, temporary)
            if is_ours(target / CARD):
                scene = (self.config.suite, self.config.look)
                text = card(repo or "path/to/this/folder", target, source=self.source, carried=carried, scene=scene)
                (temporary / CARD).write_text(text, encoding="utf-8")

    def push_to_hub(
        self, repo: str, *, revision: str | None = None, private: bool | None = None, half: bool = True
    ) -> str:
        """Upload the checkpoint with a manifest of its files; returns the address of the commit.

        Args:
            repo: `owner/repo`, created if it does not exist.
            revision: branch to write to, created if it does not exist; the main one if not given.
            private: whether a new repository is private; the account's default if not given.
            half: as in `save_pretrained`.

        Raises:
            MissingWeightsError: the Hub cannot be reached or does not let this account write there.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._save(Path(folder), half=half, repo=repo)
            return push_folder(Path(folder), repo, revision=revision, private=private)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        offload_autoencoder: bool = False,
        lora: str | os.PathLike | None = None,
    ) -> "Prophet":
        """Load what `save_pretrained`, `push_to_hub` or `prophet convert` wrote.

        Args:
            source: local folder, or `owner/repo` of the Hub.
            revision: branch, tag or commit of the Hub repository.
            device: where the networks go.
            dtype: of the computation; the small Prophet knows float32 alone.
            offload_autoencoder: keep the full Prophet's VAE on the CPU and move it to the device while it works.
            lora: adapters that `prophet pretrain` or `prophet adapt` wrote for this checkpoint, to be merged into it:
                local folder, or `owner/repo` of the Hub.

        Raises:
            ValueError: a dtype that the small Prophet does not know.
            MissingWeightsError: no folder, and nothing of that name on the Hub.
            CheckpointError: the folder or a file of it is missing, truncated or of another architecture.
        """
        folder = _local_folder(source, revision, needs=CONFIG)
        adapters = None if lora is None else _local_folder(lora, None)

        def load() -> "Prophet":
            return cls._load(folder, torch.device(device), dtype, adapters, offload_autoencoder=offload_autoencoder)

        return read_whole(folder, load)

    @classmethod
    def _load(
        cls,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        adapters: Path | None,
        *,
        offload_autoencoder: bool,
    ) -> "Prophet":
        # The marks first and the parts' own last: whatever is renamed in between is seen.
        marks, config = read_header(folder).marks, read_config(folder)
        if isinstance(config, ProphetConfig) and dtype != torch.float32:
            raise ValueError(f"the small Prophet computes in float32, got dtype={dtype}")
        parts: dict[str, Any] = {"tracker": None}
        kinds = _recipe_of_file(config, folder).parts
        for name, kind in kinds.items():
            rests = offload_autoencoder and name == "autoencoder" and isinstance(config, FullConfig)
            place = torch.device("cpu") if rests else device
            parts[name] = load_part(kind, folder / name, device=place, dtype=dtype)
        require_same_save(folder, kinds, marks)
        if adapters is not None:
            load_lora(parts["transformer"], adapters)
            merge_lora(parts["transformer"])
        try:
            prophet = cls(**parts, config=config)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        prophet.source = folder
        return prophet

    def _checked(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        if tuple(frames.shape[2:4]) != self.frame_size:
            raise ValueError(
                f"frames must be {self.frame_size} pixels, got {tuple(frames.shape[2:4])}; resize them first"
            )
        return frames.to(next(self.transformer.parameters()).device)


def _recipe_of_file(config: ProphetConfig | FullConfig, folder: Path) -> Recipe:
    try:
        return recipe_of(config)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be used: {error}") from error


def _local_folder(source: str | os.PathLike, revision: str | None, needs: str | None = None) -> Path:
    """The folder itself, or that of a Hub repository, which must have the file `needs`."""
    folder = Path(source).expanduser()
    if isinstance(source, str) and not folder.exists():
        return resolve(source if revision is None else f"{source}@{revision}", {}, needs=needs)
    if revision is not None:
        raise CheckpointError(f"revision={revision!r} is for Hub repositories, and {folder} is a local folder")
    return folder
