"""One FA-GRPO update with FlowScale of every published policy, in a tiny dream, through the example."""

import importlib.util
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prophet_gym.checkpoint import bundled_checkpoints

from . import tiny
from .test_published_loading import write_lerobot

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


@pytest.fixture
def saved(tmp_path):
    """`saved(policy, train)`: the folder of a tiny one, and what its network is made within."""

    def make(policy, train):
        require(policy)
        sizes = {"pi05": tiny.pi05_sizes, "smolvla": tiny.smolvlm_sizes}.get(policy, nullcontext)
        made = getattr(tiny, f"tiny_{policy.replace('-', '_')}")
        chunks = {} if policy in ("vla-adapter", "openvla-oft") else {"horizon": 8, "exec_steps": 8}
        made(train=train, **chunks).save_pretrained(tmp_path / policy)
        return str(tmp_path / policy), sizes

    return make


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
def test_an_update_changes_what_is_trained_and_nothing_else(example, saved, capsys, monkeypatch, policy, train):
    folder, sizes = saved(policy, train)
    made = []
    make = example.make_policy
    monkeypatch.setattr(example, "make_policy", lambda args: made.append(make(args)) or made[0])
    with sizes():
        example.main(example.Args(policy=folder, train=train, tiny=True, learning_rate=1e-2))
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert "of them trained" in first
    assert re.match(r"update 1: success 50%, return 0\.\d+, ratio 1\.000 to 1\.000, gradient norm ", second)
    assert float(second.rsplit(" ", 1)[1]) > 0
    with sizes():
        fresh = make(example.Args(policy=folder, train=train, tiny=True))
    before = dict(fresh.named_parameters())
    after = dict(made[0].named_parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= {name for name, weight in after.items() if weight.requires_grad}


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("policy", POLICIES)
def test_an_update_in_the_bundled_dream_has_a_gradient_though_nothing_succeeds(
    example, saved, capsys, tmp_path, policy
):
    folder, sizes = saved(policy, "lora")
    with sizes():
        example.main(example.Args(policy=folder, train="lora", out=tmp_path / "policy.pt"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"update 1: success 0%, return [-\d.e]+, ratio 1\.000 to 1\.000, gradient norm ", last)
    assert float(last.rsplit(" ", 1)[1]) > 0
    assert torch.load(tmp_path / "policy.pt", weights_only=True)["policy"]


def test_what_is_not_installed_is_named(example, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lerobot.policies.smolvla.modeling_smolvla", None)
    monkeypatch.setitem(sys.modules, "lerobot.policies.smolvla", None)
    folder = tmp_path / "smolvla"
    folder.mkdir()
    write_lerobot(folder, "smolvla", "MEAN_STD")
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(SystemExit, match=r"smolvla needs is not installed: .*make test-vla"):
        example.main(example.Args(policy=str(folder), tiny=True))
