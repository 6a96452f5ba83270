"""What is declared trainable is what learns; the reference is what training began with; it learns in a dream."""

import numpy as np
import pytest
import torch

from prophet_gym.errors import UnknownOptionError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos._demonstrations import read_demonstrations
from prophrl_algos.algorithms import FlowScale
from prophrl_algos.flow import FlowSchedule, rescore, sample, select_obs
from prophrl_algos.rollout import Grouping, begin_from_starts
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Trainer, TrainerConfig
from prophrl_algos.trainer._weight_copy import WeightCopy

from ..tiny import tiny_openvla_oft, tiny_vla_adapter

BOTH = ["vla-adapter", "openvla-oft"]
TEXTS = ["pick up the milk", "stop"]


def score(policy, observation):
    obs = policy.prepare(observation, TEXTS)
    path = sample(policy, obs, FlowSchedule(4), [torch.Generator().manual_seed(row) for row in range(2)])
    return rescore(policy, obs, path).log_prob.sum()


@pytest.mark.parametrize(
    ("family", "train", "wanted"),
    [
        ("vla-adapter", "expert", {"action_head", "proprio_projector"}),
        ("vla-adapter", "lora", {"action_head", "action_queries", "language_model"}),
        ("openvla-oft", "expert", {"action_head"}),
        ("openvla-oft", "lora", {"action_head", "language_model"}),
        ("vla-adapter", "full", {"action_head", "action_queries", "language_model", "proprio_projector", "projector",
                                 "vision_backbone"}),
    ],
)  # fmt: skip
def test_gradients_reach_exactly_what_is_declared_trainable(loaded, seen, awake, family, train, wanted):
    policy = awake(loaded(family, train=train))
    if train == "lora":
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    declared = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in declared} == wanted
    score(policy, seen(2)).backward()
    reached = {name for name, weight in policy.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert reached == declared


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("train", ["expert", "lora", "full"])
def test_the_reference_is_what_training_began_with(loaded, seen, awake, family, train):
    policy = awake(loaded(family, train=train))
    obs = policy.prepare(seen(2), TEXTS)
    x, t = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)

    def velocity():
        with torch.no_grad():
            return policy.velocity(policy.encode(obs, grad=False), x, t)

    first = velocity()
    reference = WeightCopy(policy, [weight for weight in policy.parameters() if weight.requires_grad])
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    moved = velocity()
    with reference.applied():
        assert torch.equal(velocity(), first)
    assert torch.equal(velocity(), moved)
    assert not torch.allclose(moved, first, atol=1e-3)


@pytest.mark.parametrize("family", BOTH)
def test_it_is_cloned_from_the_published_head_on(loaded, seen, family):
    policy = loaded(family, without_state="mean")
    obs = policy.prepare(seen(2), TEXTS)
    goal = policy.decode(torch.tensor([0.6, -0.6])[:, None, None].expand(2, 8, 7), obs)
    frozen = {name: tensor.clone() for name, tensor in policy.state_dict().items() if "action_head" not in name}

    def draw(rows, generator):
        picks = torch.arange(rows) % 2
        return select_obs(obs, picks), goal[picks]

    def distance():
        schedule = FlowSchedule(4, 0.0)
        path = sample(policy, obs, schedule, [torch.Generator().manual_seed(row) for row in range(2)])
        return (policy.decode(path.x0, obs) - goal)[:, :, :6].abs().mean()

    before = distance()
    sft(policy, draw, SftConfig(steps=40, batch_size=4, learning_rate=1e-2, weight_decay=0.0))
    assert distance() < 0.5 * before
    kept = {name: tensor for name, tensor in policy.state_dict().items() if "action_head" not in name}
    changed = {name for name, tensor in kept.items() if not torch.equal(tensor, frozen[name])}
    assert all(name.startswith("proprio_projector") for name in changed)
    assert not policy.training


@pytest.mark.parametrize("family", BOTH)
def test_an_update_of_fa_grpo_with_flowscale_in_a_tiny_dream(loaded, family):
    from prophet_gym.envs import ProphetVectorEnv
    from prophet_gym.prophet import tiny_prophet
    from prophet_gym.rewards import FunctionReward
    from prophet_gym.specs import InitialState

    policy = loaded(family, train="lora", without_state="mean", num_steps=2)
    starts = [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "pick up nothing", task=3)]
    reward_model = FunctionReward(lambda video, _: float(int(video[-1].sum()) % 2), max_frames=1)
    env = ProphetVectorEnv(
        tiny_prophet(), starts, 4, reward_model=reward_model, max_episode_steps=1, autoreset_mode="Disabled"
    )  # fmt: skip
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    trainer = Trainer(
        policy,
        torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95)),
        env,
        TrainerConfig(groups=1, group_size=4, updates=4, beta=0.01),
        flowscale=FlowScale(),
        grouping=Grouping(begin_from_starts),
    )
    while True:
        metrics = trainer.iterate()
        if metrics["optimizer_steps"] or trainer.done == 4:
            break
    assert metrics["optimizer_steps"] == 1, "no group of four updates had unequal returns"
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-3)
    assert metrics["gradient_norm"] > 0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    learnt = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= learnt


@pytest.mark.parametrize("made", [tiny_vla_adapter, tiny_openvla_oft])
def test_tiny_ones_need_no_files_and_survive_a_round_trip(made, seen, tmp_path):
    policy = made()
    policy.save_pretrained(tmp_path)
    again = load_policy(tmp_path, LoadOptions(dtype=torch.float32, without_state="mean"))
    x, t = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.7)
    found = []
    for one in (policy, again, made()):
        obs = one.prepare(seen(2, wrist=False, state=False), TEXTS)
        with torch.no_grad():
            found.append(one.velocity(one.encode(obs, grad=False), x, t))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_both_cameras_and_the_state_of_a_recording_are_cloned(loaded, record, tmp_path):
    state = np.random.default_rng(0).uniform(-0.4, 0.4, (5, 8)).astype(np.float32)
    wrist = np.full((5, 64, 64, 3), 200, np.uint8)
    record(tmp_path / "two", 0, steps=4, shade=90, wrist_frames=wrist, robot_state=state)
    record(tmp_path / "one", 0, steps=4, shade=90)
    policy, both = loaded("vla-adapter"), ("agentview", "wrist")
    found = read_demonstrations(policy, [tmp_path / "two"], cameras=both)
    assert found.obs["image"].shape[:2] == (4, 2)
    levels = found.obs["image"].float().mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(levels, torch.tensor([90.0, 200.0]), atol=2.0, rtol=0.0)
    expected = policy.shown_state({"state": state[:-1]}, 4).clamp(-1, 1)
    torch.testing.assert_close(found.obs["state"], expected)
    with pytest.raises(ValueError, match="this policy reads 8 numbers of the robot's state"):
        read_demonstrations(policy, [tmp_path / "two"])
    with pytest.raises(UnknownOptionError, match=r"unknown camera of .* 'wrist'\. Known: agentview"):
        read_demonstrations(policy, [tmp_path / "one"], cameras=both)
