"""openpi's own port of pi0.5 in the same adapter, and pi0 of transformers against lerobot's network."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from prophrl_algos.flow import FlowSpec
from prophrl_algos.testing import check_flow_policy
from prophrl_algos.vla._processor import ImageConfig
from prophrl_algos.vla._tokenization import line
from prophrl_algos.vla.pi import _pi05 as pi05

from . import tiny

GOLDEN = Path(__file__).parents[2] / "data" / "pi0_lerobot.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def openpi_network():
    """openpi's PyTorch network without jax, which it reads sizes and a resizing from."""
    names = ("openpi.models", "openpi.models.gemma", "openpi.shared.image_tools")
    stand_ins = {name: ModuleType(name) for name in names}
    stand_ins["openpi.models.gemma"].get_config = tiny.gemma_size
    stand_ins["openpi.models"].gemma = stand_ins["openpi.models.gemma"]
    with pytest.MonkeyPatch.context() as patched:
        for name, module in stand_ins.items():
            patched.setitem(sys.modules, name, module)
        from openpi.models_pytorch import gemma_pytorch

        with tiny.gemma_sizes(gemma_pytorch):
            network = pi05.openpi_network(4)
    tiny.randomise(network)
    return network


def policy_of(network, width):
    how = tiny.processor("openpi", ImageConfig(28), line, 60, state=False)
    policy = pi05.Pi05Policy(network, FlowSpec(4, width, 7, 2, 3), how)
    policy.let_train("expert")
    return policy.eval()


@pytest.mark.vla
def test_openpis_network_obeys_the_contract(openpi_network, seen):
    check_flow_policy(policy_of(openpi_network, 32), *seen)


@pytest.mark.vla
def test_openpis_network_and_lerobots_say_the_same(openpi_network, seen):
    with tiny.pi05_sizes():
        network = pi05.Pi05Policy.make_network({**tiny.PI05_CONFIG, "chunk_size": 4, "max_action_dim": 32})
    pi05.Pi05Policy.fill(network, openpi_network.state_dict(), source="openpi's network")
    one, other = policy_of(openpi_network, 32), policy_of(network, 32)
    obs = one.prepare(*seen)
    x = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 1.0])
    with torch.no_grad():
        said, same = (each.velocity(each.encode(obs, grad=False), x, t) for each in (one, other))
    assert (said - same).abs().max() < 1e-5
    assert said.std() > 0.1


def test_pi0_of_transformers_says_what_lerobots_network_says():
    """The file holds weights, inputs and velocities of lerobot 0.4.4's PI0Pytorch on openpi's transformers 4.53.2."""
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    from prophrl_algos.vla.pi import _pi0 as pi0

    stored = load_file(GOLDEN)
    network = pi0.Pi0Policy.make_network(tiny.pi0_config(4, heads=8, head_dim=4))
    weights = {name.removeprefix("weight."): each for name, each in stored.items() if name.startswith("weight.")}
    pi0.Pi0Policy.fill(network, weights, source=GOLDEN)
    how = tiny.processor("openpi", ImageConfig(28), line, tiny.VOCABULARY)
    policy = pi0.Pi0Policy(network, FlowSpec(4, tiny.WIDTH, 7, 2, 3), how).eval()
    with torch.no_grad():
        obs = {name: stored[name] for name in ("tokens", "token_mask", "state")}
        context = policy.prefix(list(stored["images"].unbind(1)), obs, torch.device("cpu"))
        velocity = policy.velocity(context, stored["x"], stored["t"])
    assert (velocity - stored["velocity"]).abs().max() < 1e-4  # the frequencies of time are float64 there
    assert stored["velocity"].std() > 0.1
