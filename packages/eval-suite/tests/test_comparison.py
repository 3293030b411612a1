"""A model and its compressed form, token by token, against logits of a whole document at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from penstock.eval_suite import comparison
from penstock.eval_suite.comparison import Compared, compare, differences, is_text, require_bytes, samples_of
from penstock.eval_suite.lambada import Lambada
from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.runner import Prepared, prepare
from penstock.eval_suite.tasks import Heldout
from penstock.eval_suite.text import Text
from penstock.hooks.contracts import TaskContext
from penstock.hooks.problems import ProblemError

STREAM = np.array([0, *[1 + n * n % 255 for n in range(23)], 0, *[7, 3] * 30, 0, 9, 9, 0, *range(1, 50), 0])


@pytest.fixture
def pair(make_gru) -> tuple[Any, Any]:
    """A model, and one whose weights are somewhat other ones, in training mode."""
    baseline, compressed = make_gru(257, width=16), make_gru(257, width=16)
    with torch.no_grad():
        for parameter in compressed.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return baseline, compressed


def heldout(tokenizer, stream: np.ndarray = STREAM, **settings: Any) -> Prepared:
    return prepare(Heldout(**settings), TaskContext(tokenizer, stream, 16))


def by_hand(pair: tuple[Any, Any], prepared: Prepared) -> dict[str, list[float]]:
    """The columns of a stream by documents, from all logits of a window of 16 tokens."""
    stream, columns = prepared.asked[0].item.document, {"kl": [], "same": []}
    for start in range(0, len(stream.token_N) - 1, 16):
        token_BS = torch.from_numpy(stream.token_N[start : min(start + 16, len(stream.token_N) - 1)])[None]
        with torch.no_grad():
            logits = [model.logits(model(token_BS).hidden_BSD)[0].double() for model in pair]
        p, q = (torch.softmax(each, -1) for each in logits)
        columns["kl"] += (p * (p / q).log()).sum(-1).tolist()
        columns["same"] += (logits[0].argmax(-1) == logits[1].argmax(-1)).double().tolist()
    document_N = np.cumsum(stream.token_N[1:] == 0) - (stream.token_N[1:] == 0)
    return {name: np.bincount(document_N, weights=values).tolist() for name, values in columns.items()}


def test_sums_of_documents_are_those_of_whole_logits(pair: tuple[Any, Any], tokenizer, monkeypatch):
    prepared = heldout(tokenizer)
    for model in pair:
        model.eval()
    monkeypatch.setattr(comparison, "LOGITS_HELD", 5 * 257)  # five positions at a time
    found = compare(*pair, prepared, batch_size=3)
    assert found.documents
    for name, expected in by_hand(pair, prepared).items():
        np.testing.assert_allclose(found.scores[name], expected, rtol=1e-4, atol=1e-6)
    nll_N = [token_nll(model, STREAM, sequence_length=16) for model in pair]
    for name, each_N in zip(("baseline_nll", "compressed_nll"), nll_N, strict=True):
        np.testing.assert_allclose(found.scores[name].sum(), each_N.sum(), rtol=1e-6)
    assert found.scores["tokens"].tolist() == [24, 61, 3, 50]
    assert found.scores["bytes"].tolist() == [23, 60, 2, 49]


def test_no_more_logits_are_held_than_is_said(pair: tuple[Any, Any], tokenizer, monkeypatch):
    """Memory does not grow with the text or the batch."""
    held: list[int] = []
    for model in pair:
        plain = model.logits
        monkeypatch.setattr(model, "logits", lambda hidden, plain=plain: held.append(len(hidden)) or plain(hidden))
    monkeypatch.setattr(comparison, "LOGITS_HELD", 8 * 257)
    compare(*pair, heldout(tokenizer, np.tile(STREAM, 5)), batch_size=16)
    assert max(held) == 8


def test_a_model_compared_with_itself_differs_by_exactly_0(pair: tuple[Any, Any], tokenizer):
    found = compare(pair[0], pair[0], heldout(tokenizer))
    assert not found.scores["kl"].any()
    assert np.array_equal(found.scores["same"], found.scores["tokens"])
    for figure in differences(found.scores).values():
        assert figure.difference == 0
        assert figure.interval is not None
        assert (figure.interval.low, figure.interval.high) == (0, 0)


def test_sliding_windows_count_every_token_once(pair: tuple[Any, Any], tokenizer):
    found = compare(*pair, heldout(tokenizer, stride=5))
    expected = token_nll(pair[1], STREAM, sequence_length=16, stride=5)
    assert found.scores["tokens"].sum() == len(STREAM) - 1
    np.testing.assert_allclose(found.scores["compressed_nll"].sum(), expected.sum(), rtol=1e-6)


def test_files_are_documents_and_a_single_one_is_its_windows(pair: tuple[Any, Any], tokenizer, tmp_path):
    for name, text in (("a.txt", "the gate opens " * 4), ("b.txt", "shut")):
        (tmp_path / name).write_text(text)
    several = prepare(Text([tmp_path]), TaskContext(tokenizer, None, 16))
    found = compare(*pair, several)
    assert (found.documents, found.scores["bytes"].tolist()) == (True, [60, 4])
    assert [each.name for each in samples_of(several)] == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    single = prepare(Text([tmp_path / "a.txt"]), TaskContext(tokenizer, None, 16))
    found = compare(*pair, single)
    assert (found.documents, found.scores["bytes"].tolist()) == (False, [16, 16, 16, 12])
    assert [each.name for each in samples_of(single)] == ["window 1", "window 2", "window 3", "window 4"]


def test_samples_are_the_tokens_of_their_scores(pair: tuple[Any, Any], tokenizer):
    prepared = heldout(tokenizer)
    samples, found = samples_of(prepared), compare(*pair, prepared)
    assert [len(each.token_N) for each in samples] == found.scores["tokens"].tolist()
    assert samples[2].token_N.tolist() == [9, 9, 0]
    assert samples[2].name == "document 3"


def test_figures_are_means_over_tokens_and_bytes():
    column = {"tokens": [10.0, 30.0], "bytes": [40.0, 40.0], "baseline_nll": [20.0, 40.0]}
    column |= {"compressed_nll": [24.0, 40.0], "baseline_correct": [5.0, 15.0], "compressed_correct": [4.0, 15.0]}
    scores = {name: np.array(values) for name, values in column.items()}
    figures = differences(Compared(scores, True).scores)
    assert (figures["loss"].baseline, figures["loss"].difference) == pytest.approx((1.5, 0.1))
    assert figures["bits_per_byte"].difference == pytest.approx(4 / math.log(2) / 80)
    assert figures["top1_accuracy"].difference == pytest.approx(-1 / 40)


def test_progress_counts_predictions_to_the_end(pair: tuple[Any, Any], tokenizer):
    seen: list[tuple[int, int]] = []
    compare(*pair, heldout(tokenizer), batch_size=2, progress=lambda *at: seen.append(at))
    assert seen[0] == (32, len(STREAM) - 1)
    assert seen[-1] == (len(STREAM) - 1, len(STREAM) - 1)
    assert pair[0].training  # as it was


def test_tasks_of_questions_are_no_texts_and_empty_texts_are_refused(tokenizer, tmp_path):
    (tmp_path / "lambada.jsonl").write_text('{"text": "the gate of the mill"}\n')
    questions = prepare(Lambada(tmp_path / "lambada.jsonl"), TaskContext(tokenizer, None, 16))
    assert not is_text(questions)
    assert is_text(heldout(tokenizer))
    with pytest.raises(ProblemError, match="the text has no bytes"):
        require_bytes(heldout(tokenizer, np.zeros(9, np.int64)), "heldout")
    require_bytes(heldout(tokenizer), "heldout")


def test_models_of_unlike_vocabularies_and_infinite_logits_are_refused(pair: tuple[Any, Any], make_gru, tokenizer):
    with pytest.raises(ProblemError, match="the baseline predicts 257 tokens, and the compressed model 260"):
        compare(pair[0], make_gru(260), heldout(tokenizer))
    with torch.no_grad():
        pair[1].head.bias[3] = float("inf")
    with pytest.raises(ProblemError, match="the compressed model computes logits that are NaN or infinite") as caught:
        compare(*pair, heldout(tokenizer))
    assert caught.value.exit_code == 1
