"""What all wrappers here do: keep plain arguments for specs, and leave what the env declares readable."""

import inspect
from typing import Any

from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from prophet_gym.envs._plain import plain


class PlainArguments(RecordConstructorArgs):
    """`RecordConstructorArgs` that keeps plain data, so that a spec with this wrapper survives JSON."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**plain(arguments))


class DeclaringVectorWrapper(VectorWrapper):
    """A `VectorWrapper` with the attributes of the env inside, such as `autoreset_mode` and `fps`.

    Methods of the env are not among them: a wrapper may have a memory that they know nothing of. Call them on
    `unwrapped`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the env inside; called where this wrapper has none of that name."""
        env: VectorEnv | None = None if name.startswith("_") else vars(self).get("env")
        if env is None or not (hasattr(env, name) or isinstance(env, DeclaringVectorWrapper)):
            raise AttributeError(f"neither {type(self).__name__} nor the env inside has an attribute {name!r}")
        value = getattr(env, name)
        if inspect.ismethod(value):
            raise AttributeError(
                f"{name!r} is a method of the env inside {type(self).__name__}, which knows nothing of this wrapper: "
                f"call it on unwrapped, and reset afterwards"
            )
        return value


def require_arrays(user: str, envs: VectorEnv) -> None:
    """Raise ValueError if the env, or the one that it wraps, gives tensors (`gives_tensors`)."""
    if getattr(envs.unwrapped, "gives_tensors", False):
        raise ValueError(
            f"{user} works on arrays, and {type(envs.unwrapped).__name__} gives tensors: put it around a "
            "ProphetVectorEnv, whose dreams are the same"
        )
