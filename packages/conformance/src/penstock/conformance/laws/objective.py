# pyright: basic
"""Laws of objectives: `Objective`, the batches of a step and their loss.

They are held with random tokens, a tokenizer of few words and a small model.

Shape suffixes: B batch, S sequence.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.parts import VOCABULARY, TinyEncoder, TinyModel, random_state
from penstock.hooks.contracts import Batch, Inputs, ObjectiveOutput, Prediction, ScoredObjective, TrainingData

OBJECTIVE = "objective"
BATCH, LENGTH = 4, 8


class Tokens:
    """A `TokenSource` of random ids."""

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens = tokens
        self._ids = np.random.default_rng(seed).integers(1, VOCABULARY, tokens)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self._ids[start:stop].copy()


class Words:
    """A `Tokenizer` that has an id for each character, and few of them."""

    vocabulary_size = VOCABULARY
    end_of_text = 0

    def byte_lengths(self) -> Any:
        """One for each character, none for the token that ends a text."""
        return (np.arange(VOCABULARY) > 0).astype(np.int64)

    def encode(self, text: str) -> list[int]:
        return [1 + ord(character) % (VOCABULARY - 1) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(96 + token) for token in tokens)


@law(OBJECTIVE)
def a_step_has_batches_of_every_rank_and_part(subject: Subject) -> None:
    """`batches(step, rank=, ranks=, parts=)` returns `parts` batches. Each has its share of the rows, at least one
    unit, and tokens and targets of the same shape.

    Cut `batch_size` rows by rank, then by part.
    """
    objective = _prepared(subject)
    for ranks, parts in ((1, 1), (1, 2), (2, 1), (2, 2)):
        for rank in range(ranks):
            batches = objective.batches(3, rank=rank, ranks=ranks, parts=parts)
            cut = f"{ranks} ranks of {parts} parts"
            expect(len(batches) == parts, f"with {cut} rank {rank} has {len(batches)}")
            for batch in batches:
                shapes = (tuple(batch.inputs.token_BS.shape), tuple(batch.target_BS.shape))
                rows = BATCH // ranks // parts
                expect(shapes[0] == shapes[1] and shapes[0][0] == rows, f"with {cut} tokens and targets are {shapes}")
                expect(isinstance(batch.units, int) and batch.units > 0, f"a batch has {batch.units!r} units")


BATCHES = (a_step_has_batches_of_every_rank_and_part,)


@law(OBJECTIVE, needs=BATCHES)
def the_cut_changes_no_row(subject: Subject) -> None:
    """Concatenated over ranks and parts, rows and units are those of one rank and one part.

    Choose the rows from the step number only, and give each rank and part its slice.
    """
    objective = _prepared(subject)
    (whole,) = objective.batches(2)
    for ranks, parts in ((2, 1), (1, 4), (2, 2)):
        cut = [batch for rank in range(ranks) for batch in objective.batches(2, rank=rank, ranks=ranks, parts=parts)]
        expect(_rows(cut) == _rows([whole]), f"{ranks} ranks of {parts} parts have other rows than one")
        units = sum(batch.units for batch in cut)
        expect(units == whole.units, f"{ranks} ranks of {parts} parts have {units} units, and one has {whole.units}")


@law(OBJECTIVE, needs=BATCHES)
def a_step_is_a_function_of_its_number(subject: Subject) -> None:
    """`batches(step)` does not depend on earlier calls or on the object; different steps have different rows.

    A resumed run starts in the middle: do not count calls, and seed with (seed, step).
    """
    objective = _prepared(subject)
    steps = [_rows(objective.batches(step)) for step in range(4)]
    expect(_rows(objective.batches(1)) == steps[1], "step 1 is another after step 3")
    expect(_rows(_prepared(subject).batches(3)) == steps[3], "step 3 is another where it is the first that is asked")
    expect(any(first != second for first, second in itertools.pairwise(steps)), "all steps have the same rows")


@law(OBJECTIVE, needs=BATCHES)
def no_global_random_numbers_are_drawn(subject: Subject) -> None:
    """Making batches does not draw from global generators.

    Use your own generator: torch's global state is part of a checkpoint.
    """
    objective = _prepared(subject)
    before = random_state(), np.random.get_state()[1].tolist()  # pyright: ignore
    objective.batches(0)
    list(objective.heldout())
    expect((random_state(), np.random.get_state()[1].tolist()) == before, "a global state has changed")  # pyright: ignore


@law(OBJECTIVE, needs=BATCHES)
def the_loss_is_finite_and_has_a_gradient(subject: Subject) -> None:
    """`loss(model, batch)` returns an `ObjectiveOutput` whose loss is a finite scalar with a gradient to the model.

    Call the model, and do not detach the loss.
    """
    output, gradients = _loss(subject, _prepared(subject), _prepared(subject).batches(0)[0])
    expect(isinstance(output, ObjectiveOutput), f"loss returns a {type(output).__name__}")
    expect(output.loss.ndim == 0 and bool(output.loss.isfinite()), f"the loss is {output.loss}")
    expect(any(gradient.any() for gradient in gradients.values()), "no parameter has a gradient")


LOSS = (the_loss_is_finite_and_has_a_gradient,)


@law(OBJECTIVE, needs=LOSS)
def the_loss_is_a_sum(subject: Subject) -> None:
    """Losses, gradients and measurements of the parts of a step add up to those of the whole step.

    Return sums: the training loop divides by the units of the whole step.
    """
    objective = _prepared(subject)
    expected, gradients = _loss(subject, objective, objective.batches(1)[0])
    parts = [_loss(subject, objective, batch) for batch in objective.batches(1, parts=BATCH)]
    found = sum(output.loss.item() for output, _ in parts)
    expect(_close(found, expected.loss.item()), f"the parts have {found}, the whole {expected.loss.item()}")
    for name, gradient in gradients.items():
        added = torch.stack([part[name] for _, part in parts]).sum(0)
        expect(torch.allclose(added, gradient, atol=1e-4), f"the gradients of {name} do not add up")
    for name, (value, weight) in expected.measured.items():
        pairs = [output.measured[name] for output, _ in parts]
        added = [sum(float(pair[column]) for pair in pairs) for column in (0, 1)]
        whole = [float(value), float(weight)]
        expect(all(map(_close, added, whole)), f"sum and weight of {name} are {whole}, those of the parts {added}")


@law(OBJECTIVE, needs=LOSS)
def a_target_that_does_not_count_changes_nothing(subject: Subject) -> None:
    """Targets where `counted_BS` is False do not change the loss.

    Pass the mask to the model's loss.
    """
    objective = _prepared(subject)
    batch = objective.batches(0)[0]
    if batch.counted_BS is None or bool(batch.counted_BS.all()):
        raise NotApplicable("every target counts")
    other_BS = torch.where(batch.counted_BS, batch.target_BS, (batch.target_BS + 1) % VOCABULARY)
    losses = [_loss(subject, objective, each)[0].loss.item() for each in (batch, replace(batch, target_BS=other_BS))]
    expect(_close(*losses), f"the loss is {losses[0]}, and with other targets {losses[1]}")


@law(OBJECTIVE, needs=LOSS)
def the_model_stays_as_it_is(subject: Subject) -> None:
    """`loss` changes neither parameters nor mode of the model.

    Use separate reference and teacher models.
    """
    objective = _prepared(subject)
    model = _model(subject, objective)
    before = copy.deepcopy(model.state_dict())
    objective.loss(model, objective.batches(0)[0])
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed and model.training, f"changed: {', '.join(changed) or 'the mode'}")


@law(OBJECTIVE, needs=LOSS)
def heldout_batches_are_the_same_each_time(subject: Subject) -> None:
    """`heldout()` is finite, has at least one unit, and yields the same batches each time.

    Return a new iterator with a fixed order.
    """
    objective = _prepared(subject)
    first, second = (list(itertools.islice(objective.heldout(), 10_000)) for _ in range(2))
    expect(0 < len(first) < 10_000, f"there are {len(first)} or more")
    expect(sum(batch.units for batch in first) > 0, "they have no units")
    expect(_rows(first) == _rows(second), "they are others the second time")
    for batch in first:
        loss = objective.loss(_model(subject, objective), batch).loss
        expect(bool(loss.isfinite()), f"the loss of one is {loss}")


@law(OBJECTIVE, needs=BATCHES, capability="masked-lm")
def it_trains_a_masked_language_model(subject: Subject) -> None:
    """The loss comes from `masked_token_loss` alone, the one loss that an encoder with a masked-token head has.

    Declare `masked-lm` if the objective hides tokens; a config then refuses any other model before training.
    """
    _require_trained(subject, Prediction.MASKED)


@law(OBJECTIVE, needs=BATCHES, capability="classification")
def it_trains_a_classifier_of_texts(subject: Subject) -> None:
    """The loss comes from `task_logits` [B, labels] alone, with a label for each text.

    Declare `classification` if every row has one label.
    """
    _require_trained(subject, Prediction.CLASSIFICATION)


@law(OBJECTIVE, needs=BATCHES, capability="tags")
def it_trains_a_tagger_of_tokens(subject: Subject) -> None:
    """The loss comes from `task_logits` [B, S, labels] alone, with a label for each token.

    Declare `tags` if words have labels.
    """
    _require_trained(subject, Prediction.TAGS)


@law(OBJECTIVE, needs=BATCHES, capability="spans")
def it_trains_a_finder_of_spans(subject: Subject) -> None:
    """The loss comes from `task_logits` [B, S, 2] alone, the logits of the first and the last token of an answer.

    Declare `spans` if the answer is a part of the text.
    """
    _require_trained(subject, Prediction.SPANS)


@law(OBJECTIVE, needs=LOSS)
def figures_are_sums_over_examples(subject: Subject) -> None:
    """For an objective with `scores`, the sums over rows are what the loss measures, and `examples` covers every
    held-out row the same way each time.

    Return value and weight of each row, and add up the same tensors in `loss`.
    """
    objective: Any = _prepared(subject)
    scored: object = objective
    if not isinstance(scored, ScoredObjective):
        raise NotApplicable("the objective scores no examples")
    batches = list(objective.examples())
    expect(_rows(batches) == _rows(list(objective.examples())), "the examples are others the second time")
    model = _model(subject, objective)
    for batch in batches:
        scores, measured = objective.scores(model, batch), objective.loss(model, batch).measured
        expect(scores.keys() <= measured.keys(), f"scores of {sorted(scores)}, measured {sorted(measured)}")
        for name, pair in scores.items():
            form = [tuple(each.shape) for each in pair]
            expect(form == [(len(batch.target_BS),)] * 2, f"value and weight of {name} have the shapes {form}")
            sums = [(float(each.sum()), float(whole)) for each, whole in zip(pair, measured[name], strict=True)]
            expect(all(_close(*each) for each in sums), f"{name} adds up to other sums than the loss measures")


def _require_trained(subject: Subject, prediction: Prediction) -> None:
    """The objective has a loss of a model that has only what this prediction needs."""
    objective = _prepared(subject)
    labels = {Prediction.SPANS: 2, Prediction.TAGS: max(3, _labels(objective))}  # so that neither passes for the other
    model = TinyEncoder(prediction, labels.get(prediction, _labels(objective)))
    output = objective.loss(model, objective.batches(0)[0])
    expect(bool(output.loss.isfinite()) and output.loss.requires_grad, f"the loss is {output.loss}")


def _labels(objective: Any) -> int:
    """Three for an objective that names none: a head of spans has two, and no other one may be taken for it."""
    return len(objective.labels) if isinstance(objective, ScoredObjective) else 3


def _model(subject: Subject, objective: Any) -> Any:
    """A model of the kind that the component declares to train; what it declares wrongly, a law of that name tells."""
    declared = next((each for each in Prediction if subject.claims(each)), Prediction.NEXT_TOKEN)
    return TinyModel() if not isinstance(objective, ScoredObjective) else TinyEncoder(declared, _labels(objective))


def _prepared(subject: Subject) -> Any:
    objective = subject.build()
    objective.prepare(
        TrainingData(
            train=Tokens(600, seed=1),
            heldout=Tokens(200, seed=2),
            tokenizer=Words(),
            end_of_text=0,
            byte_lengths_V=Words().byte_lengths(),
            sequence_length=LENGTH,
            batch_size=BATCH,
            heldout_tokens=64,
            seed=7,
        )
    )
    return objective


def _rows(batches: Sequence[Batch]) -> list[tuple[Any, ...]]:
    """What each row has, without the padding behind it."""
    return [row for batch in batches for row in _rows_of(batch)]


def _rows_of(batch: Batch) -> Iterator[tuple[Any, ...]]:
    inputs: Inputs = batch.inputs
    for row in range(len(batch.target_BS)):
        every_S = torch.ones_like(batch.target_BS[row], dtype=torch.bool)
        real_S = every_S if inputs.real_BS is None else inputs.real_BS[row]
        counted_S = real_S if batch.counted_BS is None else batch.counted_BS[row]
        columns: list[Tensor] = [inputs.token_BS[row], batch.target_BS[row], counted_S]
        yield tuple(tuple(column[real_S].tolist()) for column in columns)


def _loss(subject: Subject, objective: Any, batch: Batch) -> tuple[ObjectiveOutput, dict[str, Tensor]]:
    model = _model(subject, objective)
    output: ObjectiveOutput = objective.loss(model, batch)
    if output.loss.requires_grad:
        output.loss.backward()
    return output, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-4 * max(1.0, abs(second))


LAWS = laws_in(globals())
