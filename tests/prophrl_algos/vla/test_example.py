"""One FA-GRPO update with FlowScale of every published policy, in a tiny dream, through the example."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from prophet_gym.checkpoint import bundled_checkpoints

EXAMPLE = Path(__file__).parents[3] / "examples" / "05_published_policies.py"
POLICIES = [
    "pi0",
    *(pytest.param(name, marks=pytest.mark.vla) for name in ("pi05", "smolvla")),
    "vla-adapter",
    "openvla-oft",
]


def require(policy):
    if policy == "pi0":
        pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("published_policies", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("train", ["lora", "expert"])
@pytest.mark.parametrize("policy", POLICIES)
def test_an_update_changes_what_is_trained_and_nothing_else(example, capsys, monkeypatch, policy, train):
    require(policy)
    made = []
    make = example.make_policy
    monkeypatch.setattr(example, "make_policy", lambda args: made.append(make(args)) or made[0])
    example.main(example.Args(policy=policy, train=train, tiny=True, learning_rate=1e-2))
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert "of them trained" in first
    assert re.match(r"update 1: success 50%, return 0\.\d+, ratio 1\.000 to 1\.000, gradient norm ", second)
    assert float(second.rsplit(" ", 1)[1]) > 0
    fresh = make(example.Args(policy=policy, train=train, tiny=True))
    before = dict(fresh.named_parameters())
    after = dict(made[0].named_parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= {name for name, weight in after.items() if weight.requires_grad}


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("policy", POLICIES)
def test_an_update_in_the_bundled_dream_has_a_gradient_though_nothing_succeeds(example, capsys, tmp_path, policy):
    require(policy)
    example.main(example.Args(policy=policy, out=tmp_path / "policy.pt"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"update 1: success 0%, return [-\d.e]+, ratio 1\.000 to 1\.000, gradient norm ", last)
    assert float(last.rsplit(" ", 1)[1]) > 0
    assert torch.load(tmp_path / "policy.pt", weights_only=True)["policy"]


def test_what_is_not_installed_is_named(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot.policies.smolvla.modeling_smolvla", None)
    monkeypatch.setitem(sys.modules, "lerobot.policies.smolvla", None)
    with pytest.raises(SystemExit, match=r"smolvla is not installed: .*make test-vla"):
        example.main(example.Args(policy="smolvla", tiny=True))
