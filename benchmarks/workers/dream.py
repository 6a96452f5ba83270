"""The bundled dream for a few chunks, with a reward that tells rollouts apart before any succeeds.

`prophrl train --env benchmarks.workers.dream:Prophet-Short-v0 --reward benchmarks.workers.dream:brightness`
"""

import gymnasium as gym
from torch import Tensor

CHUNKS = 2

if "Prophet-Short-v0" not in gym.registry:
    import prophet_gym  # noqa: F401 registers the ids

    known = gym.spec("Prophet-LIBERO-v0")
    gym.register(
        "Prophet-Short-v0",
        known.entry_point,
        vector_entry_point=known.vector_entry_point,
        max_episode_steps=CHUNKS,
        disable_env_checker=True,
    )


def brightness(video: Tensor, instruction: str) -> float:
    """Return the mean of the latest frame, in [0, 1)."""
    del instruction
    return float(video[-1].float().mean()) / 256
