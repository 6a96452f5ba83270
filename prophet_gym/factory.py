"""Plain data to live objects: what `gym.make("Prophet-LIBERO-v0", weights=..., reward=...)` calls.

A checkpoint is a folder: the world model's config and weights, `starts/train/` and `starts/official/`, and
`success_head/`; `object_reader/` may be there for evaluation. Weights, judges and start sets are loaded once per
process.
"""

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.envs.registration import SUITE_IDS
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.envs.starts import INDEX_NAME, StartSet, read_start_set
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.errors import CheckpointError, MissingWeightsError, unknown_option
from prophet_gym.hub import resolve
from prophet_gym.object_reader import ObjectReader
from prophet_gym.world_model import RewardModel, WorldModel

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUNDLED = "libero_small"
START_SETS = ("train", "official")
DTYPES = ("float32", "bfloat16", "float16")


def make_env(
    *,
    suite: str | None = None,
    weights: str = "bundled",
    reward: str | None = "success",
    device: str = "cpu",
    dtype: str = "float32",
    offload_autoencoder: bool = False,
    starts: str = "train",
    tasks: Sequence[int] | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> ProphetEnv:
    """One dream.

    Args:
        suite: Only starts of this suite; all of the start set if not given.
        weights: `bundled`, the name of another bundled checkpoint, the path of a checkpoint folder, or a Hub repository
            that holds one: `owner/repo` or `owner/repo@revision`.
        reward: `success` or `classifier` (the checkpoint's success head), `classifier?reward=relative`, the path of a
            head, `vlm:MODEL`, `vlm:http://HOST/v1#MODEL`, `likelihood:MODEL`, or None (no reward); options of a judge
            follow a question mark, see `prophet_gym.rewards.named`.
        device: Where the world model runs, e.g. `cpu` or `cuda`.
        dtype: What it computes in: `float32`, `bfloat16` or `float16`.
        offload_autoencoder: Keep the full Prophet's VAE on the CPU while it is idle.
        starts: `train`, `official` (evaluation and demo only), or the path of a start set.
        tasks: Only starts of these tasks.
        max_episode_steps: Chunks until truncation; the horizon of the id if not given.
        render_mode: `rgb_array` or `rgb_array_list`.

    Raises:
        MissingWeightsError: If the weights do not exist or do not cover the suite; names weights that do.
        CheckpointError: If they exist but are damaged.
        UnknownOptionError: For a name that does not exist.
    """
    pool = load_starts(weights, starts, suite, tasks)
    return ProphetEnv(
        load_world_model(weights, device, dtype, offload_autoencoder=offload_autoencoder),
        pool,
        reward_model=load_reward_model(weights, reward, device),
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
    )


def make_vector_env(
    num_envs: int = 1,
    *,
    suite: str | None = None,
    weights: str = "bundled",
    reward: str | None = "success",
    device: str = "cpu",
    dtype: str = "float32",
    offload_autoencoder: bool = False,
    starts: str = "train",
    tasks: Sequence[int] | None = None,
    max_episode_steps: int | None = 30,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
) -> ProphetVectorEnv:
    """Dreams in a batch; arguments as in `make_env` and `ProphetVectorEnv`."""
    pool = load_starts(weights, starts, suite, tasks)
    return ProphetVectorEnv(
        load_world_model(weights, device, dtype, offload_autoencoder=offload_autoencoder),
        pool,
        num_envs,
        reward_model=load_reward_model(weights, reward, device),
        max_episode_steps=max_episode_steps,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )


def checkpoint_folder(weights: str) -> Path:
    """The folder of a checkpoint, fetched from the Hub if need be.

    Raises:
        MissingWeightsError: If there is none, or if `weights` is a released file that must be converted first.
        CheckpointError: If a file is not the one that the folder's manifest names.
    """
    if weights == "bundled" and not (CHECKPOINTS / BUNDLED).is_dir():
        raise MissingWeightsError(
            f"the bundled weights are missing at {CHECKPOINTS / BUNDLED}; reinstall, or pass weights=PATH"
        )
    bundled = {name: CHECKPOINTS / name for name in bundled_checkpoints()} | {"bundled": CHECKPOINTS / BUNDLED}
    found = resolve(weights, bundled)
    if not found.is_dir():
        raise MissingWeightsError(
            f"weights={weights!r} is a file, not a checkpoint folder: convert it first with "
            f"`prophet convert {weights} FOLDER`, then pass weights=FOLDER"
        )
    return found


def bundled_checkpoints() -> dict[str, tuple[str, ...]]:
    """Bundled checkpoints that are present, and the suites that each covers."""
    if not CHECKPOINTS.is_dir():
        return {}
    folders = sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir())
    return {folder.name: _covered_suites(folder) for folder in folders if (folder / "starts").is_dir()}


def load_world_model(
    weights: str, device: str = "cpu", dtype: str = "float32", *, offload_autoencoder: bool = False
) -> WorldModel:
    """The world model of a checkpoint, the same object for the same folder and options; arguments as in `make_env`."""
    if dtype not in DTYPES:
        raise unknown_option("dtype", dtype, DTYPES)
    folder = checkpoint_folder(weights).resolve()
    return _world_model(folder, _device(device), dtype, offload_autoencoder=offload_autoencoder)


def load_reward_model(weights: str, reward: str | None, device: str = "cpu") -> RewardModel | None:
    """The judge that `reward` names, see `make_env` and `prophet_gym.rewards.named`."""
    if reward is None:
        return None
    from prophet_gym.rewards.named import make_judge

    own = reward.partition("?")[0] in ("success", "classifier")
    head = (checkpoint_folder(weights) / "success_head").resolve() if own else None
    return make_judge(reward, head, _device(device))


def load_object_reader(weights: str) -> ObjectReader | None:
    """The instrument that reads object positions from frames, where the checkpoint has one."""
    folder = checkpoint_folder(weights) / "object_reader"
    return ObjectReader.from_pretrained(folder) if folder.is_dir() else None


def load_starts(weights: str, starts: str, suite: str | None = None, tasks: Sequence[int] | None = None) -> StartSet:
    """The start set that `starts` names, narrowed to suite and tasks."""
    if starts in START_SETS:
        folder = checkpoint_folder(weights)
        path = folder / "starts" / starts
        covered = _covered_suites(folder)
        if suite is not None and suite not in covered:
            raise MissingWeightsError(_not_covered(weights, suite, covered))
    else:
        path = Path(starts).expanduser()
        if not path.is_dir():
            raise unknown_option("start set", starts, [*START_SETS, "the path of a start set"])
    pool = _start_set(path.resolve())
    if suite is not None:
        pool = pool.of_suite(suite)
    return pool if tasks is None else StartSet(state for task in tasks for state in pool.of_task(task))


def _not_covered(weights: str, suite: str, covered: Sequence[str]) -> str:
    bundled = bundled_checkpoints()
    able = [name for name, suites in bundled.items() if suite in suites]
    ids = {name: [f"Prophet-LIBERO-{s.name}-v0" for s in SUITE_IDS if s.suite in bundled[name]] for name in bundled}
    bundle = "; ".join(f"{name} covers {', '.join(bundled[name])} ({', '.join(ids[name])})" for name in bundled)
    advice = (
        f"pass weights={able[0]!r}" if able else f"no bundled weights do, pass weights=PATH of some trained on {suite}"
    )
    return (
        f"weights={weights!r} cover {', '.join(covered) or 'no suite'}, not {suite}: {advice}. "
        f"Bundled: {bundle or 'none'}. Converted weights have no starts of their own: pass starts=PATH of a start set"
    )


def _covered_suites(folder: Path) -> tuple[str, ...]:
    suites: set[str] = set()
    for path in sorted((folder / "starts").glob(f"*/{INDEX_NAME}")):
        try:
            suites |= {entry["suite"] for entry in json.loads(path.read_text())["starts"]}
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); write the start set again") from error
    return tuple(sorted(suites))


def _device(device: str) -> str:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise unknown_option("device", device, ["cpu", "cuda", "mps"]) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise unknown_option("device on this machine", device, ["cpu"])
    return str(torch.device(device))


@cache
def _start_set(path: Path) -> StartSet:
    return read_start_set(path)


@lru_cache(maxsize=4)
def _world_model(folder: Path, device: str, dtype: str, *, offload_autoencoder: bool) -> WorldModel:
    from prophet_gym.prophet.model import Prophet

    return Prophet.from_pretrained(
        folder, device=device, dtype=getattr(torch, dtype), offload_autoencoder=offload_autoencoder
    )
