"""Checks for people who bring their own flow policy.

They raise AssertionError with what must hold and what was found; they need no test framework.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, Obs, device_of, rescore, sample, select_obs

_FIT_BATCH = 48


def check_flow_policy(
    policy: FlowPolicy, env_obs: Any, instructions: Sequence[str], *, tolerance: float = 1e-4, fit_steps: int = 0
) -> None:
    """Check a policy against the contract of `FlowPolicy`.

    It checks sizes and dtypes, purity, independence of batch elements, contexts, seeds, re-scoring to the bit (a ratio
    of exactly 1), gradients and padding. With `fit_steps` it also checks that sampling and `decode` reproduce what
    `sft_loss` teaches in this many steps of Adam, which a flipped time or sign fails; the weights are restored.

    Pass a policy in eval mode whose weights are not degenerate (a zero-initialised head hides errors), and observations
    of two or more different sub-environments, with an instruction for each. Between batch sizes log-probs and
    velocities may differ by `tolerance`, where 1 is their scale.

    Raises:
        AssertionError: Says what must hold and what was found.
    """
    rows = len(instructions)
    assert rows >= 2, f"check_flow_policy needs at least 2 batch elements, got {rows}"
    assert isinstance(policy, nn.Module), f"a policy must be an nn.Module, got {type(policy).__name__}"
    assert not policy.training, "the policy must be in eval mode: call policy.eval()"
    obs = policy.prepare(env_obs, instructions)
    _check_obs(obs, rows)
    _check_velocity(policy, obs, _noise(policy, rows, 0), tolerance)
    path = _check_scores(policy, obs, rows, tolerance)
    _check_decode(policy, obs, path.x0, rows)
    if fit_steps:
        copies = torch.arange(rows).repeat(max(_FIT_BATCH // rows, 1))
        _check_fit(policy, select_obs(obs, copies), len(copies), fit_steps)


def _check_obs(obs: Obs, rows: int) -> None:
    assert isinstance(obs, Mapping), f"prepare must return a mapping of tensors, got {type(obs).__name__}"
    for name, tensor in obs.items():
        assert isinstance(tensor, Tensor), f"prepare's {name!r} must be a tensor, got {type(tensor).__name__}"
        assert len(tensor) == rows, f"prepare's {name!r} must be a batch of {rows}, got {len(tensor)}"
        assert not tensor.requires_grad, f"prepare's {name!r} must carry no gradient"


def _check_velocity(policy: FlowPolicy, obs: Obs, x: Tensor, tolerance: float) -> None:
    rows = len(x)
    t = torch.linspace(0.2, 0.9, rows, device=x.device)
    before, stored = x.clone(), {name: tensor.clone() for name, tensor in obs.items()}
    context = policy.encode(obs, grad=False)
    with torch.no_grad():
        velocity = policy.velocity(context, x, t)
        assert velocity.shape == x.shape, f"velocity must have shape {tuple(x.shape)}, got {tuple(velocity.shape)}"
        assert velocity.dtype == torch.float32, f"velocity must be float32, got {velocity.dtype}"
        assert torch.isfinite(velocity).all(), "velocity must be finite"
        unchanged = torch.equal(x, before) and all(torch.equal(obs[name], stored[name]) for name in obs)
        assert unchanged, "encode and velocity must not change their arguments"
        again = policy.velocity(context, x, t)
        assert torch.equal(velocity, again), "the same call must give the same velocity; a context must not be used up"
        for row in range(rows):
            index = torch.tensor([row])
            alone = policy.velocity(policy.encode(select_obs(obs, index), grad=False), x[index], t[index])
            _close(f"element {row} must not depend on the others of its batch", velocity[row], alone[0], tolerance)
        # Reversed, since a context that ignores the order would pass with the identity.
        order = torch.arange(rows).flip(0)
        picked = policy.velocity(context.select(order), x[order], t[order])
        _close("context.select must give the elements in the order asked for", velocity[order], picked, tolerance)
        each = torch.arange(rows).repeat_interleave(2)
        doubled = policy.velocity(context.repeat_interleave(2), x[each], t[each])
        message = "context.repeat_interleave must keep copies of an element side by side"
        _close(message, velocity[each], doubled, tolerance)
        moved = policy.velocity(context, x, t * 0.5)
    assert not torch.allclose(moved, velocity), "velocity must depend on t"


def _check_scores(policy: FlowPolicy, obs: Obs, rows: int, tolerance: float) -> FlowPath:
    schedule = FlowSchedule(policy.spec.num_steps, 0.5)
    path = sample(policy, obs, schedule, _generators(range(rows)))
    again = sample(policy, obs, schedule, _generators(range(rows)))
    assert torch.equal(path.latents, again.latents), "the same seeds must give the same path: is there dropout?"
    other = sample(policy, obs, schedule, _generators(range(50, 50 + rows)))
    assert not torch.equal(path.latents, other.latents), "other seeds must give another path"
    same = rescore(policy, obs, path, steps_per_call=1, grad=False).log_prob
    assert torch.equal(same, path.log_prob), (
        "re-scoring in the shapes of sampling must give the same bits, differs by up to "
        f"{float((same - path.log_prob).abs().max()):g}"
    )
    together = rescore(policy, obs, path, grad=False).log_prob
    gap = float((together - path.log_prob).sum(1).abs().max())
    assert gap <= tolerance, f"re-scoring all steps in one call must agree within {tolerance:g}, differs by {gap:g}"
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    assert weights, "a policy must have weights that require a gradient"
    gradients = torch.autograd.grad(rescore(policy, obs, path).log_prob.sum(), weights, allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    assert reached, "the log-prob must have a gradient in the policy's weights"
    assert all(torch.isfinite(gradient).all() for gradient in reached), "gradients must be finite"
    assert any(gradient.abs().sum() > 0 for gradient in reached), "some gradient must not be 0"
    return path


def _check_decode(policy: FlowPolicy, obs: Obs, x0: Tensor, rows: int) -> None:
    spec = policy.spec
    with torch.no_grad():
        actions = policy.decode(x0, obs)
        good = actions.ndim == 3 and actions.shape[:2] == (rows, spec.exec_steps)
        assert good, f"decode must return ({rows}, {spec.exec_steps}, numbers), got {tuple(actions.shape)}"
        other = x0.clone()
        other[:, spec.exec_steps :] += 1
        other[:, :, spec.action_dim :] += 1
        same = torch.equal(policy.decode(other, obs), actions)
    assert same, "decoded actions must not depend on padded columns or on what lies past exec_steps: it is not scored"


def _check_fit(policy: Any, obs: Obs, rows: int, steps: int) -> None:
    spec = policy.spec
    kept = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    with torch.no_grad():
        start = _euler(policy, obs, rows)
    # A chunk that the policy can decode to, shifted so that it must be learned.
    half = torch.full((rows, spec.horizon, spec.latent_dim), 0.5, device=device_of(policy))
    goal = policy.decode(half, obs).detach()
    goal = torch.cat([goal, goal[:, -1:].expand(-1, spec.horizon - spec.exec_steps, -1)], 1)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    try:
        for _ in range(steps):
            optimizer.zero_grad()
            policy.sft_loss(obs, goal, generator=generator).backward()
            optimizer.step()
        with torch.no_grad():
            reached, spread = _euler(policy, obs, rows), _first_guess_spread(policy, obs)
    finally:
        policy.load_state_dict(kept)
        optimizer.zero_grad()
    assert spread < 0.5, (
        f"after {steps} steps of sft_loss on one chunk, x - v(x, t = 1) must be that chunk whatever the noise x (its "
        f"spread is {spread:.3g} of the noise's): is t = 1 noise, v = noise - action?"
    )
    wanted = goal[:, : spec.exec_steps]
    before, after = float((start - wanted).abs().mean()), float((reached - wanted).abs().mean())
    assert after < 0.5 * before, (
        f"after {steps} steps of sft_loss on one chunk, sampling must come near it: it was {before:.3g} away and is "
        f"{after:.3g}; is t = 1 noise, v = noise - action, and does decode undo the scaling of sft_loss?"
    )


def _first_guess_spread(policy: FlowPolicy, obs: Obs, count: int = 64) -> float:
    x = _noise(policy, count, 1)
    first = policy.encode(select_obs(obs, torch.tensor([0])), grad=False).repeat_interleave(count)
    guess = x - policy.velocity(first, x, torch.ones(count, device=x.device))
    return float(guess[:, : policy.spec.exec_steps, : policy.spec.action_dim].std(0).mean())


def _noise(policy: FlowPolicy, rows: int, seed: int) -> Tensor:
    size = (rows, policy.spec.horizon, policy.spec.latent_dim)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device_of(policy))


def _euler(policy: FlowPolicy, obs: Obs, rows: int) -> Tensor:
    schedule = FlowSchedule(policy.spec.num_steps, 0.0)
    return policy.decode(sample(policy, obs, schedule, _generators(range(rows))).x0, obs)


def _generators(seeds: Sequence[int] | range) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 + seed) for seed in seeds]


def _close(message: str, one: Tensor, other: Tensor, tolerance: float) -> None:
    scale = max(1.0, float(one.abs().max()))
    gap = float((one - other).abs().max())
    assert gap <= tolerance * scale, f"{message}: differs by up to {gap:g}"
