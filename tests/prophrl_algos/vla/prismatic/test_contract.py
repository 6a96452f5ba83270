"""Both policies, with both of their heads, obey the contract; what is masked or padded has no effect."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prophrl_algos.flow import FlowSchedule, no_step, sample, select_obs
from prophrl_algos.testing import check_flow_policy
from prophrl_algos.vla._action_head import flow_targets

FAMILIES = [("vla-adapter", True), ("vla-adapter", False), ("openvla-oft", False)]
BOTH = [("vla-adapter", True), ("openvla-oft", False)]
TEXTS = ["pick up the milk", "put the bowl on the plate and open the drawer", "stop"]


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_a_flow_head_obeys_the_contract(loaded, seen, awake, family, pro):
    check_flow_policy(awake(loaded(family, pro), 0.1), seen(), TEXTS, tolerance=2e-4)


@pytest.mark.parametrize(("family", "pro"), BOTH)
def test_what_is_taught_is_what_is_sampled_unless_a_sign_or_the_time_is_flipped(loaded, seen, awake, family, pro):
    policy = awake(loaded(family, pro), 0.1)
    context = policy.encode(policy.prepare(seen(2), TEXTS[:2]), grad=False)
    goal = torch.tensor([0.7, -0.7])[:, None, None].expand(2, 8, 7)
    optimizer = torch.optim.Adam(policy.action_head.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        x, t, velocity = flow_targets(goal, 4, generator)
        F.mse_loss(policy.velocity(context.repeat_interleave(4), x, t), velocity).backward()
        optimizer.step()
    start = torch.randn(2, 8, 7, generator=generator)

    @torch.no_grad()
    def missed(velocity):
        """By a sampler, and by the first guess from pure noise, which must be the action whatever the noise."""
        x = start
        for step in range(8):
            x = x - velocity(x, torch.full((2,), 1 - step / 8)) / 8
        guess = start - velocity(start, torch.ones(2))
        return (x - goal).abs().mean(), (guess - goal).abs().mean()

    def right(x, t):
        return policy.velocity(context, x, t)

    assert max(missed(right)) < 0.3
    assert min(missed(lambda x, t: -right(x, t))) > 0.5
    assert missed(lambda x, t: right(x, 1.125 - t))[1] > 0.5


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_a_ragged_batch_is_one_by_one(loaded, seen, awake, family, pro):
    policy = awake(loaded(family, pro))
    obs = policy.prepare(seen(), TEXTS)
    assert len(set(obs["token_mask"].sum(1).tolist())) == 3
    x = torch.randn(3, 8, 7, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 0.6, 0.1])
    with torch.no_grad():
        together = policy.velocity(policy.encode(obs, grad=False), x, t)
        for row in range(3):
            one = torch.tensor([row])
            alone = policy.velocity(policy.encode(select_obs(obs, one), grad=False), x[one], t[one])
            torch.testing.assert_close(together[one], alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("family", "pro"), BOTH)
def test_an_absent_camera_is_left_out_of_the_sequence(loaded, seen, awake, family, pro):
    policy = awake(loaded(family, pro))
    whole = seen()
    both = policy.prepare(whole, TEXTS)
    absent = policy.prepare({name: value for name, value in whole.items() if name != "wrist_image"}, TEXTS)
    assert torch.equal(absent["image"], both["image"][:, :1])
    x, t = torch.randn(3, 8, 7, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.5)
    with torch.no_grad():
        one, two = (policy.velocity(policy.encode(obs, grad=False), x, t) for obs in (absent, both))
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_without_noise_it_is_a_plain_euler_sampler(loaded, seen, awake, family, pro):
    policy = awake(loaded(family, pro))
    obs = policy.prepare(seen(), TEXTS)
    schedule = FlowSchedule(4, 0.0, choose=no_step)
    path = sample(policy, obs, schedule, [torch.Generator().manual_seed(10 + row) for row in range(3)])
    x = path.latents[:, 0]
    with torch.no_grad():
        context = policy.encode(obs, grad=False)
        for step in range(4):
            x = x - policy.velocity(context, x, torch.full((3,), 1 - step / 4)) / 4
    torch.testing.assert_close(path.x0, x, atol=1e-5, rtol=1e-5)


def test_copies_that_share_what_is_read_are_what_they_are_alone(loaded, seen, awake):
    policy = awake(loaded("vla-adapter"))
    obs = policy.prepare(seen(), TEXTS)
    context = policy.encode(obs, grad=False)
    x = torch.randn(12, 8, 7, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 1, 12)
    rows = torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        shared = policy.velocity(context.repeat_interleave(2).repeat_interleave(2), x, t)
        alone = policy.velocity(context.select(rows), x, t)
        picked = policy.velocity(context.repeat_interleave(4).select(torch.tensor([5, 0])), x[[5, 0]], t[[5, 0]])
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(picked, alone[[5, 0]], atol=1e-5, rtol=1e-5)
    assert context.repeat_interleave(4).tensors[0].data_ptr() == context.tensors[0].data_ptr()


def test_pictures_are_mirrored_not_turned_over_as_libero_policies_were_trained(loaded):
    policy = loaded("vla-adapter", without_state="mean")
    frames = np.zeros((1, 56, 56, 3), np.uint8)
    frames[:, :28, :28] = 250
    shown = policy.prepare({"image": frames}, ["stop"])["image"][0, 0].float()
    bright = [[float(shown[r : r + 8, c : c + 8].mean()) for c in (2, 18)] for r in (2, 18)]
    assert bright[0][1] > 230
    assert max(bright[0][0], *bright[1]) < 20


def test_a_dream_without_a_state_is_refused_or_the_middle_is_taken(loaded, seen):
    blind = seen(2, state=False)
    with pytest.raises(ValueError, match=r"LoadOptions\(without_state='mean'\)"):
        loaded("vla-adapter").prepare(blind, TEXTS[:2])
    policy = loaded("vla-adapter", without_state="mean")
    middle = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.5, 0.0, 0.25]]).expand(2, -1)
    informed = policy.prepare(blind | {"state": middle.numpy()}, TEXTS[:2])
    torch.testing.assert_close(policy.prepare(blind, TEXTS[:2])["state"], informed["state"], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"observation\['state'\] must be \(2, 8\)"):
        policy.prepare(blind | {"state": np.zeros((2, 7))}, TEXTS[:2])


def test_commands_and_latents_are_inverse_and_the_gripper_is_liberos(loaded):
    policy = loaded("vla-adapter")
    low, high = torch.tensor([-0.9, -0.8, -0.7, -0.1, -0.2, -0.3]), torch.tensor([0.9, 0.7, 0.8, 0.2, 0.1, 0.3])
    actions = torch.stack([low, high, (low + high) / 2])
    actions = torch.cat([actions, torch.tensor([[-1.0], [1.0], [1.0]])], 1)[None].repeat(1, 3, 1)[:, :8]
    latents = policy.latents(actions)
    assert latents[0, 0].tolist() == pytest.approx([-1.0] * 6 + [1.0], abs=1e-5)
    assert latents[0, 1].tolist() == pytest.approx([1.0] * 6 + [-1.0], abs=1e-5)
    torch.testing.assert_close(policy.decode(latents, {}), actions, atol=1e-6, rtol=1e-5)


def test_demonstrations_beyond_the_quantiles_are_clipped(loaded, seen):
    policy = loaded("vla-adapter")
    obs, actions = policy.prepare(seen(1), TEXTS[:1]), torch.full((1, 8, 7), 10.0)
    with torch.no_grad():
        one, other = (
            policy.sft_loss(obs, scale * actions, generator=torch.Generator().manual_seed(0)) for scale in (1, 10)
        )
    assert one == other
