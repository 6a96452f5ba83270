"""Share between wrappers: plain arguments for specs, attributes of the wrapped env, arrays instead of tensors."""

import inspect
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from prophet_gym.envs._plain import plain


class PlainArguments(RecordConstructorArgs):
    """Record the constructor's arguments as plain data, so that a spec with this wrapper survives JSON."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**plain(arguments))


class DeclaringVectorWrapper(VectorWrapper):
    """Wrap a vector env and have its attributes, such as `autoreset_mode` and `fps`.

    Methods of the env are not among them: a wrapper may have a memory that they know nothing of. Call them on
    `unwrapped`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped env; called where this wrapper has none of that name."""
        env: VectorEnv | None = None if name.startswith("_") else vars(self).get("env")
        if env is None or not (hasattr(env, name) or isinstance(env, DeclaringVectorWrapper)):
            raise AttributeError(f"neither {type(self).__name__} nor the wrapped env has an attribute {name!r}")
        value = getattr(env, name)
        if inspect.ismethod(value):
            whose = f"a method of the env that {type(self).__name__} wraps, which knows nothing of this wrapper"
            raise AttributeError(f"{name!r} is {whose}: call it on unwrapped, and reset afterwards")
        return value


def require_arrays(user: str, envs: VectorEnv) -> None:
    """Raise ValueError if the env, or the one that it wraps, gives tensors."""
    if getattr(envs.unwrapped, "gives_tensors", False):
        given = f"{type(envs.unwrapped).__name__} gives tensors"
        raise ValueError(f"{user} works on arrays, and {given}: put it around a ProphetVectorEnv")


def chunk_space(wrapper: str, space: gym.Space) -> gym.spaces.Box:
    """Return the space of chunks (k, a); ValueError for another one."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"{wrapper} needs an action space Box (k, a), got {space}")
    return space
