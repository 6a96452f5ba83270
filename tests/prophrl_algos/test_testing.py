"""`check_flow_policy` passes what obeys the contract and names what does not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.toys import TinyFlowPolicy
from prophrl_algos.flow import FlowSpec
from prophrl_algos.testing import check_flow_policy

SPEC = FlowSpec(horizon=3, latent_dim=3, action_dim=2, exec_steps=2, num_steps=4)
IMAGES = {"image": np.random.default_rng(0).integers(256, size=(3, 6, 6, 3), dtype=np.uint8)}
TEXTS = ["lift", "push the drawer", "open"]


def check(policy, **kwargs):
    check_flow_policy(policy.eval(), IMAGES, TEXTS, **kwargs)


def test_our_own_policy_passes_and_keeps_its_weights():
    policy = TinyFlowPolicy(SPEC, hidden=24)
    before = [weight.clone() for weight in policy.parameters()]
    check(policy, fit_steps=120)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


class Mixing(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        return super().velocity(ctx, x, t) + x.mean()


class Dropping(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        return F.dropout(super().velocity(ctx, x, t), 0.3)


class Timeless(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        return super().velocity(ctx, x, torch.ones_like(t))


class Halved(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        return super().velocity(ctx, x, t).bfloat16()


class Unlearnable(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        return super().velocity(ctx, x, t).detach()


class Padded(TinyFlowPolicy):
    def decode(self, x0, obs):
        return x0[:, :2, :2] + x0[:, :2, 2:]


class Writing(TinyFlowPolicy):
    def velocity(self, ctx, x, t):
        found = super().velocity(ctx, x, t)
        x += 1
        return found


class UsedUp(TinyFlowPolicy):
    """A context that is appended to, as a KV cache that is changed in place."""

    def velocity(self, ctx, x, t):
        ctx["vector"] = ctx["vector"] * 1.1
        return super().velocity(ctx, x, t)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Mixing, "must not depend on the others of its batch"),
        (Dropping, "the same call must give the same velocity"),
        (Timeless, "velocity must depend on t"),
        (Halved, r"velocity must be float32, got torch\.bfloat16"),
        (Unlearnable, "gradient"),
        (Padded, "must not depend on padded columns"),
        (Writing, "must not change their arguments"),
        (UsedUp, "a context must not be used up"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not require grad.*")
def test_what_breaks_the_contract_is_named(wrong, message):
    policy = wrong(SPEC, hidden=24)
    if wrong is Unlearnable:
        with pytest.raises((AssertionError, RuntimeError), match="grad"):
            check(policy)
        return
    with pytest.raises(Exception, match=message) as caught:
        check(policy)
    assert isinstance(caught.value, AssertionError | TypeError)


class Backwards(TinyFlowPolicy):
    """Trained with time running from noise at 0 to the action at 1, sampled the other way."""

    def sft_loss(self, obs, actions, *, generator):
        x0 = F.pad(actions, (0, 1))
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.rand(len(x0), generator=generator)
        x = torch.lerp(noise, x0, t[:, None, None])
        return F.mse_loss(self.velocity(self.encode(obs, grad=True), x, t), noise - x0)


class Flipped(TinyFlowPolicy):
    """Trained towards action minus noise."""

    def sft_loss(self, obs, actions, *, generator):
        x0 = F.pad(actions, (0, 1))
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.rand(len(x0), generator=generator)
        x = torch.lerp(x0, noise, t[:, None, None])
        return F.mse_loss(self.velocity(self.encode(obs, grad=True), x, t), x0 - noise)


class Unscaled(TinyFlowPolicy):
    """Decodes to other units than it was taught in."""

    def decode(self, x0, obs):
        return super().decode(x0, obs) * 5


@pytest.mark.parametrize("wrong", [Backwards, Flipped, Unscaled])
def test_a_flipped_time_or_sign_or_scale_fails_the_fit(wrong):
    with pytest.raises(AssertionError, match="is t = 1 noise, v = noise - action"):
        check(wrong(SPEC, hidden=24), fit_steps=120)


def test_train_mode_is_refused():
    with pytest.raises(AssertionError, match="must be in eval mode"):
        check_flow_policy(TinyFlowPolicy(SPEC).train(), IMAGES, TEXTS)
