"""What all wrappers here do: keep plain arguments for specs, and leave what the env declares readable."""

import inspect
from typing import Any

from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from prophet_gym.envs.plain import plain


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
