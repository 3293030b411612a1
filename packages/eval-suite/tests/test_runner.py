"""What a runner asks a model, against one prediction at a time; and that kept answers are as good as new ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError
from penstock.hooks.contracts import (
    Answer,
    Estimate,
    Generate,
    GenerateAnswer,
    Item,
    Likelihood,
    LikelihoodAnswer,
    Rolling,
    RollingAnswer,
    TaskContext,
    TaskResult,
)

VOCABULARY = 11


class Letters:
    """Token n is the letter n of the alphabet; token 0 ends a text."""

    vocabulary_size = VOCABULARY
    end_of_text = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token + ord("a")) for token in tokens)


class Asking:
    """Asks what it is given, one item a request, and keeps the answers of the last run."""

    def __init__(self, *requests: Any) -> None:
        self.asked = requests
        self.answers: list[Answer] = []

    def items(self, context: TaskContext) -> Iterator[Item]:
        self.answers.clear()
        yield from (Item(str(number), request) for number, request in enumerate(self.asked))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Any]:
        return [item.document]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        self.answers += answers
        return [{"nll": _nats(answers[0])}]

    def total(self, scores: Mapping[str, Any], context: TaskContext) -> TaskResult:
        name = "asking.nats@mean"
        return TaskResult({name: float(scores["nll"].mean())}, estimates={name: Estimate("nll")})


def _nats(answer: Answer) -> float:
    match answer:
        case LikelihoodAnswer():
            return answer.nll
        case RollingAnswer():
            return float(answer.nll_N.sum())
        case GenerateAnswer():
            return float(len(answer.text))


def a_context(**changes: Any) -> TaskContext:
    return TaskContext(**{"tokenizer": Letters(), "heldout": None, "sequence_length": 12, **changes})


def draw(seed: int, *lengths: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, VOCABULARY, length).tolist() for length in lengths]


def likelihoods(seed: int = 0, count: int = 40) -> list[Likelihood]:
    """Of unequal lengths, 2 to 12 tokens together."""
    generator = np.random.default_rng(seed)
    sizes = [(int(generator.integers(1, 9)), int(generator.integers(1, 5))) for _ in range(count)]
    return [Likelihood(*draw(seed + number, *size)) for number, size in enumerate(sizes)]


def asked(model: Any, *requests: Any, **changes: Any) -> list[Answer]:
    task = Asking(*requests)
    run_task(task, model, a_context(), **changes)
    return list(task.answers)


@torch.no_grad()
def next_logits(model: Any, context: Sequence[int]) -> torch.Tensor:
    model.eval()
    return model.logits(model(torch.tensor([list(context)])).hidden_BSD)[0, -1]


def dumb_likelihood(model: Any, request: Likelihood) -> tuple[float, bool]:
    read, nll, likeliest = list(request.context), 0.0, True
    for token in request.continuation:
        logits_V = next_logits(model, read)
        nll -= logits_V.log_softmax(0)[token].item()
        likeliest = likeliest and int(logits_V.argmax()) == token
        read.append(token)
    return nll, likeliest


def dumb_generation(model: Any, request: Generate) -> str:
    read = list(request.prompt)
    for _ in range(request.tokens):
        token = int(next_logits(model, read).argmax())
        if token == Letters.end_of_text:
            break
        read.append(token)
    text = Letters().decode(read[len(request.prompt) :])
    for stop in request.stop:
        text = text.split(stop)[0]
    return text


def test_a_likelihood_is_that_of_one_token_at_a_time(make_gru):
    model, requests = make_gru(), likelihoods()
    likely = [Likelihood(request.context, dumb_likeliest(model, request.context, 3)) for request in requests[:9]]
    answers = asked(model, *requests, *likely)
    for request, answer in zip([*requests, *likely], answers, strict=True):
        assert isinstance(answer, LikelihoodAnswer)
        assert (answer.nll, answer.likeliest) == pytest.approx(dumb_likelihood(model, request), abs=1e-5)
    assert [answer.likeliest for answer in answers if isinstance(answer, LikelihoodAnswer)][-9:] == [True] * 9


def dumb_likeliest(model: Any, context: Sequence[int], count: int) -> list[int]:
    read = list(context)
    for _ in range(count):
        read.append(int(next_logits(model, read).argmax()))
    return read[len(context) :]


@pytest.mark.parametrize("stride", [None, 4])
def test_a_stream_has_the_bits_of_token_nll(make_gru, stride):
    model, (stream,) = make_gru(), draw(0, 1000)
    token_N = np.array(stream, dtype=np.uint16)
    (answer,) = asked(model, Rolling(token_N, 12, stride))
    assert isinstance(answer, RollingAnswer)
    assert (answer.nll_N == token_nll(model, token_N, sequence_length=12, stride=stride)).all()


def test_a_generation_is_the_likeliest_token_each_time_up_to_a_stop(make_gru):
    model = make_gru()
    prompts = draw(1, 3, 5, 3, 2, 5, 3)
    whole = [Generate(prompt, 6) for prompt in prompts]
    stopped = [Generate(each.prompt, 6, (dumb_generation(model, each)[2:4] or "k",)) for each in whole]
    answers = [answer for answer in asked(model, *whole, *stopped) if isinstance(answer, GenerateAnswer)]
    assert [answer.text for answer in answers] == [dumb_generation(model, each) for each in [*whole, *stopped]]
    assert any(len(answer.text) == 6 for answer in answers)
    for full, cut in zip(answers[: len(whole)], answers[len(whole) :], strict=True):
        assert tuple(cut.tokens) == tuple(full.tokens)[: len(cut.tokens)]


def test_generation_ends_where_the_text_does(make_gru):
    model = make_gru()
    with torch.no_grad():
        model.head.bias[Letters.end_of_text] = 100.0
    assert asked(model, Generate([1, 2], 4)) == [GenerateAnswer("")]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_change_nothing_but_rounding(make_gru, batch_size):
    model = make_gru()
    requests = [*likelihoods(), *(Rolling(np.array(each), 7) for each in draw(2, 30, 8, 15))]
    expected = list(map(_nats, asked(model, *requests)))
    assert list(map(_nats, asked(model, *requests, batch_size=batch_size))) == pytest.approx(expected, abs=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted(make_gru):
    model, (context, continuation) = make_gru(limit=12), draw(3, 30, 4)
    result = run_task(Asking(Likelihood(context, continuation), *likelihoods()), model, a_context())
    assert result.details["cut_requests"] == 1
    (answer,) = asked(model, Likelihood(context, continuation))
    assert _nats(answer) == pytest.approx(dumb_likelihood(model, Likelihood(context[-9:], continuation))[0], abs=1e-5)


def test_a_prompt_that_is_too_long_loses_its_beginning(make_gru):
    model, (prompt,) = make_gru(limit=12), draw(4, 30)
    (answer,) = asked(model, Generate(prompt, 5))
    assert isinstance(answer, GenerateAnswer)
    assert answer.text == dumb_generation(model, Generate(prompt[-7:], 5))


def everything() -> list[Any]:
    streams = [Rolling(np.array(each), 7, stride) for each, stride in zip(draw(5, 60, 8), (3, None), strict=True)]
    return [*likelihoods(), *streams, *(Generate(prompt, 3, ("a",)) for prompt in draw(6, 2, 4, 4))]


def test_kept_answers_are_not_computed_again(make_gru, tmp_path):
    model, store = make_gru(), tmp_path / "answers.jsonl"
    first = asked(model, *everything(), answers=AnswerStore("w", store))
    model.widths.clear()
    again = asked(model, *everything(), answers=AnswerStore("w", store))
    assert model.widths == []
    assert list(map(repr, again)) == list(map(repr, first))


def test_one_question_twice_is_computed_once(make_gru):
    model, request = make_gru(), likelihoods()[0]
    asked(model, request, request, batch_size=1)
    assert len(model.widths) == 1


def test_answers_of_other_weights_are_not_taken(make_gru, tmp_path):
    model, other = make_gru(), make_gru()
    with torch.no_grad():
        other.head.bias[3] += 1
    folder = tmp_path / "answers"
    asked(model, *everything(), answers=AnswerStore.in_folder(folder, "one"))
    mine = asked(other, *everything(), answers=AnswerStore.in_folder(folder, "two"))
    assert list(map(repr, mine)) == list(map(repr, asked(other, *everything())))
    assert len(list(folder.iterdir())) == 2


def test_killed_anywhere_and_begun_again_has_the_same_bits(make_gru, tmp_path):
    """A killed process leaves a beginning of the file, cut at any byte."""
    model, store = make_gru(), tmp_path / "answers.jsonl"
    unbroken = list(map(repr, asked(model, *everything(), answers=AnswerStore("w", store))))
    whole = store.read_bytes()
    ends = [position for position, byte in enumerate(whole, 1) if byte == ord("\n")]
    places = {0, 1, len(whole) - 1, *ends, *(end + 7 for end in ends[:-1]), *range(0, len(whole), 997)}
    for place in sorted(places):
        store.write_bytes(whole[:place])
        model.widths.clear()
        assert list(map(repr, asked(model, *everything(), answers=AnswerStore("w", store)))) == unbroken
        assert store.read_bytes() == whole
        assert (model.widths == []) == (place == len(whole))


def test_a_damaged_line_costs_what_follows_it_and_nothing_more(make_gru, tmp_path):
    model, store = make_gru(), tmp_path / "answers.jsonl"
    unbroken = list(map(repr, asked(model, *everything(), answers=AnswerStore("w", store))))
    lines = store.read_bytes().splitlines(keepends=True)
    for damage in (b"{\n", b'{"a": [1]}\n', b'{"a": {"<f4": "?"}}\n', b"[1]\n", b"\xff\n"):
        store.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
        assert list(map(repr, asked(model, *everything(), answers=AnswerStore("w", store)))) == unbroken
        assert store.read_bytes() == b"".join(lines)


def test_answers_that_cannot_be_kept_are_a_problem(make_gru, tmp_path):
    (tmp_path / "answers").write_text("a file, where a folder is needed")
    with pytest.raises(ProblemError, match="cannot be stored"):
        asked(make_gru(), *likelihoods(), answers=AnswerStore.in_folder(tmp_path / "answers", "w"))
    with pytest.raises(ProblemError, match="cannot be read"):
        AnswerStore("w", tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_dropout_is_off(make_gru, training):
    model = make_gru().train(training)
    assert list(map(repr, asked(model, *everything()))) == list(map(repr, asked(model, *everything())))
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_limit_leaves_items_out_and_every_metric_says_so(make_gru):
    task, model = Asking(*likelihoods(count=5)), make_gru()
    part = run_task(task, model, a_context(limit=3))
    first = run_task(Asking(*likelihoods(count=5)[:3]), model, a_context())
    assert part.metrics == {"asking.nats@mean-first-3": first.metrics["asking.nats@mean"]}
    assert part.intervals.keys() == part.metrics.keys()
    assert part.details["items"] == 3
    assert run_task(task, model, a_context(limit=5)).metrics.keys() == {"asking.nats@mean"}


class Grouped(Asking):
    """Asks each request for the group that stands before it."""

    def items(self, context: TaskContext) -> Iterator[Item]:
        yield from (Item(str(number), request, group=group) for number, (group, request) in enumerate(self.asked))


def test_each_group_has_the_metrics_that_it_has_alone(make_gru):
    model, requests = make_gru(), likelihoods(count=9)
    groups = ["law", "art", "law", "", "art", "art", "law", "", "law"]
    found = run_task(Grouped(*zip(groups, requests, strict=True)), model, a_context()).groups
    assert list(found) == ["law", "art", ""]
    for group, metrics in found.items():
        alone = [request for name, request in zip(groups, requests, strict=True) if name == group]
        assert metrics == pytest.approx(run_task(Asking(*alone), model, a_context()).metrics)
    assert run_task(Grouped(*(("law", each) for each in requests)), model, a_context()).groups == {}


class Doubting(Asking):
    """Asks how likely the model finds what it has just written."""

    def follow_ups(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Any]:
        (answer,) = answers
        assert isinstance(answer, GenerateAnswer)
        return [Likelihood(item.document.prompt, answer.tokens)] if answer.tokens else []


def test_a_task_may_ask_about_the_answers(make_gru):
    model, store, prompts = make_gru(), AnswerStore(), draw(1, 3, 5, 3)
    prepared = prepare(Doubting(*(Generate(prompt, 4) for prompt in prompts)), a_context())
    prepared.run(model, store)
    for each, prompt in zip(prepared.answered(store), prompts, strict=True):
        written, likelihood = each.answers
        assert isinstance(written, GenerateAnswer)
        assert isinstance(likelihood, LikelihoodAnswer)
        assert likelihood.likeliest
        assert likelihood.nll == pytest.approx(dumb_likelihood(model, Likelihood(prompt, written.tokens))[0], abs=1e-5)
        assert each.requests[1] == Likelihood(prompt, written.tokens)
    model.widths.clear()
    prepared.run(model, store)
    assert model.widths == []


def test_stored_answers_show_every_question_with_what_it_is_worth(make_gru):
    requests, store = everything(), AnswerStore()
    prepared = prepare(Asking(*requests), a_context())
    prepared.run(make_gru(), store)
    shown = list(prepared.answered(store))
    assert [each.item.id for each in shown] == [str(number) for number in range(len(requests))]
    assert [list(map(repr, each.requests)) for each in shown] == [[repr(request)] for request in requests]
    answers = [answer for each in shown for answer in each.answers]
    assert list(map(repr, answers)) == list(map(repr, asked(make_gru(), *requests)))
    assert [each.samples for each in shown] == [[{"nll": _nats(answer)}] for answer in answers]


def test_progress_begins_with_what_is_kept_and_ends_with_all(make_gru):
    answers, seen = AnswerStore(), []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    asked(make_gru(), *likelihoods(count=20), answers=answers)
    asked(
        make_gru(),
        *likelihoods(count=50),
        answers=answers,
        progress=progress,
        batch_size=8,
    )
    assert seen[0] == (20, 50)
    assert seen[-1] == (50, 50)
    assert all(before[0] < after[0] for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Likelihood([], [1]), "is empty"),
        (Likelihood([1], []), "is empty"),
        (Likelihood([1], [2] * 13), "a continuation of 13 tokens"),
        (Rolling(np.array([1]), 4), "shape"),
        (Rolling(np.zeros((2, 2), dtype=int), 4), "shape"),
        (Rolling(np.arange(9), 4, 5), "stride of 5"),
        (Rolling(np.arange(9), 4, 0), "stride of 0"),
        (Rolling(np.arange(9), 13), "windows of 13"),
        (Generate([], 4), "prompt is empty"),
        (Generate([1], 0), "0 new tokens"),
        (Generate([1], 12), "12 new tokens"),
    ],
)
def test_what_no_model_can_answer_is_a_problem_before_there_is_a_model(request_, message):
    with pytest.raises(ProblemError, match=message) as caught:
        prepare(Asking(*likelihoods(count=2), request_), a_context())
    assert caught.value.problems[0].where == "item '2'"


def test_a_task_without_items_is_a_problem():
    with pytest.raises(ProblemError, match="has no items"):
        prepare(Asking(), a_context())


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_a_token_that_the_model_does_not_know_is_a_problem(make_gru, token):
    with pytest.raises(ProblemError, match=f"token {token} is outside the model's vocabulary of 11"):
        asked(make_gru(), Likelihood([1, token], [2]))
