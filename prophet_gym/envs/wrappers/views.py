"""Other views of the observation: the last frames in place of the last one, the instruction as numbers."""

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from pkgutil import resolve_name
from typing import Any, SupportsIndex

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Float
from numpy.typing import ArrayLike

from prophet_gym._checks import require_count, require_known
from prophet_gym.envs._episodes import Info, Observation, sub_env_info
from prophet_gym.envs._plain import plain
from prophet_gym.envs.wrappers._common import DeclaringVectorWrapper, PlainArguments, require_arrays

_NEEDS_RESET = "call reset before step, and again where a view refused the episode"


class View(ABC):
    """Map what an env shows to what a policy sees, with a memory of the episode of one sub-environment.

    A subclass passes its constructor's arguments to `View.__init__` by name, so that its spec can make it again.
    """

    _arguments: dict[str, Any] | None = None

    def __init__(self, **arguments: Any) -> None:
        self._arguments = plain(arguments)

    def description(self) -> dict[str, Any]:
        """Return the view as plain data: its class, and the arguments that it was made with."""
        return {"view": f"{type(self).__module__}:{type(self).__qualname__}", "arguments": self._arguments}

    @abstractmethod
    def space(self, spaces: Mapping[str, gym.Space]) -> gym.Space:
        """Return the space of what is seen, from the spaces of the parts of the env's observation."""

    @abstractmethod
    def begin(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Return what is seen at the start of an episode."""

    @abstractmethod
    def extend(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Return what is seen after one more step."""


class StackFrames(View):
    """Stack the last frames of the episode, oldest first; the first frame is repeated for those before it.

    Args:
        frames: Number of frames, at least 1.
        stride: Distance between stacked frames, in frames (one per action), at least 1.
    """

    def __init__(self, frames: SupportsIndex, stride: SupportsIndex = 1) -> None:
        super().__init__(frames=frames, stride=stride)
        self.frames = require_count("frames of StackFrames", frames)
        self.stride = require_count("stride of StackFrames", stride)
        self._seen: deque[np.ndarray] = deque(maxlen=(self.frames - 1) * self.stride + 1)

    def space(self, spaces: Mapping[str, gym.Space]) -> gym.Space:
        """Return the spaces with an image of (frames, h, w, 3)."""
        return gym.spaces.Dict({**spaces, "image": batch_space(spaces["image"], self.frames)})

    def begin(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Show the first frame, as often as there is room."""
        del info
        assert self._seen.maxlen is not None
        self._seen.extend([np.array(observation["image"])] * self._seen.maxlen)
        return self._stacked(observation)

    def extend(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Add the frames of a step; ValueError if it ran actions and has no `info["frames"]`."""
        if executed := info.get("executed", 0):
            if "frames" not in info:
                raise ValueError("StackFrames needs info['frames']; make the env with every frame (render='step')")
            # Copies: the caller owns what it is given, and may write into it.
            self._seen.extend(np.array(info["frames"][:executed]))
        return self._stacked(observation)

    def _stacked(self, observation: Observation) -> Observation:
        return {**observation, "image": np.stack(list(self._seen)[:: self.stride])}


class EmbedInstruction(View):
    """Add an embedding of the instruction to the observation: `instruction`, float32 (d,).

    Args:
        table: The embedding of each instruction that can occur, all of one length: from a language model, or
            `one_hot_table`.
    """

    def __init__(self, table: Mapping[str, ArrayLike]) -> None:
        if not isinstance(table, Mapping):
            raise ValueError(f"table must map instructions to embeddings (d,), got {type(table).__name__}")
        try:
            rows = {text: np.array(row, np.float32) for text, row in table.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(f"table must map instructions to embeddings (d,) of numbers: {error}") from error
        shapes = {row.shape for row in rows.values()}
        finite = all(np.isfinite(row).all() for row in rows.values())
        if [len(shape) for shape in shapes] != [1] or not finite:
            raise ValueError(f"table must hold finite embeddings (d,) of one length, got shapes {sorted(shapes)}")
        super().__init__(table=rows)
        self.table = rows
        self._now = next(iter(rows.values()))

    def space(self, spaces: Mapping[str, gym.Space]) -> gym.Space:
        """Return the spaces with a Box that has the bounds of the table."""
        numbers = np.stack(list(self.table.values()))
        box = gym.spaces.Box(numbers.min(0), numbers.max(0), dtype=np.float32)
        return gym.spaces.Dict({**spaces, "instruction": box})

    def begin(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Look the instruction up; UnknownOptionError if the table does not have it."""
        require_known("instruction", info["instruction"], self.table)
        self._now = self.table[info["instruction"]]
        return self.extend(observation, info)

    def extend(self, observation: Observation, info: Mapping[str, Any]) -> Observation:
        """Add the same instruction."""
        del info
        return {**observation, "instruction": self._now.copy()}


def one_hot_table(instructions: Iterable[str]) -> dict[str, Float[np.ndarray, " d"]]:
    """Return a table for `EmbedInstruction`: one number per different instruction, in alphabetical order.

    Example:
        >>> {text: row.tolist() for text, row in one_hot_table(["lift", "drop", "lift"]).items()}
        {'drop': [1.0, 0.0], 'lift': [0.0, 1.0]}
    """
    different = sorted(set(instructions))
    return dict(zip(different, np.eye(len(different), dtype=np.float32), strict=True))


class Viewed(gym.Wrapper, PlainArguments):
    """Show an env through a view.

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = Viewed(ProphetEnv(CountingWorldModel(chunk=4), counting_starts()), StackFrames(3, stride=2))
        >>> env.reset(seed=0, options={"start": 0})[0]["image"].shape
        (3, 8, 8, 3)
        >>> env.step(env.action_space.sample())[0]["image"][:, 0, 0, 0].tolist()
        [0, 2, 4]
    """

    def __init__(self, env: gym.Env, view: View | Mapping[str, Any]) -> None:
        """Wrap an env whose observation is a Dict with an image; the view may be its `description`."""
        self._view = _own_view(view)
        PlainArguments.__init__(self, view=self._view.description())
        super().__init__(env)
        self._begun = False
        self.observation_space = self._view.space(_parts(env.observation_space))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Reset the env and the view."""
        observation, info = self.env.reset(seed=seed, options=options)
        # A view may refuse the episode, as for an unknown instruction: then no step is possible until the next reset.
        self._begun = False
        seen = self._view.begin(observation, info)
        self._begun = True
        return seen, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Step the env; ResetNeeded before the first reset, and after one whose episode the view refused."""
        if not self._begun:
            raise gym.error.ResetNeeded(_NEEDS_RESET)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._view.extend(observation, info), float(reward), terminated, truncated, info


class ViewedVector(DeclaringVectorWrapper):
    """Show a vector env through a view, a copy of it for every sub-environment.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> envs = ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), num_envs=5)
        >>> ViewedVector(envs, StackFrames(3)).reset(seed=0)[0]["image"].shape
        (5, 3, 8, 8, 3)
    """

    def __init__(self, env: VectorEnv, view: View | Mapping[str, Any]) -> None:
        """Wrap a vector env whose observation is a Dict with an image, as arrays; as in `Viewed`."""
        super().__init__(env)
        require_arrays("ViewedVector", env)
        self._views = [_own_view(view) for _ in range(env.num_envs)]
        self._seen: list[Observation] = [{} for _ in range(env.num_envs)]
        self._begun = [False] * env.num_envs
        self.single_observation_space = self._views[0].space(_parts(env.single_observation_space))
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Reset the env, and the views of the sub-environments that were reset."""
        observation, infos = self.env.reset(seed=seed, options=options)
        for row in range(self.num_envs):
            if info := sub_env_info(infos, row):
                self._begin(row, observation, info)
        return self._batch(), infos

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, Info]:
        """Step the env; under SAME_STEP `info["final_obs"]` shows the last step of an episode through the view too."""
        if not all(self._begun):
            raise gym.error.ResetNeeded(_NEEDS_RESET)
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        for row, view in enumerate(self._views):
            info = sub_env_info(infos, row)
            if "final_obs" in info:
                final = view.extend(info["final_obs"], info["final_info"])
                infos["final_obs"][row] = {name: np.array(value) for name, value in final.items()}
                self._seen[row] = final
            # A step without `executed` is the first of an episode, see the infos of a reset.
            if "executed" not in info:
                self._begin(row, observation, info)
            elif "final_obs" not in info:
                self._seen[row] = view.extend(_row(observation, row), info)
        return self._batch(), rewards, terminated, truncated, infos

    def _begin(self, row: int, observation: Observation, info: Mapping[str, Any]) -> None:
        self._begun[row] = False
        self._seen[row] = self._views[row].begin(_row(observation, row), info)
        self._begun[row] = True

    def _batch(self) -> Observation:
        return {name: np.stack([seen[name] for seen in self._seen]) for name in self._seen[0]}


def _own_view(view: object) -> View:
    """Return a copy of a view, or the view of a `description`; ValueError for anything else."""
    if isinstance(view, View):
        return copy.deepcopy(view)
    if not isinstance(view, Mapping) or set(view) != {"view", "arguments"} or not isinstance(view["view"], str):
        raise ValueError(f"what is seen must be a View, e.g. StackFrames(4), got {view!r}")
    try:
        kind = resolve_name(view["view"])
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{view['view']!r} cannot be imported ({error}); install the package that has it") from error
    if not isinstance(kind, type) or not issubclass(kind, View):
        raise ValueError(f"{view['view']!r} must be a View")
    if not isinstance(view["arguments"], Mapping):
        wanted = "its __init__ must pass its arguments to View.__init__ by name"
        raise ValueError(f"{kind.__name__} cannot be made again from a spec: {wanted}")
    return kind(**view["arguments"])


def _row(observation: Observation, row: int) -> Observation:
    return {name: values[row] for name, values in observation.items()}


def _parts(space: gym.Space) -> Mapping[str, gym.Space]:
    if not isinstance(space, gym.spaces.Dict) or "image" not in space.spaces:
        raise ValueError(f"a view needs observations Dict(image=...), got {space}; put views before other wrappers")
    return space.spaces
