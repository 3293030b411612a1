"""The chunked loss equals the one that holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.moe_core.loss import linear_cross_entropy


@given(tokens=st.integers(1, 40), chunk=st.integers(1, 500), masked=st.booleans(), trained=st.booleans())
@settings(max_examples=80, deadline=None)
def test_loss_and_gradients_equal_full_logits_for_any_chunk(tokens, chunk, masked, trained):
    torch.manual_seed(tokens)
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(19, 8, requires_grad=trained)
    target, mask = torch.randint(0, 19, (tokens,)), (torch.rand(tokens) > 0.4) if masked else None
    loss, nll = linear_cross_entropy(hidden, weight, target, mask, chunk_logits=chunk)
    expected_nll = F.cross_entropy(hidden @ weight.T, target, reduction="none")
    expected_nll = expected_nll if mask is None else expected_nll * mask
    torch.testing.assert_close(nll, expected_nll)
    torch.testing.assert_close(loss, expected_nll.sum())
    training = (hidden, weight) if trained else (hidden,)
    for ours, full in zip(
        torch.autograd.grad(loss / 3, training),
        torch.autograd.grad(expected_nll.sum() / 3, training),
        strict=True,
    ):
        torch.testing.assert_close(ours, full)


def test_gradients_are_exact_in_fp64():
    hidden, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((5, 3), (7, 3)))
    target = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, target, chunk_logits=14)[0], (hidden, weight)
    )
    frozen = weight.detach()
    assert torch.autograd.gradcheck(lambda h: linear_cross_entropy(h, frozen, target, chunk_logits=14)[0], (hidden,))


def test_all_logits_never_exist_at_once():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(50, 4)
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.int64), chunk_logits=500)
    assert 64 * 4 < largest.elements <= 500


def test_large_logits_stay_finite():
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_no_gradient_is_computed_without_grad_mode(monkeypatch):
    weight = torch.randn(5, 4, requires_grad=True)
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *_: pytest.fail("computed a gradient"))
    with torch.no_grad():
        loss, _ = linear_cross_entropy(torch.randn(3, 4), weight, torch.tensor([0, 1, 2]))
    assert not loss.requires_grad


def test_no_gradient_is_computed_where_none_is_asked():
    loss, nll = linear_cross_entropy(torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2]))
    assert not loss.requires_grad
    assert nll.sum() == pytest.approx(loss.item())
