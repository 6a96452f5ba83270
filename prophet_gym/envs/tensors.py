"""Vector envs that give tensors, and what does not go around them."""

from gymnasium.vector import VectorEnv


def require_arrays(user: str, envs: VectorEnv) -> None:
    """Raise ValueError if the env, or the one that it wraps, gives tensors (`gives_tensors`)."""
    if getattr(envs.unwrapped, "gives_tensors", False):
        raise ValueError(
            f"{user} works on arrays, and {type(envs.unwrapped).__name__} gives tensors: put it around a "
            "ProphetVectorEnv, whose dreams are the same"
        )
