"""LeRobot: the env as an EnvHub package, with one action per step and the names that LeRobot's rollout reads."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_count, unknown_option, warn
from prophet_gym._io.companions import env_id
from prophet_gym._io.header import CONFIG
from prophet_gym._registration import SUITES
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs._episodes import FPS
from prophet_gym.envs.wrappers.actions import OneActionPerStepVector
from prophet_gym.specs import CAMERAS, FIRST_CAMERA, WRIST_CAMERA
from prophet_gym.world_model import ShowsWrist, TracksGripper

_PIXELS = {CAMERAS[FIRST_CAMERA]: "image", CAMERAS[WRIST_CAMERA]: "image2"}
"""Images of an observation, and their names in LeRobot's own env of LIBERO."""
_COMMIT = 40
"""Number of characters of a commit's name."""


class LeRobotVectorEnv(VectorEnv):
    """Adapt a vector env of chunks to LeRobot's rollout.

    It takes one action per step; a chunk runs with its last action. Observations are `pixels` with `image`, and
    `agent_pos` where the env has proprioception; `info["final_info"]["is_success"]` is the success of an episode.
    `envs`, `call` and `get_attr` return what LeRobot reads of single envs.

    An env of two cameras gives what policies of the published `lerobot/libero` read: `image` and `image2` (the wrist),
    both mirrored, and the robot's state as `agent_pos`. One camera alone is shown as it is, as in the export of its
    recordings.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> model = CountingWorldModel(chunk=4)
        >>> envs = ProphetVectorEnv(model, counting_starts(), num_envs=2, autoreset_mode="SameStep")
        >>> envs = LeRobotVectorEnv(envs)
        >>> observation, _ = envs.reset(seed=[0, 1], options={"task": [0, 1]})
        >>> observation["pixels"]["image"].shape, envs.call("task_description"), envs.call("_max_episode_steps")
        ((2, 8, 8, 3), ('count task 0', 'count task 1'), (120, 120))
    """

    def __init__(self, envs: VectorEnv) -> None:
        """Wrap a vector env; ValueError unless it has a horizon and autoreset SAME_STEP."""
        # Not a VectorWrapper: LeRobot takes an env with `envs` for a vector env of single ones, as this pretends to be.
        self._inner = inner = OneActionPerStepVector(envs)
        horizon = getattr(envs.unwrapped, "max_episode_steps", None)
        if horizon is None:
            raise ValueError("LeRobot runs episodes to their horizon: pass max_episode_steps (in chunks)")
        self.num_envs, self.render_mode, self.spec = envs.num_envs, envs.render_mode, envs.spec
        self.metadata = {**envs.metadata, "render_fps": getattr(envs.unwrapped, "fps", FPS)}
        self.single_action_space, self.action_space = inner.single_action_space, inner.action_space
        space, chunk = envs.single_observation_space, envs.single_action_space.shape
        assert isinstance(space, gym.spaces.Dict)
        assert chunk is not None
        self.single_observation_space = gym.spaces.Dict(_renamed(space.spaces, gym.spaces.Dict))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._horizon = int(horizon) * chunk[0]
        self._texts = [""] * self.num_envs

    @property
    def envs(self) -> list[SimpleNamespace]:
        """Return what LeRobot reads of each single env: `task`, `task_description`, `_max_episode_steps`."""
        horizon = self._horizon
        return [SimpleNamespace(task=text, task_description=text, _max_episode_steps=horizon) for text in self._texts]

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return `render`, or an attribute of `envs`, of every sub-environment; AttributeError for anything else."""
        return self._inner.render(*args, **kwargs) or () if name == "render" else self.get_attr(name)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of `envs` of every sub-environment; AttributeError for anything else."""
        return tuple(getattr(facts, name) for facts in self.envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict]:
        """Start episodes, with one seed or one for each; ignore LeRobot's own options (`lerobot_*`)."""
        # Since 0.6 LeRobot gives options of its own to every env.
        own = {name: value for name, value in (options or {}).items() if not name.startswith("lerobot_")}
        observation, infos = self._inner.reset(seed=seed, options=own or None)
        self._read(infos)
        return _shown(observation), infos

    def step(self, actions: ArrayLike) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action (num_envs, a) in every sub-environment."""
        observation, rewards, terminated, truncated, infos = self._inner.step(actions)
        self._read(infos)
        if "final_info" in infos:
            final = infos["final_info"]
            final |= {"is_success": final["success"], "_is_success": final["_success"]}
            for row in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][row] = _shown(infos["final_obs"][row])
        return _shown(observation), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one image of each sub-environment."""
        return self._inner.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the wrapped env."""
        self._inner.close(**kwargs)

    def _read(self, infos: Mapping[str, Any]) -> None:
        for row in np.flatnonzero(infos.get("_instruction", ())):
            self._texts[row] = infos["instruction"][row]


def make_env(
    n_envs: int = 1,
    use_async_envs: bool = False,  # noqa: FBT001, FBT002 LeRobot's own form
    cfg: object = None,
    *,
    weights: str = "bundled",
) -> dict[str, dict[int, LeRobotVectorEnv]]:
    """Return `{suite: {task: vector env}}`, as the `env.py` of an EnvHub package must.

    Observations have both cameras and the robot's state where the weights dream them, else `agent_pos`, the gripper, as
    far as the world model tracks it. `use_async_envs` makes no difference: all episodes are generated in one batch, and
    processes would copy the model.

    `cfg` is an object or mapping that may have `task` (a suite of the weights, the first of them if not), `task_ids`
    and `episode_length` (in actions; ValueError unless it is a multiple of the chunk).
    """
    if use_async_envs:
        warn("use_async_envs makes no difference: one model generates all episodes in one batch")
    names = ("task", "task_ids", "episode_length")
    asked = cfg if isinstance(cfg, Mapping) else {name: getattr(cfg, name, None) for name in names}
    suite, id_, options = _suite(weights, asked.get("task"))
    arguments = {"weights": weights, "autoreset_mode": AutoresetMode.SAME_STEP, "render_mode": "rgb_array", **options}
    # One env is made to learn the chunk and the tasks; weights are loaded once per process, so the rest are cheap.
    probe: Any = gym.make_vec(id_, num_envs=1, **arguments).unwrapped
    chunk, length = probe.single_action_space.shape[0], asked.get("episode_length")
    if length is not None:
        if require_count("episode_length", length) % chunk:
            raise ValueError(f"episode_length counts actions and must be a multiple of {chunk}, got {length}")
        arguments["max_episode_steps"] = length // chunk
    if isinstance(probe.world_model, ShowsWrist):
        arguments["cameras"] = tuple(CAMERAS)
    elif isinstance(probe.world_model, TracksGripper):
        arguments["proprioception"] = True
    tasks = asked.get("task_ids") or probe.starts.tasks
    if not isinstance(tasks, Sequence):
        raise ValueError(f"task_ids must be task numbers, as in [0, 3], got {tasks!r}")
    for task in tasks:
        if task not in probe.starts.tasks:
            raise unknown_option("task", task, map(str, probe.starts.tasks))
    envs = {task: gym.make_vec(id_, num_envs=n_envs, tasks=[task], **arguments) for task in tasks}
    return {suite: {task: LeRobotVectorEnv(env) for task, env in envs.items()}}


def _suite(weights: str, asked: Any) -> tuple[str, str, dict[str, Any]]:
    """Return a suite of weights, the id of its env, and what else the env must be told."""
    checkpoint = Checkpoint.named(weights)
    own = {suite: f"Prophet-LIBERO-{name}-v0" for suite, (name, _) in SUITES.items() if checkpoint.robot == "libero"}
    # Those of the weights first, and of these LIBERO's in its own order.
    known = sorted(dict.fromkeys([*own, *checkpoint.suites]), key=lambda name: name not in checkpoint.suites)
    suite = asked or next(iter(known), None)
    if suite not in known:
        raise unknown_option("suite", suite, known)
    if suite in own:
        return suite, own[suite], {}
    return suite, env_id(checkpoint.robot), {"suite": suite}


def weights_beside(script: str, repo: str) -> str:
    """Return the weights that an `env.py` is published with: of the same commit, or of the folder that it lies in."""
    folder = Path(script).absolute().parent
    # The Hub's cache keeps the files of a commit in a folder of its name, and only those that were asked for.
    if folder.parent.name == "snapshots" and len(folder.name) == _COMMIT:
        return f"{repo}@{folder.name}"
    return str(folder) if (folder / CONFIG).is_file() else repo


def write_package(folder: Path | str, *, weights: str = "bundled") -> Path:
    """Write the three files of an EnvHub package with `weights` (`bundled`, or `owner/repo@revision` of the Hub)."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, template in {"env.py": "envhub_env.txt", "README.md": "envhub.md"}.items():
        text = Path(__file__).with_name(template).read_text(encoding="utf-8")
        (target / name).write_text(text.format(weights=weights), encoding="utf-8")
    (target / "requirements.txt").write_text(f"prophet-gym>={version('prophet-gym')}\n", encoding="utf-8")
    return target


def _renamed(parts: Mapping[str, Any], kind: type) -> dict[str, Any]:
    pixels = {theirs: parts[ours] for ours, theirs in _PIXELS.items() if ours in parts}
    own = next((parts[name] for name in ("state", "gripper_position") if name in parts), None)
    return {"pixels": kind(pixels)} | ({} if own is None else {"agent_pos": own})


def _shown(observation: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return an observation by LeRobot's names; images of two cameras are mirrored, as in the published data."""
    parts = _renamed(observation, dict)
    if len(parts["pixels"]) > 1:
        # Contiguous, because torch takes no negative strides.
        parts["pixels"] = {name: np.ascontiguousarray(image[..., ::-1, :]) for name, image in parts["pixels"].items()}
    return parts
