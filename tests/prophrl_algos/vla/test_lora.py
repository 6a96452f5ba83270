"""Adapters are put where the targets say and change nothing at first."""

import pytest
import torch
from torch import nn

from prophrl_algos.vla._lora import LoraPart, LoraTargets, add_lora, has_lora

pytest.importorskip("peft")
TARGETS = LoraTargets((LoraPart(r".*\.q_proj", 2, 4), LoraPart(r".*\.k_proj", 3, 3)), (r"(.*\.)?head",))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("q_proj", "k_proj", "v_proj")})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block["v_proj"](self.block["q_proj"](x) * self.block["k_proj"](x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


X = torch.linspace(-1, 1, 12).view(3, 4)


def test_only_adapters_and_whole_modules_are_trained_and_nothing_changes_at_first(net):
    before = net(X)
    add_lora(net, TARGETS)
    assert torch.equal(net(X), before)
    trained = [name for name, weight in net.named_parameters() if weight.requires_grad]
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in trained} == {
        "block.q_proj", "block.k_proj", "head.modules_to_save"}  # fmt: skip
    assert net.block["q_proj"].lora_A["default"].weight.shape == (2, 4)
    assert net.block["q_proj"].scaling["default"] == 2
    assert net.block["k_proj"].lora_A["default"].weight.shape == (3, 4)


def test_adapters_of_a_bfloat16_model_are_float32(net):
    add_lora(net.bfloat16(), TARGETS)
    assert net.block["q_proj"].lora_A["default"].weight.dtype == torch.float32
    assert net.block["q_proj"].base_layer.weight.dtype == torch.bfloat16
    assert net(X.bfloat16()).dtype == torch.bfloat16


def test_what_cannot_be_is_refused(net):
    assert not has_lora(net)
    with pytest.raises(ValueError, match=r"no layer of the model is named like \.\*o_proj"):
        add_lora(net, LoraTargets((LoraPart(r".*o_proj", 2, 2),)))
    add_lora(net, TARGETS)
    assert has_lora(net)
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(net, TARGETS)
