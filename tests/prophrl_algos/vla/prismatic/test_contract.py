"""Both policies, with both of their heads, obey the contract; what is masked or padded has no effect."""

import pytest
import torch

from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.testing import check_flow_policy

FAMILIES = [("vla-adapter", True), ("vla-adapter", False), ("openvla-oft", False)]
TEXTS = ["pick up the milk", "put the bowl on the plate and open the drawer", "stop"]


@pytest.fixture
def loaded(checkpoint):
    """`loaded(family, pro, **options)` from files in the published layout, all float32."""

    def make(family, pro=True, **options):
        folder = checkpoint(family, pro=pro).write()
        return load_policy(folder, LoadOptions(**{"dtype": torch.float32, "num_steps": 4} | options))

    return make


def generators(rows):
    return [torch.Generator().manual_seed(10 + row) for row in range(rows)]


@pytest.mark.parametrize("head", ["flow", "l1"])
@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_it_obeys_the_contract(loaded, seen, awake, family, pro, head):
    policy = awake(loaded(family, pro, head=head), 0.1)
    fit = 60 if head == "flow" else 0
    check_flow_policy(policy, seen(), TEXTS, tolerance=2e-4, fit_steps=fit, learning_rate=3e-3)
