"""Laws of tasks: `Task`, which evaluates a language model.

They are held with models that look one token back and are known to the last digit, and a tokenizer of bytes.

Shape suffixes: B batch, S sequence, V vocabulary, N tokens of a stream.
"""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import LossOutput, ModelOutput, ParameterRole, TaskResult
from penstock.hooks.problems import ProblemError

CAPABILITIES = {
    "every-token": "every token is scored once, so that a model that looks one token back has the same figures for any "
    "sequence length",
}
TASK = "task"
BYTES = 256
SEQUENCE = 32
TEXT = "".join(
    f"On day {day} the mill ground {day * 7 % 23} sacks, and the gate stood {'open' if day % 3 else 'shut'}.\n"
    for day in range(24)
)


@law(TASK)
def the_result_is_a_task_result(subject: Subject) -> None:
    """`run` returns a `TaskResult` with at least one metric, and every metric has a name.

    Return `TaskResult({"name@convention": value}, details)`.
    """
    result = _run(subject, _random_model())
    expect(isinstance(result, TaskResult), f"run returns a {type(result).__name__}")
    expect(result.metrics, "there are no metrics")
    unnamed = [name for name in result.metrics if not isinstance(name, str) or not name.strip()]
    expect(not unnamed, f"metrics are called {unnamed}")


@law(TASK, needs=(the_result_is_a_task_result,))
def metrics_are_finite_floats(subject: Subject) -> None:
    """Every metric is a float, neither NaN nor infinite.

    Convert tensors by `.item()`, and mind means over nothing.
    """
    for name, value in _run(subject, _random_model()).metrics.items():
        expect(isinstance(value, float) and math.isfinite(value), f"{name} is {value!r}")


@law(TASK, needs=(the_result_is_a_task_result,))
def details_can_be_written(subject: Subject) -> None:
    """`details` is a mapping that strict JSON can hold.

    Turn arrays into lists, paths into strings, and NaN into None.
    """
    details = _run(subject, _random_model()).details
    try:
        json.dumps(dict(details), allow_nan=False)
    except (TypeError, ValueError) as error:
        expect(False, f"JSON refuses the details: {error}")


@law(TASK, needs=(metrics_are_finite_floats,))
def the_same_model_has_the_same_metrics(subject: Subject) -> None:
    """A second run gives the same metrics, of the same object and of another one.

    Seed what is drawn from a setting, and let every run begin anew.
    """
    task, model = subject.build(), _random_model()
    results = [_metrics(each, model) for each in (task, task, subject.build())]
    expect(results[0] == results[1], "the second run of one object gives other metrics")
    expect(results[0] == results[2], "another object gives other metrics")


@law(TASK, needs=(the_result_is_a_task_result,))
def the_model_keeps_its_weights(subject: Subject) -> None:
    """Parameters and buffers are what they were, bit for bit, and want gradients as before.

    Work on a copy where weights must change.
    """
    model = _random_model()
    before = copy.deepcopy(model.state_dict())
    _run(subject, model)
    after = model.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    expect(same, "the run has changed the model's tensors")
    expect(all(parameter.requires_grad for parameter in model.parameters()), "the run has frozen parameters")


@law(TASK, needs=(the_result_is_a_task_result,))
def no_gradient_is_left(subject: Subject) -> None:
    """No parameter has a gradient after a run.

    Evaluate under `torch.inference_mode()`: the next training step would add to what is left.
    """
    model = _random_model()
    _run(subject, model)
    expect(all(parameter.grad is None for parameter in model.parameters()), "a parameter has a gradient")


@law(TASK, needs=(the_result_is_a_task_result,))
def the_model_keeps_its_mode(subject: Subject) -> None:
    """A model in training mode comes back in training mode, one in evaluation mode in that.

    Note `model.training` first, and restore it in a `finally`.
    """
    for training in (True, False):
        model = _random_model().train(training)
        _run(subject, model)
        modes = {module.training for module in model.modules()}
        expect(modes == {training}, f"training was {training}, and is {modes}")


@law(TASK, needs=(the_same_model_has_the_same_metrics,))
def dropout_is_off(subject: Subject) -> None:
    """The metrics of a model do not depend on the mode in which it comes.

    Call `model.eval()` before scoring.
    """
    trained, evaluated = (_metrics(subject.build(), _random_model().train(mode)) for mode in (True, False))
    expect(trained == evaluated, "a model that comes in training mode has other metrics")


@law(TASK, needs=(the_result_is_a_task_result,))
def no_global_random_numbers_are_drawn(subject: Subject) -> None:
    """The global random states of torch, numpy and Python are what they were.

    Draw from generators of your own: evaluating must not change how training goes on.
    """

    def act() -> None:
        before = torch.get_rng_state()
        _run(subject, _random_model())
        expect(torch.equal(torch.get_rng_state(), before), "the global state of torch has changed")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_011)  # a task that seeds with a number of its own does not leave this state
        leaves_the_random_state(act)


@law(TASK, needs=(the_result_is_a_task_result,))
def torch_keeps_its_settings(subject: Subject) -> None:
    """Gradients are enabled, the default type and the number of threads are what they were.

    Use context managers instead of `torch.set_...`.
    """
    model = _random_model()
    with torch.enable_grad():
        before = _torch_settings()
        try:
            subject.build().run(model, ByteTokenizer(), heldout=_heldout(), sequence_length=SEQUENCE)
            after = _torch_settings()
        finally:
            torch.set_default_dtype(before["default type"])
            torch.set_num_threads(before["threads"])
    changed = [name for name, value in after.items() if value != before[name]]
    expect(not changed, f"changed: {', '.join(changed)}")


@law(TASK, needs=(the_result_is_a_task_result,))
def heldout_tokens_are_left_alone(subject: Subject) -> None:
    """The array of held-out tokens keeps its values.

    Copy it before shifting or masking in place.
    """
    tokens_N = _heldout()
    _run(subject, _random_model(), heldout=tokens_N)
    expect(np.array_equal(tokens_N, _heldout()), "the tokens have other values after the run")


@law(TASK, needs=(the_same_model_has_the_same_metrics, heldout_tokens_are_left_alone))
def tokens_of_any_type_are_read(subject: Subject) -> None:
    """Held-out tokens of uint16 or uint32 that cannot be written to give the metrics of int64.

    Shards are memory-mapped as they are stored: convert a window at a time to int64.
    """
    tokens_N, model = _heldout(), _random_model()
    expected = _metrics(subject.build(), model, heldout=tokens_N)
    for kind in (np.uint16, np.uint32):
        stored_N = tokens_N.astype(kind)
        stored_N.flags.writeable = False
        expect(_metrics(subject.build(), model, heldout=stored_N) == expected, f"{kind.__name__} gives other metrics")


@law(TASK, needs=(the_result_is_a_task_result,))
def nothing_held_out_is_answered_or_refused(subject: Subject) -> None:
    """Without held-out tokens, or with one alone, there is a result, or a `ProblemError`.

    Say that the run has none and what to do, where the task needs them.
    """
    for tokens_N in (None, _heldout()[:0], _heldout()[:1]):
        try:
            result = _run(subject, _random_model(), heldout=tokens_N)
        except ProblemError:
            continue
        expect(isinstance(result, TaskResult), f"run returns a {type(result).__name__}")


@law(TASK, needs=(the_result_is_a_task_result,))
def a_tokenizer_that_only_keeps_the_contract_is_taken_or_refused(subject: Subject) -> None:
    """A tokenizer with nothing but `encode`, `decode` and `vocabulary_size` gives a result, or a `ProblemError`.

    Check for whatever more the task needs, and name it.
    """
    try:
        result = _run(subject, _random_model(), tokenizer=PlainTokenizer())
    except ProblemError:
        return
    expect(isinstance(result, TaskResult), f"run returns a {type(result).__name__}")


@law(TASK, needs=(metrics_are_finite_floats,))
def a_uniform_model_has_the_figures_of_its_vocabulary(subject: Subject) -> None:
    """Where all 256 bytes are equally likely, metrics named `bits_per_byte` are 8, and `token_perplexity` is 256.

    Mind nats and bits, and divide by the tokens and bytes that are scored. Another convention has another name.
    """
    expected = {"bits_per_byte": 8.0, "token_perplexity": 256.0}
    metrics = _metrics(subject.build(), TableModel(torch.zeros(BYTES, BYTES)).eval())
    named = [
        (name, value, figure) for name, value in metrics.items() for part, figure in expected.items() if part in name
    ]
    if not named:
        raise NotApplicable("no metric is called bits_per_byte or token_perplexity")
    for name, value, figure in named:
        expect(math.isclose(value, figure, rel_tol=0.01), f"{name} is {value}, not {figure}")


@law(TASK, needs=(the_same_model_has_the_same_metrics,))
def a_model_that_knows_the_text_scores_better(subject: Subject) -> None:
    """Metrics named `bits_per_byte` or `perplexity` are lower for a model that has learned what it is asked.

    Compare each prediction with the token after it, not with the token itself.
    """
    knowing = {name: value for name, value in _metrics(subject.build(), _taught_by(subject)).items() if _is_loss(name)}
    if not knowing:
        raise NotApplicable("no metric is called bits_per_byte or perplexity")
    ignorant = _metrics(subject.build(), TableModel(torch.zeros(BYTES, BYTES)).eval())
    for name, value in knowing.items():
        expect(value < ignorant[name], f"{name} is {value} for it, {ignorant[name]} for a model that knows nothing")


@law(TASK, needs=(the_same_model_has_the_same_metrics,), capability="every-token")
def the_sequence_length_moves_no_token(subject: Subject) -> None:
    """A model that looks one token back has the same metrics for any sequence length, but for their names.

    Score every token but the first once: a window begins with the last token of the one before.
    """
    model = _random_model()
    figures = [list(_metrics(subject.build(), model, sequence_length=length).values()) for length in (16, 48)]
    seen = f"{figures[0]} by windows of 16, {figures[1]} by windows of 48"
    same = len(figures[0]) == len(figures[1]) and np.allclose(figures[0], figures[1], rtol=1e-5)
    expect(same, seen)


class TableModel(nn.Module):
    """A `LanguageModel` whose next token depends on the one before alone: row t of the table is what follows t, in
    logits. In training mode, dropout makes it another one each time. `asked` counts the pairs that were scored."""

    def __init__(self, table_VV: Tensor) -> None:
        super().__init__()
        self.vocabulary_size = len(table_VV)
        self.table_VV = nn.Parameter(table_VV.clone())
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.asked_VV = np.zeros(table_VV.shape)

    @property
    def routers(self) -> Mapping[int, Any]:
        return {}

    def forward(self, token_BS: Tensor, *, cache: Any = None) -> ModelOutput:
        token_NS = token_BS.detach().cpu().numpy()
        np.add.at(self.asked_VV, (token_NS[:, :-1].ravel(), token_NS[:, 1:].ravel()), 1)
        return ModelOutput(self.dropout(nn.functional.embedding(token_BS, self.table_VV)), {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD.float()

    def next_token_loss(self, token_BS: Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        logits_BSV = self.logits(self(token_BS).hidden_BSD)
        nll_BS = nn.functional.cross_entropy(logits_BSV.transpose(1, 2), target_BS, reduction="none")
        if mask_BS is not None:
            nll_BS = torch.where(mask_BS, nll_BS, 0.0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), {})

    @torch.no_grad()
    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        for _ in range(tokens):
            next_B = self.logits(self(token_BS).hidden_BSD[:, -1]).argmax(dim=-1)
            token_BS = torch.cat((token_BS, next_B[:, None]), dim=1)
        return token_BS

    def parameter_roles(self) -> Mapping[str, ParameterRole]:
        return {"table_VV": ParameterRole.EMBEDDING}

    def export_config(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary_size}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return {"table": self.table_VV.detach().clone()}

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.table_VV.copy_(state["table"])


class PlainTokenizer:
    """Token b is byte b: all that the contract asks of a tokenizer."""

    vocabulary_size = BYTES

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Any) -> str:
        return bytes(int(token) for token in tokens).decode(errors="replace")


class ByteTokenizer(PlainTokenizer):
    """Knows, as tokenizers of `data-prep` do, how many bytes a token has."""

    def byte_lengths(self) -> Any:
        return np.ones(BYTES, dtype=np.int64)


def _random_model() -> TableModel:
    """In evaluation mode; the same one each time."""
    draw = torch.Generator().manual_seed(0)
    return TableModel(torch.randn(BYTES, BYTES, generator=draw)).eval()


def _taught_by(subject: Subject) -> TableModel:
    """A model that has counted what follows what in the tokens that the task puts to it."""
    pupil = TableModel(torch.zeros(BYTES, BYTES)).eval()
    _run(subject, pupil)
    return TableModel(torch.from_numpy(np.log(pupil.asked_VV + 1e-3)).float()).eval()


def _run(subject: Subject, model: TableModel, *, tokenizer: Any = None, heldout: Any = ...) -> Any:
    tokens_N = _heldout() if heldout is ... else heldout
    with torch.enable_grad():  # ends what a task leaves switched off
        return subject.build().run(model, tokenizer or ByteTokenizer(), heldout=tokens_N, sequence_length=SEQUENCE)


def _metrics(
    task: Any, model: TableModel, *, heldout: Any = None, sequence_length: int = SEQUENCE
) -> Mapping[str, float]:
    tokens_N = _heldout() if heldout is None else heldout
    with torch.enable_grad():
        return task.run(model, ByteTokenizer(), heldout=tokens_N, sequence_length=sequence_length).metrics


def _heldout() -> Any:
    return np.array(ByteTokenizer().encode(TEXT), dtype=np.int64)


def _is_loss(name: str) -> bool:
    return "bits_per_byte" in name or "perplexity" in name


def _torch_settings() -> dict[str, Any]:
    return {
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


LAWS = laws_in(globals())
