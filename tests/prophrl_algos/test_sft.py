"""Behaviour cloning reaches the demonstrations and goes on after a kill as if there had been none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos._demonstrations import points_of
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSpec
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.vla import SmallVLA

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=5)


def demonstrations(policy):
    obs = policy.prepare(BanditVectorEnv(1).reset()[0], ["pull"])

    def draw(rows, generator):
        wide = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in obs.items()}
        return wide, torch.tensor([0.8, -0.6]) + 0.05 * torch.randn(rows, 1, 2, generator=generator)

    return draw


def test_the_policy_does_what_was_demonstrated():
    policy = TinyFlowPolicy(SPEC, hidden=32)
    env = BanditVectorEnv(32)
    before = evaluate(policy, env, 32).metrics()["return"]
    sft(policy, demonstrations(policy), SftConfig(steps=200, learning_rate=5e-3))
    assert before < 0.7
    assert evaluate(policy, env, 32).metrics()["return"] > 0.9
    assert not policy.training


def test_a_run_that_stops_goes_on_with_the_same_result(tmp_path):
    config = SftConfig(steps=12, save_every=4, batch_size=8)
    whole = TinyFlowPolicy(SPEC, hidden=8)
    loss = sft(whole, demonstrations(whole), config, tmp_path / "whole")
    parts = TinyFlowPolicy(SPEC, hidden=8)
    draw, calls = demonstrations(parts), []

    def breaking(rows, generator):
        calls.append(rows)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(rows, generator)

    with pytest.raises(KeyboardInterrupt):
        sft(parts, breaking, config, tmp_path / "parts")
    again = TinyFlowPolicy(SPEC, hidden=8)
    assert sft(again, draw, config, tmp_path / "parts") == loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="use another folder"):
        sft(again, draw, SftConfig(steps=13, save_every=4, batch_size=8), tmp_path / "parts")


def test_a_policy_is_cloned_in_bf16_as_it_is_in_float32():
    obs = SmallVLA().prepare({"image": np.full((4, 96, 96, 3), 90, np.uint8)}, ["pick up the milk"] * 4)
    losses = []
    for precision in ("no", "bf16"):
        policy = SmallVLA(width=32, layers=1)
        config = SftConfig(steps=4, batch_size=4)
        losses.append(sft(policy, lambda rows, _: (obs, torch.zeros(rows, 8, 7)), config, precision=precision))
        assert all(weight.dtype == torch.float32 for weight in policy.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_bad_demonstrations_stop_it():
    policy = TinyFlowPolicy(SPEC, hidden=8)
    draw = demonstrations(policy)
    with pytest.raises(FloatingPointError, match="look at the demonstrations"):
        sft(policy, lambda rows, g: (draw(rows, g)[0], torch.full((rows, 1, 2), torch.nan)), SftConfig(steps=3))


def test_where_gripper_and_target_are_is_told_from_edge_to_edge_of_the_picture():
    camera = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0]])
    gripper = np.array([[0.0, 0.0, 2.0], [1.0, -1.0, 2.0], [0.0, 0.0, 1.0]])
    target = np.array([[0.5, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    points = points_of(SimpleNamespace(gripper_position=gripper, target_positions=target, camera=camera))
    assert points[:, 0].tolist() == [[0.0, 0.0], [1.0, -1.0]]
    assert points[0, 1].tolist() == [1.0, 0.0]
    assert points[1, 1].isnan().all()
    fixture = SimpleNamespace(gripper_position=gripper, target_positions=None, camera=camera)
    assert points_of(fixture)[:, 1].isnan().all()
