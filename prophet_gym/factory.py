"""Plain data to live objects: what `gym.make("Prophet-LIBERO-v0", weights=..., reward=...)` calls.

A checkpoint is a folder: the world model's config and weights, `starts/train/` and `starts/official/`, and
`success_head/`; `object_reader/` may be there for evaluation. Released files are converted into one when they are first
asked for. Weights, judges and start sets are loaded once per process.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym._io.files import read_json
from prophet_gym._registration import SUITE_IDS
from prophet_gym.embodiments import Embodiment, get_embodiment
from prophet_gym.envs._episodes import FPS
from prophet_gym.envs._plain import plain, require_flag, require_tasks, require_text
from prophet_gym.envs.initial_states import INDEX_NAME, StartSet, read_start_set
from prophet_gym.envs.initial_states._jsonl import read_jsonl_starts
from prophet_gym.envs.shortened_chunk import HeldChunk
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.errors import CheckpointError, MissingWeightsError, unknown_option
from prophet_gym.hub import CONFIG, PUBLISHED, PUBLISHED_FILES, published_file, resolve
from prophet_gym.rewards.object_reader import ObjectReader
from prophet_gym.world_model import RewardModel, WorldModel

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUNDLED = "libero_small"
BUNDLED_ROBOT = "libero"
START_SETS = ("train", "official")
DTYPES = ("float32", "bfloat16", "float16")

PathOrName: TypeAlias = str | PathLike[str]
Tasks: TypeAlias = Sequence[SupportsIndex] | np.ndarray


def make_env(
    *,
    suite: str | None = None,
    embodiment: str = "libero",
    weights: PathOrName = "bundled",
    reward: PathOrName | None = "auto",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    offload_autoencoder: bool | np.bool_ = False,
    starts: PathOrName = "train",
    tasks: Tasks | None = None,
    chunk: SupportsIndex | None = None,
    max_episode_steps: SupportsIndex | None = None,
    render_mode: str | None = None,
    proprioception: bool | np.bool_ = False,
    max_doubt: SupportsFloat | None = None,
) -> ProphetEnv:
    """Build a single env from plain data.

    A path may be a `Path`, a number NumPy's, a device or dtype torch's, a list a tuple or an array: all arguments are
    turned into plain data, which the env's spec records and JSON can carry.

    Args:
        suite: Only starts of this suite; all of the start set if not given.
        embodiment: The robot whose commands it takes; the weights must be of it.
        weights: `bundled`, the name of another bundled checkpoint, the path of a checkpoint folder, a Hub repository
            that holds one (`owner/repo` or `owner/repo@revision`), or what the authors of ProphRL released
            (`Fleurrr/Prophet-World-Model`, or one of its files as `owner/repo:file.pt`).
        reward: `auto` (the checkpoint's success head; none, with a warning, where it has none), `success` or
            `classifier` (its success head), `classifier?reward=relative`, the path of a head, `vlm:MODEL`,
            `vlm:http://HOST/v1#MODEL`, `likelihood:MODEL`, or None (no reward). Options of a judge follow a question
            mark, see `prophet_gym.rewards.named`.
        device: Where the world model runs, e.g. `cpu` or `cuda`.
        dtype: What it computes in: `float32`, `bfloat16` or `float16`.
        offload_autoencoder: Keep the full Prophet's VAE on the CPU while it is idle.
        starts: `train`, `official` (evaluation and demo only), or a path: a start set's folder, or a `.jsonl` file in
            the format of `Fleurrr/Bridge-RL-Data`.
        tasks: Only starts of these tasks.
        chunk: Actions per step, if fewer than the world model's: the rest is held, dreamt and cut off, and
            `info["approximate"]` is True, see `HeldChunk`.
        max_episode_steps: Chunks until truncation; the horizon of the id if not given.
        render_mode: `rgb_array` or `rgb_array_list`.
        proprioception: Adds `gripper_position`, as the world model (ours does) tracks it, to the observation.
        max_doubt: Truncates where `info["doubt"]` is larger, see `ProphetVectorEnv`.

    Raises:
        MissingWeightsError: If the weights do not exist or do not cover the suite or robot; names weights that do.
        CheckpointError: If they exist but are damaged.
        UnknownOptionError: For a name that does not exist.
        ValueError: If the chunk is longer than the world model's, or cannot be cut out of it; if proprioception is
            asked of weights that track no gripper.
    """
    return ProphetEnv(
        **_parts(suite, embodiment, weights, reward, device, dtype, starts, tasks, chunk, offload=offload_autoencoder),
        max_episode_steps=plain(max_episode_steps),
        render_mode=plain(render_mode),
        proprioception=require_flag("proprioception", proprioception),
        max_doubt=plain(max_doubt),
    )


def make_vector_env(
    num_envs: SupportsIndex = 1,
    *,
    suite: str | None = None,
    embodiment: str = "libero",
    weights: PathOrName = "bundled",
    reward: PathOrName | None = "auto",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    offload_autoencoder: bool | np.bool_ = False,
    starts: PathOrName = "train",
    tasks: Tasks | None = None,
    chunk: SupportsIndex | None = None,
    max_episode_steps: SupportsIndex | None = 30,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    proprioception: bool | np.bool_ = False,
    max_doubt: SupportsFloat | None = None,
) -> ProphetVectorEnv:
    """Build a vector env from plain data; arguments as in `make_env` and `ProphetVectorEnv`."""
    return ProphetVectorEnv(
        num_envs=plain(num_envs),
        **_parts(suite, embodiment, weights, reward, device, dtype, starts, tasks, chunk, offload=offload_autoencoder),
        max_episode_steps=plain(max_episode_steps),
        autoreset_mode=autoreset_mode,
        render_mode=plain(render_mode),
        proprioception=require_flag("proprioception", proprioception),
        max_doubt=plain(max_doubt),
    )


def _parts(
    suite: str | None,
    embodiment: str,
    weights: PathOrName,
    reward: PathOrName | None,
    device: str | torch.device,
    dtype: str | torch.dtype,
    starts: PathOrName,
    tasks: Tasks | None,
    chunk: SupportsIndex | None,
    *,
    offload: bool | np.bool_,
) -> dict[str, Any]:
    """What the single and the vector env are made of."""
    robot = get_embodiment(require_text("embodiment", embodiment))
    weights = _weights_of(weights, robot)
    pool = load_starts(weights, starts, plain(suite), tasks)
    world_model = load_world_model(weights, device, dtype, offload_autoencoder=offload)
    shown = _for_policy(world_model, weights, robot, plain(chunk))
    return {
        "world_model": shown,
        "starts": pool,
        "reward_model": load_reward_model(weights, reward, device, chunk=shown.chunk),
        "action_spec": robot.action_spec,
        "fps": FPS if robot.control_hz is None else robot.control_hz,
    }


def _text_of(weights: object) -> str:
    text = plain(weights)
    if not isinstance(text, str):
        raise MissingWeightsError(f"weights must be a name or the path of a folder, got {weights!r}")
    return text


def _weights_of(weights: PathOrName, robot: Embodiment) -> str:
    weights = _text_of(weights)
    if weights == "bundled" and robot.name != BUNDLED_ROBOT:
        raise MissingWeightsError(
            f"the bundled weights are of {BUNDLED_ROBOT}, not {robot.name}: pass {_published_weights(robot.name)}. "
            f"{_starts_advice(robot.name)}"
        )
    return published_file(weights, robot.name)


def _for_policy(world_model: WorldModel, weights: str, robot: Embodiment, chunk: int | None) -> WorldModel:
    own = _robot_of(world_model)
    if own != robot.name:
        raise MissingWeightsError(
            f"weights={weights!r} are of {own}, not {robot.name}: pass {_published_weights(robot.name)}"
        )
    if chunk is None or chunk == world_model.chunk:
        return world_model
    return HeldChunk(world_model, chunk, hold=robot.hold)


def _robot_of(world_model: WorldModel) -> str:
    return getattr(getattr(world_model, "config", None), "embodiment", BUNDLED_ROBOT)


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
    if robot == BUNDLED_ROBOT:
        return (
            "With the simulator, `prophet starts --checkpoint FOLDER --suite SUITE` films them into "
            "FOLDER/starts, and `--out DIR` elsewhere, for starts='DIR/train'"
        )
    return "Pass starts=PATH of a start set (envs.write_start_set)"


def checkpoint_folder(weights: PathOrName) -> Path:
    """The folder of a checkpoint, fetched from the Hub and converted if need be.

    Raises:
        MissingWeightsError: If there is none, or if `weights` is a released file that must be converted first.
        CheckpointError: If a file is not the one that the folder's manifest names.
    """
    weights = published_file(_text_of(weights), BUNDLED_ROBOT)
    if weights == "bundled" and not (CHECKPOINTS / BUNDLED).is_dir():
        raise MissingWeightsError(
            f"the bundled weights are missing at {CHECKPOINTS / BUNDLED}; reinstall, or pass weights=PATH"
        )
    bundled = {name: CHECKPOINTS / name for name in bundled_checkpoints()} | {"bundled": CHECKPOINTS / BUNDLED}
    found = resolve(weights, bundled, needs=CONFIG)
    if found.is_file():
        published = {file: robot for robot, file in PUBLISHED_FILES.items()}
        if found.name in published:
            return _converted(found, published[found.name])
        raise MissingWeightsError(
            f"weights={weights!r} is a file, not a checkpoint folder: convert it first with "
            f"`prophet convert {weights} FOLDER`, then pass weights=FOLDER"
        )
    if not (found / CONFIG).is_file():
        files = [path.name for path in sorted(found.iterdir()) if path.suffix in (".pt", ".safetensors")]
        hint = f"; it holds {', '.join(files[:10])}: name one, as in {weights}:{files[0]}" if files else ""
        raise MissingWeightsError(f"weights={weights!r} is no checkpoint: there is no {CONFIG} in {found}{hint}")
    return found


def bundled_checkpoints() -> dict[str, tuple[str, ...]]:
    """Bundled checkpoints that are present, and the suites that each covers."""
    if not CHECKPOINTS.is_dir():
        return {}
    folders = sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir())
    return {folder.name: _covered_suites(folder) for folder in folders if (folder / "starts").is_dir()}


def load_world_model(
    weights: PathOrName,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    *,
    offload_autoencoder: bool | np.bool_ = False,
) -> WorldModel:
    """The world model of a checkpoint, the same object for the same folder and options; errors as in `make_env`."""
    kind = plain(dtype)
    if kind not in DTYPES:
        raise unknown_option("dtype", dtype, DTYPES)
    offload_autoencoder = require_flag("offload_autoencoder", offload_autoencoder)
    folder = checkpoint_folder(weights).resolve()
    return _world_model(folder, _device(device), kind, offload_autoencoder=offload_autoencoder)


def load_reward_model(
    weights: PathOrName, reward: PathOrName | None, device: str | torch.device = "cpu", *, chunk: int = 8
) -> RewardModel | None:
    """The judge that `reward` names, see `make_env` and `prophet_gym.rewards.named`; asked every `chunk` frames."""
    if reward is None:
        return None
    from prophet_gym.rewards.named import make_judge

    name: Any = plain(reward)
    own = isinstance(name, str) and name.partition("?")[0] in ("auto", "success", "classifier")
    head = (checkpoint_folder(weights) / "success_head").resolve() if own else None
    if name == "auto" and head is not None and not head.is_dir():
        gym.logger.warn(
            f"weights={weights!r} have no success head, so nothing judges the dream: every reward is 0 and unjudged. "
            "Pass reward='vlm:...', reward=PATH of a head that `prophet train-reward` trained, or reward=None"
        )
        return None
    return make_judge("success" if name == "auto" else name, head, _device(device), chunk=chunk)


def load_object_reader(weights: PathOrName) -> ObjectReader | None:
    """The instrument that reads object positions from frames, where the checkpoint has one."""
    folder = checkpoint_folder(weights) / "object_reader"
    return ObjectReader.from_pretrained(folder) if folder.is_dir() else None


def load_starts(
    weights: PathOrName, starts: PathOrName, suite: str | None = None, tasks: Tasks | None = None
) -> StartSet:
    """The start set that `starts` names, narrowed to suite and tasks; arguments and errors as in `make_env`."""
    given, starts = starts, plain(starts)
    if not isinstance(starts, str):
        raise ValueError(
            f"starts must be {' or '.join(map(repr, START_SETS))} or the path of a start set, got "
            f"{type(given).__name__}; one that exists already goes to ProphetEnv or ProphetVectorEnv"
        )
    if starts in START_SETS:
        folder = checkpoint_folder(weights)
        path = folder / "starts" / starts
        covered = _covered_suites(folder)
        if not (path / INDEX_NAME).is_file() or (suite is not None and suite not in covered):
            raise MissingWeightsError(_not_covered(_text_of(weights), starts, suite, covered))
    else:
        path = Path(starts).expanduser()
        if not path.exists():
            raise unknown_option("start set", starts, [*START_SETS, "the path of a start set"])
    pool = _start_set(path.resolve())
    if suite is not None:
        pool = pool.of_suite(suite)
    if tasks is None:
        return pool
    return StartSet(state for task in require_tasks(tasks) for state in pool.of_task(task))


def _not_covered(weights: str, starts: str, suite: str | None, covered: Sequence[str]) -> str:
    robot = _robot_of_folder(checkpoint_folder(weights))
    if not covered or suite in covered or suite is None:
        return (
            f"weights={weights!r} have no starts of their own named {starts!r}: pass starts=PATH of a start set. "
            f"{_starts_advice(robot)}"
        )
    bundled = bundled_checkpoints()
    able = [name for name, suites in bundled.items() if suite in suites]
    ids = {name: [f"Prophet-LIBERO-{s.name}-v0" for s in SUITE_IDS if s.suite in bundled[name]] for name in bundled}
    bundle = "; ".join(f"{name} covers {', '.join(bundled[name])} ({', '.join(ids[name])})" for name in bundled)
    advice = (
        f"pass weights={able[0]!r}" if able else f"no bundled weights do, pass {_published_weights(robot)}, with starts"
    )
    return (
        f"weights={weights!r} cover {', '.join(covered)}, not {suite}: {advice}. Bundled: {bundle or 'none'}. "
        f"Released and converted weights have no starts of their own: pass starts=PATH. {_starts_advice(robot)}"
    )


def _robot_of_folder(folder: Path) -> str:
    from prophet_gym.prophet.checkpoint import read_config

    return getattr(read_config(folder), "embodiment", BUNDLED_ROBOT)


def _covered_suites(folder: Path) -> tuple[str, ...]:
    suites: set[str] = set()
    for path in sorted((folder / "starts").glob(f"*/{INDEX_NAME}")):
        index = read_json(path, CheckpointError)
        try:
            suites |= {str(entry["suite"]) for entry in index["starts"]}
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); write the start set again") from error
    return tuple(sorted(suites))


def _device(device: str | torch.device) -> str:
    try:
        name = str(torch.device(device))
    except (RuntimeError, TypeError) as error:
        raise unknown_option("device", device, ["cpu", "cuda", "mps"]) from error
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        raise unknown_option("device on this machine", device, ["cpu", *here]) from error
    return name


@cache
def _start_set(path: Path) -> StartSet:
    return read_jsonl_starts(path) if path.is_file() else read_start_set(path)


def _converted(path: Path, robot: str) -> Path:
    from prophet_gym.prophet.released import converted
    from prophet_gym.sims.install import cache_dir

    return converted(path, robot, cache_dir())


@lru_cache(maxsize=4)
def _world_model(folder: Path, device: str, dtype: str, *, offload_autoencoder: bool) -> WorldModel:
    from prophet_gym.prophet.model import Prophet

    return Prophet.from_pretrained(
        folder, device=device, dtype=getattr(torch, dtype), offload_autoencoder=offload_autoencoder
    )
