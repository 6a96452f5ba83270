"""What is planned is what a real pass of the same sizes keeps, and what is known of the published sizes."""

import json

import pytest
import torch
from torch import nn

from benchmarks.policy_memory import __main__ as script
from benchmarks.policy_memory.full_sizes import FULL_SIZES, META, FullSize
from benchmarks.policy_memory.plan import Workload, context_bytes, make_plan, measured, stored_bytes
from benchmarks.toys import TinyFlowPolicy
from prophrl_algos.flow import FlowSpec, TensorContext

pytest.importorskip("transformers", minversion="5.4", reason="the full sizes are of transformers' pi0")


class Line(TinyFlowPolicy):
    """v = relu(x w): it keeps x and the result, and no more."""

    def __init__(self, device="cpu"):
        nn.Module.__init__(self)
        self.spec = FlowSpec(horizon=2, latent_dim=4, action_dim=3, exec_steps=1, num_steps=5)
        self.frozen = nn.Linear(4, 4, bias=False, device=device, dtype=torch.bfloat16).requires_grad_(False)
        self.w = nn.Linear(4, 4, bias=False, device=device)

    def velocity(self, ctx, x, t):
        return self.w(x).relu()


def encode(rows, views):
    return TensorContext(prefix=torch.zeros(rows, 10 * views, device=META))


FULL = FullSize(Line("meta"), encode, None, tokens=6)


def test_what_a_pass_keeps_is_counted_without_the_weights():
    policy, x = Line(), torch.zeros(3, 2, 4)
    largest, kept = measured(lambda: policy.velocity(None, x, None), policy)
    assert kept == 2 * x.numel() * 4
    assert largest == x.numel() * 4


def test_a_plan_adds_up():
    work = Workload(groups=2, group_size=3, chunks=4, rows=5, microbatch=2, views=2, frame=8, reference=True)
    plan = make_plan(FULL, work)
    assert (plan.parameters, plan.trained) == (32, 16)
    assert (plan.weights, plan.gradients, plan.optimizer) == (16 * 2 + 16 * 4, 16 * 4, 16 * 8)
    assert plan.reference == plan.gradients
    assert plan.context_per_row == 20 * 4
    assert plan.acting == 5 * 80 + 3 * 5 * 80
    velocity = 2 * 5 * 2 * 4 * 4
    repeated = 2 * 5 * 80
    assert plan.backward == 2 * velocity + 2 * 80 * 6 + 3 * max(velocity, repeated)
    latents, scores, images, words = 4 * 6 * 2 * 4, 3 * 4 * 5 * 1 * 3, 2 * 8 * 8 * 3, 6 * 9
    assert plan.stored_per_chunk == latents + scores + 5 + images + words + 4 * 4
    assert plan.stored == 2 * 3 * 4 * plan.stored_per_chunk
    assert plan.if_contexts_were_stored == 2 * 3 * 4 * 80
    assert plan.while_learning == 96 + 64 + 128 + 64 + plan.backward


def test_scoring_steps_one_by_one_repeats_no_context():
    plan = make_plan(FULL, Workload(microbatch=2, steps_per_call=1))
    one = 2 * 1 * 2 * 4 * 4
    assert plan.backward == 5 * 2 * one + 2 * 40 + 3 * max(one, 2 * 40)


@pytest.mark.parametrize("train", ["expert", "full"])
def test_shapes_alone_keep_what_a_real_pass_keeps(train):
    from ..prophrl_algos.vla.tiny import tiny_pi0

    def kept(device):
        policy = tiny_pi0(train=train).to(device)
        policy.network.set_attn_implementation("eager")
        obs = {
            "tokens": torch.zeros(2, 5, dtype=torch.int64, device=device),
            "token_mask": torch.ones(2, 5, dtype=torch.bool, device=device),
            "state": torch.zeros(2, 8, device=device),
        }
        images = [torch.zeros(2, 3, 28, 28, device=device)]
        x, t = torch.zeros(2, 4, 8, device=device), torch.zeros(2, device=device)

        def scored():
            context = policy.prefix(images, obs, torch.device(device))
            return policy.velocity(context, x, t)

        return measured(scored, policy)

    assert kept("meta") == pytest.approx(kept("cpu"), rel=0.02)


@pytest.mark.parametrize(
    ("policy", "weights", "trained"),
    [
        # 3.35 G weights that actions depend on, 428 M of the expert and its projections
        ("pi05", 3.35e9, 430e6),
        ("pi0", 3.24e9, 315e6),
        # 1.2526 G of the vision-language model without its eyes' last blocks, and the head
        ("vla-adapter", 1.39e9, 176e6),
        ("openvla-oft", 7.57e9, 188e6),
    ],
)
def test_full_sizes_are_those_of_the_published_weights(policy, weights, trained):
    full = FULL_SIZES[policy]("expert", language=False)
    assert sum(each.numel() for each in full.policy.parameters()) == pytest.approx(weights, rel=0.01)
    assert sum(each.numel() for each in full.policy.parameters() if each.requires_grad) == pytest.approx(
        trained, rel=0.01
    )


def test_adapters_are_a_small_part_and_the_stored_context_is_what_it_is_said_to_be():
    """13.9 M weights in the expert's adapters; 12.5 MiB of keys and values for two pictures and 200 tokens."""
    full = FULL_SIZES["pi05"]("lora", language=False)
    named = full.policy.named_parameters()
    adapters = sum(weight.numel() for name, weight in named if weight.requires_grad and "lora_" in name)
    assert adapters == pytest.approx(13.9e6, rel=0.03)
    with torch.no_grad():
        assert context_bytes(full.encode(1, 2)) == pytest.approx(12.5 * 2**20, rel=0.01)
    assert stored_bytes(full, Workload(views=2, frame=224)) == pytest.approx(0.29 * 2**20 + 14e3 + 5e3, rel=0.03)


def test_the_script_prints_and_writes(tmp_path, capsys):
    script.main(script.Args(("pi0",), ("lora",), Workload(microbatch=1, rows=1, reference=True), out=tmp_path))
    printed = capsys.readouterr().out
    assert printed.startswith("pi0, lora: weights ")
    written = json.loads((tmp_path / "pi0_lora.json").read_text())
    assert written["args"]["microbatch"] == 1
    assert written["reference"] == written["gradients"]
    assert written["while_learning"] > written["weights"]
    with pytest.raises(ValueError, match="must be at least 1"):
        Workload(rows=0)
