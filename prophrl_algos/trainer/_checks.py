"""What must hold before anything is generated, each with an error that says what to change."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophrl_algos.algorithms._algorithm import Algorithm, sampled_path
from prophrl_algos.flow import FlowPolicy, FlowSchedule, FlowSpec
from prophrl_algos.rollout import Rollouts


def require_noise(schedule: FlowSchedule, spec: FlowSpec, algorithm: Algorithm) -> None:
    """Raise ValueError unless some step has a density in some of the dimensions that are scored."""
    if algorithm.make_kernel is not None:
        raise ValueError(f"{algorithm.name} learns its noise: give the trainer algorithm.sized(policy.spec)")
    if algorithm.path is not sampled_path and isinstance(algorithm.kernel, nn.Module):
        raise ValueError(
            f"{algorithm.name} scores another path than its kernel samples, so the kernel would learn nothing: take "
            "one without weights, or path=sampled_path"
        )
    if algorithm.path is sampled_path and not schedule.choose([torch.Generator()], schedule.num_steps).any():
        raise ValueError(
            f"{algorithm.name} samples without noise, so paths have no density: choose=every_step, or path=renoised"
        )
    if not (schedule.stds(spec.latent_dim)[:, : spec.action_dim] > 0).any():
        raise ValueError(
            f"noise_level must be above 0 for {algorithm.name}, in at least one step, got "
            f"noise_level={schedule.noise_level:g} and K={schedule.num_steps}: without noise a path has no density; "
            "0.5 is usual"
        )


def require_finite(what: str, values: Float[Tensor, " b"], rollouts: Rollouts) -> None:
    """Raise ValueError where the value of a scored rollout is not finite, which says nothing of how good it was."""
    wrong = torch.nonzero(rollouts.scored & ~torch.isfinite(values))[:, 0].tolist()
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"the {what} of rollout {first} (group {int(rollouts.groups[first])}) is {float(values[first])}, and "
            f"{len(wrong)} of {len(values)} rollouts have one that is not finite: look at the env's rewards and at the "
            "algorithm's advantages"
        )


def require_trainable(policy: FlowPolicy, optimizer: torch.optim.Optimizer, algorithm: Algorithm) -> list[torch.Tensor]:
    """Return the optimizer's parameters; ValueError if it has none of the policy or misses the algorithm's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {id(parameter) for parameter in parameters}
    if not any(id(parameter) in known for parameter in policy.parameters()):
        raise ValueError("the optimizer has no parameter of the policy: make it from policy.parameters()")
    kernel = algorithm.kernel
    if isinstance(kernel, nn.Module) and not all(id(parameter) in known for parameter in kernel.parameters()):
        raise ValueError(f"{algorithm.name} learns its noise: give the optimizer algorithm.kernel.parameters() as well")
    return parameters
