"""Flow policies as `prophet rank` takes them: `prophrl_algos.acting:flow?policy=small-k4&weights=FOLDER`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from prophrl_algos._named import make_policy
from prophrl_algos.flow import FlowSchedule, sample


def flow(
    env: VectorEnv, policy: str, weights: str | None = None, noise_level: str = "0", initial_noise: str = "1"
) -> Callable[[Mapping[str, np.ndarray], Sequence[Any]], np.ndarray]:
    """Make a flow policy that acts, see `prophet_gym.evaluation.ActingPolicy`; numbers may be texts.

    Args:
        env: With the spaces that it acts in.
        policy: As `prophrl evaluate --policy` takes it.
        weights: As `--policy-weights`.
        noise_level: Of the sampling SDE, see `FlowSchedule`.
        initial_noise: Factor on the noise that each chunk is denoised from.
    """
    made = make_policy(policy, env, None if weights is None else Path(weights))
    space: Any = env.single_action_space
    schedule = FlowSchedule(made.spec.num_steps, float(noise_level), initial_noise=float(initial_noise))

    def act(observation: Mapping[str, np.ndarray], episodes: Sequence[Any]) -> np.ndarray:
        for each in episodes:
            if "noise" not in each.memory:
                each.memory["noise"] = torch.Generator().manual_seed(int(each.random.integers(2**62)))
        obs = made.prepare(observation, [str(each.start.get("instruction", "")) for each in episodes])
        with torch.no_grad():
            x0 = sample(made, obs, schedule, [each.memory["noise"] for each in episodes]).x0
            decoded = made.decode(x0, obs)
        return np.clip(decoded.float().cpu().numpy(), space.low, space.high)

    return act
