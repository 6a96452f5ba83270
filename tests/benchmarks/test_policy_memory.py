"""The check of the memory plan runs what the plan measured: the same network, on real numbers."""

import pytest
import torch

from benchmarks.policy_memory import __main__ as script
from benchmarks.policy_memory import full_sizes
from benchmarks.policy_memory.plan import Workload, make_plan, measured, scored

from ..prophrl_algos.vla import tiny

pytest.importorskip("transformers", minversion="5.4", reason="the full sizes are of transformers' pi0")
WORK = Workload(rows=2, microbatch=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The full sizes' own code, with few weights."""
    monkeypatch.setattr(full_sizes, "QWEN", tiny.QWEN2)
    monkeypatch.setattr(full_sizes, "DINO", tiny.DINO)
    monkeypatch.setattr(full_sizes, "SIGLIP", tiny.SIGLIP)
    make = full_sizes.Pi0Policy.make_network

    def few(config):
        return make(tiny.pi0_config(4) | {"max_action_dim": 32, "max_state_dim": 32, **config})

    monkeypatch.setattr(full_sizes.Pi0Policy, "make_network", staticmethod(few))
    monkeypatch.setattr(full_sizes, "ImageConfig", lambda size: tiny.ImageConfig(28))


@pytest.mark.parametrize("train", ["expert", "lora"])
@pytest.mark.parametrize("name", ["vla-adapter", "pi05"])
def test_it_acts_and_learns_where_weights_are_real_and_keeps_what_the_plan_counted(name, train):
    full = full_sizes.FULL_SIZES[name](train, language=False, device=CPU)
    trained = {key: weight for key, weight in full.policy.named_parameters() if weight.requires_grad}
    before = {key: weight.clone() for key, weight in full.policy.named_parameters()}
    script.act(full, WORK)
    script.learn(full, WORK, torch.optim.AdamW(trained.values(), lr=1e-2))
    changed = {key for key, weight in full.policy.named_parameters() if not torch.equal(weight, before[key])}
    assert changed
    assert changed <= trained.keys()
    shapes = full_sizes.FULL_SIZES[name](train, language=False)
    kept = [
        measured(lambda one=one: scored(one, WORK, one.policy.spec.num_steps), one.policy)[1] for one in (full, shapes)
    ]
    # on the meta device attention keeps its scores, which fused kernels do not
    assert 0.97 * kept[0] <= kept[1] <= 1.3 * kept[0]
    assert make_plan(shapes, WORK).weights == sum(w.numel() * w.element_size() for w in full.policy.parameters())


def test_it_says_where_the_plan_is_too_low_and_that_it_needs_a_gpu():
    plan = make_plan(full_sizes.FULL_SIZES["pi05"]("expert", language=False), WORK)
    found = {part: getattr(plan, part) for part in script.PARTS}
    assert "too low" not in script.line("pi05", plan, found)
    assert "too low: ['while_acting']" in script.line("pi05", plan, found | {"while_acting": 2 * plan.while_acting})
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="there is none"):
            script.main(script.Args(device="cuda"))
