"""Sample a path of a flow policy, and score a sampled path under the current policy."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prophrl_algos.flow._policy import FlowPath, FlowPolicy, FlowScores, FlowSpec, Obs, device_of
from prophrl_algos.flow._schedule import FlowSchedule, next_latents
from prophrl_algos.flow._sde import gaussian_log_prob


@torch.no_grad()
def sample(policy: FlowPolicy, obs: Obs, schedule: FlowSchedule, generators: Sequence[torch.Generator]) -> FlowPath:
    """Denoise one latent for each element of `obs`, whose prefix is encoded once.

    All randomness of element i comes from `generators[i]`, on the CPU, whatever the batch around it.

    Raises:
        ValueError: The schedule is one of `renoised`, for scoring alone.
    """
    if schedule.target is not next_latents:
        raise ValueError("a schedule that scores the path's end cannot be sampled by; sample by the one it was made of")
    spec, device = policy.spec, device_of(policy)
    rows, steps = len(generators), schedule.num_steps
    # Drawn before the noise, always: a seed's path depends on the order of its draws.
    stochastic = schedule.choose(generators, steps).to(device)
    size = (steps + 1, spec.horizon, spec.latent_dim)
    # float32 whatever torch's default is: densities and seeds' noise are the same then.
    drawn = [torch.randn(size, generator=generator, dtype=torch.float32) for generator in generators]
    noise = torch.stack(drawn).to(device)
    context = policy.encode(obs, grad=False)
    latents, scores = [schedule.initial_noise * noise[:, 0]], []
    for step in range(steps):
        velocity = policy.velocity(context, latents[-1], schedule.times[step].to(device).expand(rows))
        mean, std = schedule.moments(
            latents[-1][:, None], velocity.float()[:, None], stochastic[:, step : step + 1], step
        )
        latents.append((mean + std * noise[:, step + 1, None])[:, 0])
        scores.append(_score(latents[-1][:, None], mean, std, spec))
    return FlowPath(torch.stack(latents, 1), stochastic, FlowScores.cat(scores, dim=1), schedule)


def rescore(
    policy: FlowPolicy, obs: Obs, path: FlowPath, *, grad: bool = True, steps_per_call: int | None = None
) -> FlowScores:
    """Score the steps of a path on the policy's device: the prefix once, all steps in one velocity call.

    With `steps_per_call=1` the velocity calls have the shapes that they had in `sample`, and an unchanged policy
    gives the same bits; otherwise matmul kernels may round differently. All steps are in one call if it is not given.
    """
    per_call = path.schedule.num_steps if steps_per_call is None else steps_per_call
    if per_call < 1:
        raise ValueError(f"steps_per_call must be at least 1 or None, got {steps_per_call}")
    before, velocities = path.latents[:, :-1], []
    calls = zip(before.split(per_call, 1), path.schedule.times[:-1].to(before.device).split(per_call), strict=True)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        context = policy.encode(obs, grad=grad)
        for latents, times in calls:
            count = len(times)
            # At one step per call the context is passed as it is, as `sample` does.
            repeated = context if count == 1 else context.repeat_interleave(count)
            velocity = policy.velocity(repeated, latents.flatten(0, 1), times.repeat(len(path)))
            velocities.append(velocity.float().unflatten(0, (len(path), count)))
        mean, std = path.schedule.moments(before, torch.cat(velocities, 1), path.stochastic)
        return _score(path.schedule.target(path.latents), mean, std, policy.spec)


def step_stds(scores: FlowScores, stochastic: Bool[Tensor, "s k"]) -> Float[Tensor, " k"]:
    """Return the std of every step, averaged over the entries where it was stochastic; 0 where it never was."""
    total, count = std_sums(scores, stochastic)
    return total / count.clamp(min=1)


def std_sums(scores: FlowScores, stochastic: Bool[Tensor, "s k"]) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Return the sum of every step's stds over the entries where it was stochastic, and the number of these."""
    counted = stochastic[:, :, None, None] & (scores.std > 0)
    return torch.where(counted, scores.std, 0.0).sum((0, 2, 3)), counted.sum((0, 2, 3))


def _score(after: Tensor, mean: Tensor, std: Tensor, spec: FlowSpec) -> FlowScores:
    scored = (slice(None), slice(None), slice(spec.exec_steps), slice(spec.action_dim))
    # Padded columns and actions that are never executed say nothing of how an episode went.
    after, mean, std = after[scored], mean[scored], std[scored]
    return FlowScores(gaussian_log_prob(after, mean, std), mean, std)
