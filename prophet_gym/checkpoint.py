"""A checkpoint: a name resolved once into a folder, and everything that an env or a command loads from that folder.

A checkpoint is a folder. `prophet.json` names the class of its world model; beside it lie the weights and, where there
are any, `starts/train/`, `starts/official/`, `success_head/` and `object_reader/`. Released files are converted into
such a folder when they are first asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch

from prophet_gym._checks import require_device, shown, unknown_option, warn
from prophet_gym._io.files import read_json, reading
from prophet_gym._io.header import CLASS, CONFIG, read_header
from prophet_gym._io.hub import PUBLISHED, PUBLISHED_FILES, published_file, resolve
from prophet_gym._registration import SUITES
from prophet_gym.embodiments import Robot, get_robot
from prophet_gym.envs._initial_states import INDEX_NAME, InitialStates, read_initial_states, read_jsonl_states
from prophet_gym.envs._plain import PathOrName, Tasks, plain, require_flag, require_tasks
from prophet_gym.envs._require import require_world_model
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards import ObjectReader
from prophet_gym.world_model import RewardModel, UsesEngine, WorldModel

__all__ = ["Checkpoint", "bundled_checkpoints", "register_world_model"]


_CHECKPOINTS = Path(__file__).parent / "checkpoints"
_DEFAULT_ROBOT = "libero"
_SPLITS = ("train", "official")
_DTYPES = ("float32", "bfloat16", "float16")

_CLASSES = ("SmallProphet", "TwoViewProphet", "ActionProphet", "FullProphet")
_WORLD_MODELS = {name: f"prophet_gym.prophet:{name}" for name in _CLASSES}


def register_world_model(name: str, location: str) -> None:
    """Let checkpoints whose `prophet.json` has this class be loaded by `weights=`.

    An installed package can do the same with an entry point of the group `prophet_gym.world_models`. Only registered
    classes are imported, whatever a checkpoint's folder says.

    The location is `module:Class`, a `WorldModel` with a class method `from_pretrained(folder, *, device, dtype)` that
    takes a `Path`, a string and a torch dtype. ValueError if it is not, or if the name stands for another class.
    """
    module, colon, attribute = location.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"a world model's class is given as 'module:Class', got {location!r}")
    if _WORLD_MODELS.setdefault(name, location) != location:
        raise ValueError(f"{name!r} is registered already, as {_WORLD_MODELS[name]}")


def bundled_checkpoints() -> dict[str, tuple[str, ...]]:
    """Return the names of the checkpoints installed with the package, and the suites that each covers."""
    return {path.parent.name: _covered_suites(path.parent) for path in sorted(_CHECKPOINTS.glob("*/starts"))}


@dataclass(frozen=True)
class Checkpoint:
    """Load a world model and all that belongs to it from a checkpoint folder.

    `Checkpoint.named` finds or fetches the folder. The methods load each object once per process: the same folder and
    options give the same object.

    Attributes:
        name: The name that it was found by, for messages.
        folder: Its folder.
        config: The contents of `prophet.json`, without the class, as plain data.
        class_name: The registered name of the world model's class.
        robot: The name of the embodiment whose actions it takes.

    Example:
        >>> checkpoint = Checkpoint.named("bundled")
        >>> checkpoint.robot, checkpoint.suites, checkpoint.world_model().frame_size
        ('libero', ('libero_object',), (128, 128))
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    class_name: str
    robot: str

    @classmethod
    def named(cls, weights: PathOrName = "bundled", robot: str | None = None) -> "Checkpoint":
        """Find the checkpoint of a name; fetch it from the Hub and convert it if necessary.

        The name is `bundled`, the name of another bundled checkpoint, the path of a checkpoint folder, a Hub repository
        that holds one (`owner/repo` or `owner/repo@revision`), or weights that the authors of ProphRL released
        (`Fleurrr/Prophet-World-Model`, or one of its files as `owner/repo:file.pt`).

        Raises:
            MissingWeightsError: No checkpoint has that name, it is of another robot, or it is a file to convert first.
            CheckpointError: Its `prophet.json` is damaged, or a file is not the one that its manifest names.
        """
        name = plain(weights)
        if not isinstance(name, str):
            raise MissingWeightsError(f"weights must be a name or the path of a folder, got {weights!r}")
        if name == "bundled" and robot not in (None, _DEFAULT_ROBOT):
            raise MissingWeightsError(
                f"the bundled weights are of {_DEFAULT_ROBOT}, not {robot}: pass {_published_weights(str(robot))}. "
                f"{_starts_advice(str(robot))}"
            )
        # The authors' repository holds a file for each robot, and only here is it known which one is meant.
        name = published_file(name, robot or _DEFAULT_ROBOT)
        # Resolved, so that two names of one folder share what is loaded.
        folder = _folder_of(name).resolve()
        header = read_header(folder)
        own = str(header.config.get("embodiment", _DEFAULT_ROBOT))
        if robot not in (None, own):
            hint = None if "action_names" in header.config else own
            raise MissingWeightsError(
                f"weights={name!r} are of {own}, not {robot}: pass embodiment={hint!r}, or "
                f"{_published_weights(str(robot))}"
            )
        return cls(name, folder, header.config, header.class_name, own)

    @cached_property
    def suites(self) -> tuple[str, ...]:
        """Return the suites that its own initial states cover."""
        return _covered_suites(self.folder)

    @property
    def embodiment(self) -> Robot:
        """Return the robot whose actions it takes: the one that its config describes, or else the one of its name."""
        with reading(f"{self.folder / CONFIG} is damaged", "save the checkpoint again", CheckpointError):
            described = Robot.described(self.config)
        return described or get_robot(self.robot)

    def world_model(
        self,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        *,
        offload: bool | np.bool_ = False,
        engine: str = "eager",
    ) -> WorldModel:
        """Load the world model to a device such as `cuda`, in `float32`, `bfloat16` or `float16`.

        `offload` keeps idle networks on the CPU, such as the full Prophet's VAE. `engine` is the library that runs
        the networks: `eager` (PyTorch), `compiled`, `openvino`, or `auto`, the fastest here.

        Raises:
            CheckpointError: Its class is not registered, or the weights are damaged.
            UnknownOptionError: There is no such device, dtype or engine.
        """
        kind = plain(dtype)
        if kind not in _DTYPES:
            raise unknown_option("dtype", dtype, _DTYPES)
        offload = require_flag("offload_autoencoder", offload)
        device = require_device("device", device, ("meta",))
        if engine == "auto" and device != "cpu":  # one copy of the weights for both names
            engine = "eager"
        return _world_model(self.folder, self.class_name, device, kind, offload=offload, engine=engine)

    def initial_states(
        self, split: PathOrName = "train", suite: str | None = None, tasks: Tasks | None = None
    ) -> InitialStates:
        """Read initial states, narrowed to a suite and to tasks.

        The split is `train`, `official` (evaluation and demo only), or a path: a folder of initial states, or a
        `.jsonl` file in the format of `Fleurrr/Bridge-RL-Data`.

        Raises:
            MissingWeightsError: The checkpoint has no such split or suite; the message names weights that have.
            UnknownOptionError: There is no such path, suite or task.
        """
        given, split = split, plain(split)
        if not isinstance(split, str):
            raise ValueError(
                f"starts must be {' or '.join(map(repr, _SPLITS))} or the path of initial states, got "
                f"{type(given).__name__}; one that exists already goes to ProphetEnv or ProphetVectorEnv"
            )
        if split in _SPLITS:
            path = self.folder / "starts" / split
            if not (path / INDEX_NAME).is_file() or (suite is not None and suite not in self.suites):
                raise MissingWeightsError(self._not_covered(split, suite))
        else:
            path = Path(split).expanduser()
            if not path.exists():
                raise unknown_option("initial states", split, [*_SPLITS, "the path of initial states"])
        pool = _initial_states(path.resolve())
        if suite is not None:
            pool = pool.of_suite(suite)
        if tasks is None:
            return pool
        return InitialStates(state for task in require_tasks(tasks) for state in pool.of_task(task))

    def reward_model(
        self, name: PathOrName | None = "auto", device: str | torch.device = "cpu", *, chunk: int = 8
    ) -> RewardModel | None:
        """Load the reward model that a name stands for, to score every `chunk` frames.

        The name is None, one that `prophet_gym.rewards.make_reward_model` takes, whose errors are raised here too, or
        `auto`: the checkpoint's success head or, with a warning, None if it has no head.
        """
        if name is None:
            return None
        from prophet_gym.rewards import make_reward_model

        text: Any = plain(name)
        own = isinstance(text, str) and text.partition("?")[0] in ("auto", "success", "classifier")
        head = self.folder / "success_head" if own else None
        if text == "auto" and head is not None and not head.is_dir():
            warn(
                f"weights={self.name!r} have no success head, so nothing scores the dream: every reward is 0 and "
                "not scored. Pass reward='vlm:...', reward=PATH of a head that `prophet train-reward` trained, or "
                "reward=None"
            )
            return None
        text = "success" if text == "auto" else text
        return make_reward_model(text, head, require_device("device", device, ("meta",)), chunk=chunk)

    def object_reader(self) -> ObjectReader | None:
        """Load the object reader; return None for a checkpoint without one."""
        folder = self.folder / "object_reader"
        return ObjectReader.from_pretrained(folder) if folder.is_dir() else None

    def _not_covered(self, split: str, suite: str | None) -> str:
        if not self.suites or suite in self.suites or suite is None:
            return (
                f"weights={self.name!r} have no starts of their own named {split!r}: pass starts=PATH of initial "
                f"states. {_starts_advice(self.robot)}"
            )
        bundled = bundled_checkpoints()
        able = [name for name, suites in bundled.items() if suite in suites]
        ids = {name: [f"Prophet-LIBERO-{SUITES[s][0]}-v0" for s in suites] for name, suites in bundled.items()}
        bundle = "; ".join(f"{name} covers {', '.join(bundled[name])} ({', '.join(ids[name])})" for name in bundled)
        other = f"no bundled weights do, pass {_published_weights(self.robot)}, with starts"
        return (
            f"weights={self.name!r} cover {', '.join(self.suites)}, not {suite}: "
            f"{f'pass weights={able[0]!r}' if able else other}. Bundled: {bundle or 'none'}. "
            "Released and converted weights have no starts of their own: pass starts=PATH. "
            f"{_starts_advice(self.robot)}"
        )


def _folder_of(name: str) -> Path:
    """Return the folder of a checkpoint, fetched and converted where need be."""
    # A bundled name means the bundled checkpoint, whatever folder of that name lies in the working directory.
    bundled = {path.parent.name: path.parent for path in _CHECKPOINTS.glob("*/starts")}
    bundled["bundled"] = _CHECKPOINTS / "libero_small"
    if name == "bundled" and not bundled[name].is_dir():
        raise MissingWeightsError(f"no bundled weights at {bundled[name]}; reinstall, or pass weights=PATH")
    found = resolve(name, bundled, needs=CONFIG)
    if found.is_file():
        robots = {file: robot for robot, file in PUBLISHED_FILES.items()}
        if found.name in robots:
            from prophet_gym._io.cache import cache_dir
            from prophet_gym.prophet.convert import converted

            return converted(found, robots[found.name], cache_dir())
        how = f"convert it first with `prophet convert {name} FOLDER`, then pass weights=FOLDER"
        raise MissingWeightsError(f"weights={name!r} is a file, not a checkpoint folder: {how}")
    if not (found / CONFIG).is_file():
        files = [path.name for path in sorted(found.iterdir()) if path.suffix in (".pt", ".safetensors")]
        hint = f"; it holds {', '.join(files[:10])}: name one, as in {name}:{files[0]}" if files else ""
        raise MissingWeightsError(f"weights={name!r} is no checkpoint: there is no {CONFIG} in {found}{hint}")
    return found


def _covered_suites(folder: Path) -> tuple[str, ...]:
    suites: set[str] = set()
    for path in sorted((folder / "starts").glob(f"*/{INDEX_NAME}")):
        with reading(f"{path} is damaged", "write the initial states again", CheckpointError):
            suites |= {str(entry["suite"]) for entry in read_json(path)["starts"]}
    return tuple(sorted(suites))


# Few, because the full Prophet takes gigabytes.
@lru_cache(maxsize=4)
def _world_model(folder: Path, class_name: str, device: str, dtype: str, *, offload: bool, engine: str) -> WorldModel:
    # Our own names come last: no installed package can take the place of a class that it did not write.
    known = {entry.name: entry.value for entry in entry_points(group="prophet_gym.world_models")} | _WORLD_MODELS
    if class_name not in known:
        raise CheckpointError(
            f"{folder / CONFIG}: {CLASS} must be one of {', '.join(sorted(known))}, got {shown(repr(class_name))}; "
            "install the package that has this world model, or call prophet_gym.checkpoint.register_world_model"
        )
    kind: Any = resolve_name(known[class_name])
    # Only a class that can be offloaded is asked to, so a class of another package need not know the option.
    options = {"offload_autoencoder": True} if offload else {}
    model = require_world_model(kind.from_pretrained(folder, device=device, dtype=getattr(torch, dtype), **options))
    if engine != "eager":  # which needs no ability
        if isinstance(model, UsesEngine):
            model.use_engine(engine)
        elif engine != "auto":
            raise unknown_option(f"engine of a {class_name}", engine, ("auto", "eager"))
    return model


@cache
def _initial_states(path: Path) -> InitialStates:
    return read_jsonl_states(path) if path.is_file() else read_initial_states(path)


def _published_weights(robot: str) -> str:
    file = PUBLISHED_FILES.get(robot)
    if file is None:
        return f"weights=PATH of some trained on {robot} (`prophet convert --embodiment {robot}`)"
    return (
        f"weights='{PUBLISHED}', whose {file} is fetched and converted once, or weights=FOLDER after "
        f"`prophet convert {PUBLISHED}:{file} FOLDER`"
    )


def _starts_advice(robot: str) -> str:
    if robot == "bridge":
        return (
            "Starts are published: `hf download Fleurrr/Bridge-RL-Data --repo-type dataset --local-dir DIR`, then "
            "starts='DIR/dataset.jsonl'"
        )
    if robot == _DEFAULT_ROBOT:
        return (
            "With the simulator, `prophet starts --world-model FOLDER --suite SUITE` renders them into "
            "FOLDER/starts, and `--out DIR` elsewhere, for starts='DIR/train'"
        )
    return "Pass starts=PATH of initial states (envs.write_initial_states)"
