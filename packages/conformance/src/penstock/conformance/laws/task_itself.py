"""Laws of contract 1 of tasks, which puts its questions to the model itself."""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

import copy

import torch

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import task_results
from penstock.conformance.laws.task_parts import TASK, metrics_of, random_model, require_contract, result_of


@law(TASK, needs=(task_results.the_result_is_a_task_result,))
def the_model_keeps_its_weights(subject: Subject) -> None:
    """Contract 1: parameters and buffers are unchanged, bit for bit, and so is `requires_grad`.

    Work on a copy if weights must change.
    """
    require_contract(subject, 1)
    model = random_model()
    before = copy.deepcopy(model.state_dict())
    result_of(subject, model)
    after = model.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    expect(same, "the run has changed the model's tensors")
    expect(all(parameter.requires_grad for parameter in model.parameters()), "the run has frozen parameters")


@law(TASK, needs=(task_results.the_result_is_a_task_result,))
def no_gradient_is_left(subject: Subject) -> None:
    """Contract 1: no parameter has a gradient after a run.

    Evaluate under `torch.inference_mode()`: the next training step would add to a leftover gradient.
    """
    require_contract(subject, 1)
    model = random_model()
    result_of(subject, model)
    expect(all(parameter.grad is None for parameter in model.parameters()), "a parameter has a gradient")


@law(TASK, needs=(task_results.the_result_is_a_task_result,))
def the_model_keeps_its_mode(subject: Subject) -> None:
    """Contract 1: a model comes back in the mode, training or evaluation, that it had before.

    Save `model.training` first, and restore it in a `finally`.
    """
    require_contract(subject, 1)
    for training in (True, False):
        model = random_model().train(training)
        result_of(subject, model)
        modes = {module.training for module in model.modules()}
        expect(modes == {training}, f"training was {training}, and is {modes}")


@law(TASK, needs=(task_results.the_same_model_has_the_same_metrics,))
def dropout_is_off(subject: Subject) -> None:
    """Contract 1: the metrics do not depend on whether the model is given in training or evaluation mode.

    Call `model.eval()` before scoring.
    """
    require_contract(subject, 1)
    trained, evaluated = (metrics_of(subject, random_model().train(mode)) for mode in (True, False))
    expect(trained == evaluated, "a model given in training mode has different metrics")


LAWS = laws_in(globals())
