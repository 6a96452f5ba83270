"""Replay a dream's actions from the same initial state in an env whose reward is the truth."""

from collections.abc import Sequence

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float32

from prophet_gym.sims._initial_states import TRAIN_SEED


def true_outcomes(
    env: VectorEnv,
    tasks: Sequence[int],
    starts: Sequence[int],
    chunks: Float32[np.ndarray, "b n k a"],
    lengths: Sequence[int] | None = None,
) -> Bool[np.ndarray, " b"]:
    """Tell whether the actions of each sub-environment solve its task.

    Args:
        env: A `SimulatorVectorEnv`, or another one with the reset options `task` and `start` whose reward of 1.0 is
            true; as many sub-environments as `chunks`, autoreset disabled.
        tasks: The number of the task of each sub-environment.
        starts: The number of the initial state of each, as `info["start"]` of the dream says.
        chunks: The n chunks of k actions.
        lengths: Chunks of each that count; all of them if not given.
    """
    if env.num_envs != len(chunks) or env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
        raise ValueError(
            f"the env must have {len(chunks)} sub-environments and autoreset DISABLED, got {env.num_envs} and "
            f"{env.metadata.get('autoreset_mode')}"
        )
    train = getattr(env.unwrapped, "split", "") == "train"
    numbers = [TRAIN_SEED + start if train else start for start in starts]
    env.reset(options={"task": list(tasks), "start": numbers})
    done = np.zeros(len(chunks), bool)
    count = np.full(len(chunks), chunks.shape[1]) if lengths is None else np.asarray(lengths)
    for step in range(chunks.shape[1]):
        _, rewards, *_ = env.step(chunks[:, step])
        done |= (np.asarray(rewards) >= 1.0) & (step < count)
    return done
