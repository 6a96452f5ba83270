"""SmolVLA at full size is what is known of the published weights; its plan needs lerobot, so it is tested here."""

import pytest
import torch

pytestmark = [
    pytest.mark.vla,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_its_plan_counts_the_published_weights_and_their_context():
    from benchmarks.policy_memory.full_sizes import FULL_SIZES
    from benchmarks.policy_memory.plan import Workload, context_bytes, make_plan

    full = FULL_SIZES["smolvla"]("expert", language=False)
    plan = make_plan(full, Workload(rows=1, microbatch=1, chunks=1))
    # 450 M without the word head (49280 x 960), 99.9 M of them the expert with its projections
    assert plan.parameters == pytest.approx(450e6 - 49280 * 960, rel=0.01)
    assert plan.trained == pytest.approx(99.9e6, rel=0.01)
    with torch.no_grad():
        one, two = (context_bytes(full.encode(1, views)) for views in (1, 2))
    # 64 tokens for a picture of 512 x 512 in patches of 16, four by four together; 16 layers of 5 heads of 64
    assert two - one == pytest.approx(64 * 16 * 2 * 5 * 64 * 2, rel=0.05)
    assert plan.while_learning > plan.weights + plan.gradients + plan.optimizer
