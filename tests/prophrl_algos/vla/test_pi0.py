"""Pi0 of transformers against lerobot's network."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prophrl_algos.flow import FlowSpec
from prophrl_algos.vla._experts import Pi0Policy
from prophrl_algos.vla._processor import ImageConfig

from . import tiny

GOLDEN = Path(__file__).parents[2] / "data" / "pi0_lerobot.safetensors"


def test_pi0_of_transformers_says_what_lerobots_network_says():
    """The file holds weights, inputs and velocities of lerobot 0.4.4's PI0Pytorch on openpi's transformers 4.53.2."""
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")

    stored = load_file(GOLDEN)
    network = Pi0Policy.make_network(tiny.pi0_config(4, heads=8, head_dim=4))
    weights = {name.removeprefix("weight."): each for name, each in stored.items() if name.startswith("weight.")}
    Pi0Policy.fill(network, weights, source=GOLDEN)
    how = tiny.processor("openpi", ImageConfig(28), "line", tiny.VOCABULARY)
    policy = Pi0Policy(network, FlowSpec(4, tiny.WIDTH, 7, 2, 3), how).eval()
    with torch.no_grad():
        obs = {name: stored[name] for name in ("tokens", "token_mask", "state")}
        context = policy.prefix(list(stored["images"].unbind(1)), obs, torch.device("cpu"))
        velocity = policy.velocity(context, stored["x"], stored["t"])
    assert (velocity - stored["velocity"]).abs().max() < 1e-4  # the frequencies of time are float64 there
    assert stored["velocity"].std() > 0.1
