"""bf16 in training: what it touches, and that it computes the same up to rounding."""

import pytest
import torch
from torch.nn import functional as F

from prophet_gym._io.processor import attend, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_products_are_computed_in_what_was_asked_for(precision, kind):
    weight = torch.randn(4, 3, requires_grad=True)
    with autocast(CPU, precision):
        out = F.linear(torch.randn(2, 3), weight)
    assert out.dtype == kind
    out.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_auto_follows_what_the_processor_says(monkeypatch):
    for known, wanted in ({"avx512_bf16": True}, True), ({"amx_bf16": False}, False), ({}, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        with autocast(CPU, "auto"):
            assert torch.is_autocast_enabled("cpu") is wanted


def test_attention_in_bf16_has_the_values_and_gradients_of_torch():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 4, n, 16, generator=generator).requires_grad_() for n in (6, 9, 9)]
    exact = F.scaled_dot_product_attention(*parts)
    with autocast(CPU, "bf16"):
        rounded = attend(*parts)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)
    toward = torch.randn(exact.shape, generator=generator)
    pairs = (torch.autograd.grad(out, parts, toward.to(out)) for out in (exact, rounded))
    for wanted, found in zip(*pairs, strict=True):
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.05)
