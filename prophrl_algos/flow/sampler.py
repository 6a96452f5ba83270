"""Sample a path of a flow policy, and score a sampled path with the policy as it is now."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prophrl_algos.flow.policy import FlowPath, FlowPolicy, FlowScores, FlowSpec, Obs, device_of
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.flow.sde import step_log_prob


@torch.no_grad()
def sample(policy: FlowPolicy, obs: Obs, schedule: FlowSchedule, generators: Sequence[torch.Generator]) -> FlowPath:
    """Denoise one latent for each row of `obs`.

    Args:
        policy: gives the velocity; encoded once.
        obs: one row per generator.
        schedule: times and noise.
        generators: on the CPU; all randomness of row i comes from `generators[i]`, whatever the batch around it.

    Raises:
        ValueError: the schedule is one of `renoised`, for scoring alone.
    """
    if schedule.to_end:
        raise ValueError("a schedule that scores the path's end cannot be sampled by; sample by the one it was made of")
    spec, device = policy.spec, device_of(policy)
    rows, steps = len(generators), schedule.num_steps
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
    whole = FlowScores(*(torch.cat([getattr(s, name) for s in scores], 1) for name in ("log_prob", "mean", "std")))
    return FlowPath(torch.stack(latents, 1), stochastic, whole, schedule)


def rescore(
    policy: FlowPolicy, obs: Obs, path: FlowPath, *, grad: bool = True, steps_per_call: int | None = None
) -> FlowScores:
    """Score the steps of a path with the policy as it is now: the prefix once, all steps in one velocity call.

    With `steps_per_call=1` the velocity calls have the shapes that they had in `sample`, and an unchanged policy
    gives the same bits; otherwise matmul kernels may round differently.

    Args:
        policy: to be scored.
        obs: one row per row of the path.
        path: on the policy's device.
        grad: whether the scores carry a gradient.
        steps_per_call: evaluate so many steps at a time, where memory binds; all if not given.
    """
    per_call = path.schedule.num_steps if steps_per_call is None else steps_per_call
    if per_call < 1:
        raise ValueError(f"steps_per_call must be at least 1 or None, got {steps_per_call}")
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        context = policy.encode(obs, grad=grad)
        velocities = []
        for first in range(0, path.schedule.num_steps, per_call):
            before = path.latents[:, first : min(first + per_call, path.schedule.num_steps)]
            count = before.shape[1]
            times = path.schedule.times[first : first + count].to(before.device).repeat(len(path))
            # At one step per call the context is passed as it is, as `sample` does.
            repeated = context if count == 1 else context.repeat_interleave(count)
            velocity = policy.velocity(repeated, before.flatten(0, 1), times)
            velocities.append(velocity.float().unflatten(0, (len(path), count)))
        return score_velocity(torch.cat(velocities, 1), path, policy.spec)


def score_velocity(velocity: Float[Tensor, "s k h d"], path: FlowPath, spec: FlowSpec) -> FlowScores:
    """The scores of a path under given velocities."""
    mean, std = path.schedule.moments(path.latents[:, :-1], velocity, path.stochastic)
    return _score(path.after, mean, std, spec)


def step_stds(scores: FlowScores, stochastic: Bool[Tensor, "s k"]) -> Float[Tensor, " k"]:
    """The std of every step, averaged over the entries for which it was stochastic; 0 where it never was."""
    counted = stochastic[:, :, None, None] & (scores.std > 0)
    total = torch.where(counted, scores.std, 0.0).sum((0, 2, 3))
    return total / counted.sum((0, 2, 3)).clamp(min=1)


def _score(after: Tensor, mean: Tensor, std: Tensor, spec: FlowSpec) -> FlowScores:
    scored = (slice(None), slice(None), slice(spec.exec_steps), slice(spec.action_dim))
    after, mean, std = after[scored], mean[scored], std[scored]
    return FlowScores(step_log_prob(after, mean, std), mean, std)
