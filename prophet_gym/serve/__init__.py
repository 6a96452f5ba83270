"""A world model as a service: `prophet serve` runs it, `RemoteProphetVectorEnv` is the env of a client."""

from prophet_gym.serve._client import RemoteProphetVectorEnv

__all__ = ["RemoteProphetVectorEnv"]
