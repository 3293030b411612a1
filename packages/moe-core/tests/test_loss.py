"""The chunked loss equals the one that holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.moe_core.layers import loss as loss_module
from penstock.moe_core.layers.loss import head_cross_entropy, linear_cross_entropy


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


@pytest.mark.parametrize("trained", [True, False])
def test_all_logits_never_exist_at_once(trained):
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(50, 4, requires_grad=trained)
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.int64), chunk_logits=500)
    assert 64 * 4 < largest.elements <= 500


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_a_confident_token_keeps_its_few_nats(scale, trained):
    torch.manual_seed(0)
    hidden = scale * torch.randn(64, 8)
    weight = torch.randn(40, 8)
    target = (hidden @ weight.T).argmax(dim=-1)
    _, nll = linear_cross_entropy(hidden, weight.requires_grad_(trained), target, chunk_logits=300)
    expected = F.cross_entropy((hidden @ weight.T).double(), target, reduction="none")
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("target", [19, -1, -100])
def test_a_target_outside_the_vocabulary_is_refused(target, trained):
    weight = torch.randn(19, 8, requires_grad=trained)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        linear_cross_entropy(torch.randn(1, 8), weight, torch.tensor([target]))


@pytest.mark.parametrize("trained", [True, False])
def test_bf16_is_as_near_as_bf16_logits_are(trained):
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 8).bfloat16().requires_grad_(), torch.randn(19, 8, requires_grad=trained)
    target = torch.randint(0, 19, (20,))
    loss, nll = linear_cross_entropy(hidden, weight, target, chunk_logits=60)
    expected = F.cross_entropy((hidden @ weight.T.bfloat16()).float(), target, reduction="none")
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, expected, rtol=1e-2, atol=1e-2)
    ours, full = (torch.autograd.grad(total, hidden)[0] for total in (loss, expected.sum()))
    torch.testing.assert_close(ours, full, rtol=3e-2, atol=3e-2)


def test_no_tokens_have_a_loss_of_0_and_a_gradient():
    hidden, weight = torch.zeros(0, 8, requires_grad=True), torch.randn(19, 8)
    target = torch.zeros(0, dtype=torch.int64)
    for loss, nll in (
        linear_cross_entropy(hidden, weight, target),
        linear_cross_entropy(hidden, weight.clone().requires_grad_(), target),
        head_cross_entropy(lambda h: h @ weight.T, hidden, target, None, 19),
    ):
        assert loss == 0
        assert nll.shape == (0,)
        assert torch.autograd.grad(loss, hidden)[0].shape == (0, 8)


@given(tokens=st.integers(1, 40), chunk=st.integers(1, 500), masked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_head_that_does_more_than_multiply_has_the_same_loss(tokens, chunk, masked):
    torch.manual_seed(tokens)
    hidden, weight, bias = torch.randn(tokens, 8, requires_grad=True), torch.randn(19, 8), torch.randn(19)
    target, mask = torch.randint(0, 19, (tokens,)), (torch.rand(tokens) > 0.4) if masked else None
    loss, nll = head_cross_entropy(
        lambda h: h @ weight.T + bias, hidden, target, mask, vocabulary_size=19, chunk_logits=chunk
    )
    expected = F.cross_entropy(hidden @ weight.T + bias, target, reduction="none")
    expected = expected if mask is None else expected * mask
    torch.testing.assert_close(nll, expected)
    ours, full = (torch.autograd.grad(total, hidden)[0] for total in (loss, expected.sum()))
    torch.testing.assert_close(ours, full)


def test_large_logits_stay_finite():
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("trained", [True, False])
def test_no_gradient_is_computed_without_grad_mode(monkeypatch, trained):
    products = []
    monkeypatch.setattr(
        loss_module, "rows_times_transposed", lambda x, weight: products.append(x.shape) or x @ weight.T
    )
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=trained)
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2]))
    assert not loss.requires_grad
    assert products == [(3, 4)]


def test_no_gradient_is_computed_where_none_is_asked():
    loss, nll = linear_cross_entropy(torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2]))
    assert not loss.requires_grad
    assert nll.sum() == pytest.approx(loss.item())


@pytest.mark.parametrize("of", ["trained", "frozen", "any head"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_masked_may_be_anything(bad, of):
    torch.manual_seed(0)
    hidden, target = torch.randn(6, 8), torch.randint(0, 11, (6,))
    mask = torch.tensor([True, False, True, True, False, True])
    spoilt = hidden.clone()
    spoilt[1], spoilt[4] = bad, -bad
    weight = torch.randn(11, 8, requires_grad=of == "trained")

    def run(hidden_TD, target_T):
        hidden_TD = hidden_TD.clone().requires_grad_()
        if of == "any head":
            loss, nll = head_cross_entropy(lambda h: h @ weight.T, hidden_TD, target_T, mask, 11, chunk_logits=22)
        else:
            loss, nll = linear_cross_entropy(hidden_TD, weight, target_T, mask, chunk_logits=22)
        return loss, nll, torch.autograd.grad(loss, (hidden_TD, weight) if of == "trained" else (hidden_TD,))

    expected, found = run(hidden, target), run(spoilt, target.where(mask, -100))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert (found[1][~mask] == 0).all()
    for gradient, wanted in zip(found[2], expected[2], strict=True):
        assert torch.equal(gradient, wanted)


def test_a_target_outside_the_vocabulary_is_refused_by_any_head_too():
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        head_cross_entropy(lambda h: h, torch.randn(1, 8), torch.tensor([-100]), None, 8)
