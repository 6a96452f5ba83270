"""What must hold before anything is generated, each with an error that says what to change."""

from collections.abc import Iterator, Sequence

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym.specs import InitialState
from prophrl_algos.algorithms import Algorithm
from prophrl_algos.flow.policy import FlowPolicy, FlowSpec
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.groups import refuse_official, require_env
from prophrl_algos.rollout import Rollouts


def require_fit(policy: FlowPolicy, env: VectorEnv, groups: int, group_size: int, budget: int) -> None:
    """Raise ValueError (InvalidStartError for official starts) unless policy, env and groups fit each other."""
    require_env(env, groups, group_size, budget)
    require_chunk(policy, env)
    refuse_official(splits_of(env))


def require_noise(schedule: FlowSchedule, spec: FlowSpec, algorithm: Algorithm) -> None:
    """Raise ValueError unless some step has a density in some of the numbers that are scored."""
    scale = schedule.noise_scale
    if scale is not None and len(scale) != spec.latent_dim:
        raise ValueError(f"noise_scale must have latent_dim={spec.latent_dim} numbers, got {len(scale)}")
    if algorithm.scored is not None and isinstance(algorithm.kernel, nn.Module):
        raise ValueError(
            f"{algorithm.name} scores something else than the path that its kernel samples, so the kernel would learn "
            "nothing: take one without weights, or scored=None"
        )
    if algorithm.scored is None and not schedule.choose([torch.Generator()], schedule.num_steps).any():
        raise ValueError(
            f"{algorithm.name} samples without noise, so paths have no density: choose=every_step, or scored=renoised"
        )
    if not (schedule.stds(spec.latent_dim)[:, : spec.action_dim] > 0).any():
        given = f"noise_level={schedule.noise_level:g}" + ("" if scale is None else f", noise_scale={scale.tolist()}")
        raise ValueError(
            f"noise_level must be above 0 for {algorithm.name}, in at least one step and one scored dimension, got "
            f"{given} and K={schedule.num_steps}: without noise a path has no density; 0.5 is usual"
        )


def spread(updates: int, most: int = 1000) -> Iterator[float]:
    """Shares of a run at which to look, from its first update on: each update's, or `most` of them in a long run.

    Example:
        >>> list(spread(4)), len(list(spread(10**12)))
        ([0.0, 0.25, 0.5, 0.75], 1000)
    """
    count = min(updates, most)
    return (index * (updates - 1) // max(count - 1, 1) / updates for index in range(count))


def require_finite(what: str, values: Float[Tensor, " b"], rollouts: Rollouts) -> None:
    """Raise ValueError where a judged rollout's value is no finite number, which says nothing of how good it was."""
    wrong = torch.nonzero(rollouts.scored & ~torch.isfinite(values))[:, 0].tolist()
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"the {what} of rollout {first} (group {int(rollouts.groups[first])}) is {float(values[first])}, and "
            f"{len(wrong)} of {len(values)} rollouts have one that is not finite: look at the env's rewards and at the "
            "algorithm's advantages"
        )


def require_chunk(policy: FlowPolicy, env: VectorEnv) -> None:
    """Raise ValueError unless the policy executes as many actions as the env's chunk has."""
    spec, space = policy.spec, env.single_action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"the env must take action chunks, Box (actions, numbers), got {space}")
    chunk = space.shape[0]
    if spec.horizon < chunk:
        raise ValueError(
            f"the policy's horizon={spec.horizon} is shorter than the env's chunk of {chunk} actions: "
            "make the env with a shorter chunk or the policy with a longer horizon"
        )
    if spec.exec_steps != chunk:
        raise ValueError(
            f"the policy executes exec_steps={spec.exec_steps} actions, the env's chunk has {chunk}: make them equal"
        )


def require_trainable(policy: FlowPolicy, optimizer: torch.optim.Optimizer, algorithm: Algorithm) -> list[torch.Tensor]:
    """The optimiser's parameters; ValueError if it has none of the policy or misses the algorithm's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {id(parameter) for parameter in parameters}
    if not any(id(parameter) in known for parameter in policy.parameters()):
        raise ValueError("the optimizer has no parameter of the policy: make it from policy.parameters()")
    kernel = algorithm.kernel
    if isinstance(kernel, nn.Module) and not all(id(parameter) in known for parameter in kernel.parameters()):
        raise ValueError(f"{algorithm.name} learns its noise: give the optimizer algorithm.kernel.parameters() as well")
    return parameters


def splits_of(env: VectorEnv) -> set[object]:
    """The start sets that an env says it draws from; what it does not say shows at its first reset."""
    inner = env.unwrapped
    starts = getattr(inner, "starts", ())
    named = {getattr(inner, "split", None), starts if isinstance(starts, str) else None}
    if isinstance(starts, Sequence) and not isinstance(starts, str):
        named |= {start.split for start in starts if isinstance(start, InitialState)}
    return named
