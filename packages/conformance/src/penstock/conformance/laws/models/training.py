# pyright: basic
"""What holds of the loss, of its gradient, and of steps along it.

Shape suffixes: B batch, S sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws.models.build import (
    ARCHITECTURE,
    expect_close,
    gradients_of,
    logits_of,
    loss_of,
    model_of,
    nats_of,
    random_tokens,
    redrawn,
)
from penstock.conformance.laws.models.passes import LOGITS
from penstock.conformance.parts import TopKRouter, random_state
from penstock.hooks.contracts import Router


@law(ARCHITECTURE, needs=LOGITS)
def the_loss_is_the_cross_entropy_of_the_logits(subject: Subject) -> None:
    """`next_token_loss` is the sum of the tokens' negative log-likelihoods in nats; `nll_BS` holds them in fp32,
    detached.

    Return a sum, not a mean: the training loop divides by the tokens of the whole step.
    """
    model, token_BS, target_BS = redrawn(subject), random_tokens(2, 9), random_tokens(2, 9, seed=1)
    expected_BS = nats_of(logits_of(model, token_BS), target_BS)
    output = loss_of(model, token_BS, target_BS)
    form = (output.nll_BS.dtype, tuple(output.nll_BS.shape), output.nll_BS.requires_grad)
    expect(form == (torch.float32, (2, 9), False), f"nll_BS is {form[0]} {form[1]}, requires_grad {form[2]}")
    expect_close(output.nll_BS, expected_BS, "in nats of tokens")
    expect(output.loss.requires_grad and output.loss.ndim == 0, "the loss is no scalar with a gradient")
    expect_close(output.loss.detach(), expected_BS.sum(), "in the loss")


LOSS = (the_loss_is_the_cross_entropy_of_the_logits,)


@law(ARCHITECTURE, needs=LOSS)
def masked_targets_count_for_nothing(subject: Subject) -> None:
    """Only targets in the mask count; the others change neither the loss nor its gradient, and may be -100.

    Replace masked targets by a token, and select the nats by the mask (`torch.where`) before summing: multiplied by 0,
    a NaN stays NaN.
    """
    model, token_BS, mask_BS = redrawn(subject), random_tokens(2, 9), torch.ones(2, 9, dtype=torch.bool)
    mask_BS[0, 6:], mask_BS[1, 2] = False, False
    target_BS, other_BS = random_tokens(2, 9, seed=1), random_tokens(2, 9, seed=2)
    other_BS = torch.where(mask_BS, target_BS, other_BS)
    no_BS = torch.where(mask_BS, target_BS, -100)
    expected = (nats_of(logits_of(model, token_BS), target_BS) * mask_BS).sum()
    gradients: list[dict[str, Tensor]] = []
    for each_BS in (target_BS, other_BS, no_BS):
        model.zero_grad()
        output = loss_of(model, token_BS, each_BS, mask_BS)
        expect_close(output.loss.detach(), expected, "in the masked loss")
        output.loss.backward()
        gradients.append(gradients_of(model))
    for name, gradient in gradients[0].items():
        for other in gradients[1:]:
            expect_close(other[name], gradient, f"in the gradient of '{name}' under other masked targets")


@law(ARCHITECTURE, needs=(masked_targets_count_for_nothing,))
def a_batch_without_counted_targets_has_no_loss(subject: Subject) -> None:
    """If the mask selects no target, the loss and its gradient are zero.

    Do not divide by a count: a rank may get a batch of only padding.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    loss = loss_of(model, token_BS, token_BS, torch.zeros(2, 9, dtype=torch.bool)).loss
    expect(loss.item() == 0, f"the loss is {loss.item()}")
    loss.backward()
    moved = [name for name, gradient in gradients_of(model).items() if gradient.any()]
    expect(not moved, f"not zero is the gradient of {', '.join(moved)}")


@law(ARCHITECTURE, needs=LOSS)
def the_gradient_reaches_every_parameter(subject: Subject) -> None:
    """Every parameter gets a finite gradient that is not zero, unless it is frozen (`requires_grad`).

    A parameter without one is dead weight: look for `detach`, for a router whose weights are not used, and for
    experts that no token reaches. Not everything may be frozen.
    """
    model = redrawn(subject)
    loss_of(model, random_tokens(8, 16), random_tokens(8, 16, seed=1)).loss.backward()
    training = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    expect(training, "every parameter is frozen")
    for name, parameter in training:
        expect(parameter.grad is not None, f"'{name}' got no gradient")
        expect(parameter.grad.isfinite().all(), f"the gradient of '{name}' is not finite")
        expect(parameter.grad.any(), f"the gradient of '{name}' is zero")


@law(ARCHITECTURE, needs=LOSS)
def the_gradient_is_the_slope_of_the_loss(subject: Subject) -> None:
    """A small step along the gradient changes the loss by the step times the length of the gradient.

    Look for `detach`, for tensors changed in place, and for backward passes written by hand.
    """
    model = redrawn(subject, make_router=_route_to_all)  # a choice among experts has no slope
    token_BS, target_BS = random_tokens(4, 9), random_tokens(4, 9, seed=1)
    loss = loss_of(model, token_BS, target_BS).loss
    loss.backward()
    gradients = gradients_of(model)
    length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    step = 0.003 * loss.item() / length
    sides: list[float] = []
    for shift in (step, -2 * step):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in gradients:
                    parameter.add_(gradients[name], alpha=shift / length)
            sides.append(loss_of(model, token_BS, target_BS).loss.item())
    slope = (sides[0] - sides[1]) / (2 * step)
    expect(abs(slope - length) < 0.02 * length, f"the gradient is {length:.5g} long, and the slope is {slope:.5g}")


@law(ARCHITECTURE, needs=LOSS)
def a_pass_draws_no_random_numbers(subject: Subject) -> None:
    """Neither evaluation nor training draws from a global generator.

    A resumed run must go on with the same numbers: noise needs a generator whose state is saved.
    """
    model, token_BS = redrawn(subject), random_tokens(2, 9)
    before = random_state()
    for training in (False, True):
        model.train(training)
        loss_of(model, token_BS, token_BS).loss.backward()
        expect(random_state() == before, f"a pass with training={training} drew from a global generator")


@law(ARCHITECTURE, needs=LOSS)
def training_lowers_the_loss(subject: Subject) -> None:
    """A dozen steps along the gradient of one batch lower its loss, from the weights that the model starts with.

    Look for a path from the loss to the weights that is cut, and for weights that all start at zero.
    """
    model, token_BS = model_of(subject), random_tokens(4, 12)
    losses: list[float] = []
    for _ in range(12):
        model.zero_grad()
        loss = loss_of(model, token_BS[:, :-1], token_BS[:, 1:]).loss
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    length = parameter.grad.square().mean().sqrt().clamp_min(1e-12)
                    parameter.sub_(0.01 * parameter.grad / length)
    expect(losses[-1] < 0.95 * losses[0], f"a dozen steps took the loss from {losses[0]:.3f} to {losses[-1]:.3f}")


@law(ARCHITECTURE, needs=(the_gradient_reaches_every_parameter,), capability="mixed-precision")
def computing_in_bf16_keeps_fp32_parameters(subject: Subject) -> None:
    """With `compute_dtype` bf16, hidden states are bf16, the loss stays close, and parameters and gradients are fp32.

    Cast weights on use; logits and loss stay fp32.
    """
    model, token_BS, target_BS = redrawn(subject), random_tokens(4, 9), random_tokens(4, 9, seed=1)
    exact = loss_of(model, token_BS, target_BS).loss.item()
    expect(hasattr(model, "compute_dtype"), "the model has no compute_dtype")
    model.compute_dtype = torch.bfloat16
    hidden = model(token_BS).hidden_BSD
    expect(hidden.dtype == torch.bfloat16, f"hidden states are {hidden.dtype}")
    output = loss_of(model, token_BS, target_BS)
    near = abs(output.loss.item() - exact) < 0.05 * exact
    expect(near, f"the loss is {output.loss.item():.4f} in bf16 and {exact:.4f} in fp32")
    output.loss.backward()
    for name, parameter in model.named_parameters():
        dtypes = {parameter.dtype} | ({parameter.grad.dtype} if parameter.requires_grad else set())
        expect(dtypes == {torch.float32}, f"'{name}' and its gradient are {sorted(map(str, dtypes))}")


def _route_to_all(layer: int, *, hidden_size: int, experts: int) -> Router:
    return TopKRouter(hidden_size, experts, experts)


LAWS = laws_in(globals())
