"""Published networks as flow policies: what they say themselves is what the policy says."""

import pytest
import torch
import torch.nn.functional as F

from prophrl_algos.flow import FlowSchedule, no_step, rescore, sample, select_obs
from prophrl_algos.testing import check_flow_policy
from prophrl_algos.trainer._weight_copy import WeightCopy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def without_noise(policy):
    return FlowSchedule(policy.spec.num_steps, 0.0, choose=no_step)


def generators(rows):
    return [torch.Generator().manual_seed(3 + row) for row in range(rows)]


def path_and_own(family, policy, seen, masked=0):
    """The policy's path without noise, and what the network's sampler makes of the same first latent."""
    obs = policy.prepare(*seen)
    path = sample(policy, obs, without_noise(policy), generators(len(seen[1])))
    return path.x0, family.sample(policy, obs, path.latents[:, 0].clone(), masked)


def test_it_obeys_the_contract(family, seen):
    check_flow_policy(family.make(), *seen)


def test_without_noise_it_is_the_networks_own_sampler(family, seen):
    ours, own = path_and_own(family, family.make(num_steps=4), seen)
    assert (ours - own).abs().max() < 1e-5
    assert own.std() > 0.1


@pytest.mark.parametrize("flip", ["sign", "time"])
def test_a_flipped_sign_or_time_would_be_noticed(family, seen, flip, monkeypatch):
    policy = family.make()
    right = policy.velocity
    turned = {"sign": lambda c, x, t: -right(c, x, t), "time": lambda c, x, t: right(c, x, 1 - t)}
    monkeypatch.setattr(policy, "velocity", turned[flip])
    ours, own = path_and_own(family, policy, seen)
    assert (ours - own).abs().max() > 1e-2


def test_the_cached_velocity_is_that_of_the_networks_training_pass(family, seen):
    policy = family.make()
    obs = policy.prepare(*seen)
    noise, x0 = torch.randn(2, 3, 4, policy.spec.latent_dim, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        velocity = policy.velocity(policy.encode(obs, grad=False), torch.lerp(x0, noise, t[:, None, None]), t)
        own = family.joint(policy, obs, x0, noise, t)
    torch.testing.assert_close((noise - x0 - velocity) ** 2, own, atol=1e-4, rtol=1e-4)


def test_what_sft_lowers_is_the_networks_own_loss(family, seen):
    """Commands to latents, noise, time and target: the mean over the real numbers of what the network's pass gives."""
    policy = family.make()
    obs = policy.prepare(*seen)
    latents = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1))
    # These policies say the env's own actions.
    actions = policy.processor.actions.undo(latents)
    loss = policy.sft_loss(obs, actions, generator=torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    noise = torch.randn(3, 4, policy.spec.latent_dim, generator=draws)
    t = torch.rand(3, generator=draws) ** (2 / 3) * 0.999 + 0.001
    own = family.joint(policy, obs, F.pad(latents, (0, policy.spec.latent_dim - 7)), noise, t)
    torch.testing.assert_close(loss, own[..., :7].mean(), atol=1e-4, rtol=1e-4)


def test_a_masked_camera_has_no_effect_so_it_is_left_out(family, seen):
    ours, own = path_and_own(family, family.make(num_steps=4), seen, masked=1)
    assert (ours - own).abs().max() < 1e-5


def test_a_missing_wrist_view_is_the_view_masked(family, seen):
    shown, texts = seen
    policy = family.make(num_steps=4)
    alone = {name: value for name, value in shown.items() if name != "wrist_image"}
    ours, own = path_and_own(family, policy, (alone, texts), masked=1)
    both, _ = path_and_own(family, policy, seen)
    assert (ours - own).abs().max() < 1e-5
    assert (ours - both).abs().max() > 1e-3


def test_ragged_prompts_in_a_batch_are_as_one_by_one(family, seen):
    policy = family.make()
    obs = policy.prepare(*seen)
    x = torch.randn(3, 4, policy.spec.latent_dim, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0.2, 0.6, 1.0])
    with torch.no_grad():
        together = policy.velocity(policy.encode(obs, grad=False), x, t)
        for row in range(3):
            one = torch.tensor([row])
            alone = policy.velocity(policy.encode(select_obs(obs, one), grad=False), x[one], t[one])
            assert (together[one] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("train", ["expert", "lora", "full"])
def test_gradients_reach_exactly_what_is_declared_trained(family, seen, train):
    policy = family.make(train=train)
    obs = policy.prepare(*seen)
    path = sample(policy, obs, FlowSchedule(3, 0.5), generators(3))
    if train == "lora":  # an adapter begins as zero, where half of it has no gradient
        for weight in policy.parameters():
            weight.data += 0.01 * weight.requires_grad
    weigh = torch.linspace(-1, 1, path.log_prob.numel()).view_as(path.log_prob)
    (rescore(policy, obs, path).log_prob * weigh).sum().backward()
    trained = {name for name, weight in policy.network.named_parameters() if weight.requires_grad}
    reached = {
        name
        for name, weight in policy.network.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert reached == trained
    assert trained
    inside = {name for name in trained if name.startswith(family.prefix)}
    assert bool(inside) == (train == "full")


@pytest.mark.parametrize("train", ["expert", "lora"])
def test_the_ratio_is_one_in_half_precision_too(family, seen, train):
    policy = family.make(train=train)
    for name, weight in policy.network.named_parameters():
        if name.startswith(family.prefix):
            weight.data = weight.data.bfloat16()
    obs = policy.prepare(*seen)
    path = sample(policy, obs, FlowSchedule(3, 0.5), generators(3))
    again = rescore(policy, obs, path, steps_per_call=1, grad=True).log_prob
    assert torch.equal(again, path.log_prob)
    together = rescore(policy, obs, path).log_prob
    assert (together - path.log_prob).sum(1).abs().max() < 1e-4


@pytest.mark.parametrize("train", ["expert", "lora", "full"])
def test_its_reference_is_what_it_was_when_learning_began(family, seen, train):
    policy = family.make(train=train)
    obs = policy.prepare(*seen)
    # Cloning comes before learning: adapters are not zero when it begins.
    move(policy)
    path = sample(policy, obs, FlowSchedule(3, 0.5), generators(3))
    reference = WeightCopy(policy, [weight for weight in policy.parameters() if weight.requires_grad])
    move(policy)
    moved = rescore(policy, obs, path, steps_per_call=1, grad=False).log_prob
    with reference.applied():
        before = rescore(policy, obs, path, steps_per_call=1, grad=False).log_prob
    assert torch.equal(before, path.log_prob)
    assert (moved - before).abs().max() > 1e-3
    assert torch.equal(rescore(policy, obs, path, steps_per_call=1, grad=False).log_prob, moved)


def move(policy):
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
