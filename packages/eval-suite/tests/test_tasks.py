"""Tasks end to end with a byte tokenizer, for which the figures can be computed by hand."""

import gzip
import hashlib
import lzma
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.eval_suite.baselines import bigram_bits_per_byte, xz_bits_per_byte
from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.metrics import (
    bits_per_byte,
    bits_per_byte_standard_error,
    token_perplexity,
    word_perplexity,
)
from penstock.eval_suite.runner import prepare, run_task
from penstock.eval_suite.tasks import Heldout
from penstock.eval_suite.wikitext import WikiText2, join_hub_rows
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import Task, TaskContext, TaskResult

TEXT = " \n = Title = \n \n Some words , and more .\n"
UNIFORM_BITS = math.log2(257)
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
OTHER = f"raw-{SHA256[:8]}"


def run(task: Task, model: Any, tokenizer: Any, **context: Any) -> TaskResult:
    return run_task(task, model, TaskContext(tokenizer, **context))


@pytest.fixture
def text_file(tmp_path) -> Path:
    path = tmp_path / "wiki.test.raw"
    path.write_bytes(TEXT.encode())
    return path


def test_a_uniform_model_needs_the_same_bits_for_every_byte(uniform_model, tokenizer):
    heldout = np.array(tokenizer.encode("some text, some more"))
    result = run(Heldout(), uniform_model, tokenizer, heldout=heldout, sequence_length=8)
    assert result.metrics == {
        "heldout.bits_per_byte@disjoint-8": pytest.approx(UNIFORM_BITS),
        "heldout.token_perplexity@disjoint-8": pytest.approx(257),
    }
    assert (result.details["tokens"], result.details["bytes"]) == (19, 19)
    assert result.details["standard_error"] == pytest.approx(0.0, abs=1e-6)


def test_end_of_text_costs_bits_and_has_no_bytes(uniform_model, tokenizer):
    heldout = np.array([*tokenizer.encode("abcd"), 0, *tokenizer.encode("efgh")])
    result = run(Heldout(), uniform_model, tokenizer, heldout=heldout, sequence_length=8)
    assert result.metrics["heldout.bits_per_byte@disjoint-8"] == pytest.approx(UNIFORM_BITS * 8 / 7)
    assert result.details["standard_error_blocks"] == "documents"


def test_the_name_says_what_was_left_out(uniform_model, tokenizer, text_file):
    heldout = np.array(tokenizer.encode("some text, some more"))
    short = run(Heldout(max_tokens=10, stride=2), uniform_model, tokenizer, heldout=heldout, sequence_length=4)
    assert "heldout.bits_per_byte@first-10-tokens-sliding-4-stride-2" in short.metrics
    assert short.details["tokens"] == 9
    task = WikiText2(text_file, max_bytes=20, sha256=SHA256)
    result = run(task, uniform_model, tokenizer, heldout=None, sequence_length=8)
    assert f"wikitext2.bits_per_byte@{OTHER}-first-16-bytes-disjoint-8" in result.metrics
    assert result.details["bytes"] == 15


def test_wikitext_figures_of_a_uniform_model_by_hand(uniform_model, tokenizer, text_file):
    result = run(WikiText2(text_file, sha256=SHA256), uniform_model, tokenizer, heldout=None, sequence_length=8)
    scored = len(TEXT) - 1  # the first byte is context
    assert result.metrics == {
        f"wikitext2.bits_per_byte@{OTHER}-disjoint-8": pytest.approx(UNIFORM_BITS),
        f"wikitext2.word_perplexity@{OTHER}-disjoint-8": pytest.approx(257 ** (scored / 11)),
        f"wikitext2.token_perplexity@{OTHER}-disjoint-8": pytest.approx(257),
    }
    assert result.details["words"] == 11


def test_tasks_score_as_token_nll_does(make_gru, tokenizer, text_file):
    model = make_gru(257)
    result = run(WikiText2(text_file, stride=3, sha256=SHA256), model, tokenizer, heldout=None, sequence_length=8)
    nll = token_nll(model, np.array(tokenizer.encode(TEXT)), sequence_length=8, stride=3)
    figure = result.metrics[f"wikitext2.bits_per_byte@{OTHER}-sliding-8-stride-3"]
    assert figure == pytest.approx(nll.sum() / math.log(2) / (len(TEXT) - 1))


def test_figures_are_those_of_the_whole_stream_at_once(make_gru, tokenizer, text_file):
    """As they were found before there was a runner, to the last digits of a float."""
    model, documents = make_gru(257), ["abc", "some longer text", "x y z"] * 30
    heldout = np.array([token for document in documents for token in [*tokenizer.encode(document), 0]])
    found = run(Heldout(), model, tokenizer, heldout=heldout, sequence_length=16)
    nll = token_nll(model, heldout, sequence_length=16)
    byte_N = tokenizer.byte_lengths()[heldout[1:]]
    block = np.cumsum(heldout[1:] == 0) - (heldout[1:] == 0)
    expected = [bits_per_byte(nll, int(byte_N.sum())), token_perplexity(nll)]
    assert list(found.metrics.values()) == pytest.approx(expected, rel=1e-14)
    expected_error = bits_per_byte_standard_error(nll, byte_N, block)
    assert found.details["standard_error"] == pytest.approx(expected_error, rel=1e-12)
    found = run(WikiText2(text_file, sha256=SHA256), model, tokenizer, heldout=None, sequence_length=16)
    nll = token_nll(model, np.array(tokenizer.encode(TEXT)), sequence_length=16)
    expected = [bits_per_byte(nll, len(nll)), word_perplexity(nll, 11), token_perplexity(nll)]
    assert list(found.metrics.values()) == pytest.approx(expected, rel=1e-14)


def test_the_standard_error_takes_documents_as_samples(make_gru, tokenizer):
    model, documents = make_gru(257), ["abc", "some longer text", "x y z"]
    heldout = np.array([token for document in documents for token in [*tokenizer.encode(document), 0]])
    details = run(Heldout(), model, tokenizer, heldout=heldout, sequence_length=8).details
    nll = token_nll(model, heldout, sequence_length=8)
    block = np.repeat([0, 1, 2], [len(document) + 1 for document in documents])[1:]
    expected = bits_per_byte_standard_error(nll, (heldout[1:] > 0).astype(int), block)
    assert details["standard_error_blocks"] == "documents"
    assert details["standard_error"] == pytest.approx(expected)


def test_a_limit_of_items_is_refused_by_tasks_of_one_text(tokenizer, text_file):
    limited = TaskContext(tokenizer, sequence_length=8, heldout=np.arange(9), limit=3)
    for task, setting in ((Heldout(), "max_tokens"), (WikiText2(text_file, sha256=SHA256), "max_bytes")):
        with pytest.raises(ProblemError, match=f"no items to limit.*'{setting}'"):
            prepare(task, limited)


@pytest.mark.parametrize("heldout", [None, np.array([1])])
def test_no_heldout_tokens_is_a_problem(uniform_model, tokenizer, heldout):
    with pytest.raises(ProblemError, match="no held-out tokens"):
        run(Heldout(), uniform_model, tokenizer, heldout=heldout, sequence_length=8)


def test_a_stride_longer_than_the_windows_is_a_problem(uniform_model, tokenizer):
    with pytest.raises(ProblemError, match="stride of 9"):
        run(Heldout(stride=9), uniform_model, tokenizer, heldout=np.arange(20), sequence_length=8)


def test_a_tokenizer_that_loses_bytes_is_a_problem(uniform_model, tokenizer, text_file):
    tokenizer.encode = lambda text: [byte + 1 for byte in text.encode() if byte != 32]
    with pytest.raises(ProblemError, match="byte-level"):
        run(WikiText2(text_file, sha256=SHA256), uniform_model, tokenizer, heldout=None, sequence_length=8)


def test_compressed_text_is_read_where_its_name_says_so(uniform_model, tokenizer, text_file, tmp_path):
    expected = run(
        WikiText2(text_file, sha256=SHA256), uniform_model, tokenizer, heldout=None, sequence_length=8
    ).metrics
    for suffix, compress in ((".xz", lzma.compress), (".gz", gzip.compress)):
        path = tmp_path / f"text{suffix}"
        path.write_bytes(compress(TEXT.encode()))
        assert (
            run(WikiText2(path, sha256=SHA256), uniform_model, tokenizer, heldout=None, sequence_length=8).metrics
            == expected
        )


def test_missing_damaged_and_misnamed_files_are_problems(tokenizer, tmp_path):
    misnamed, damaged = tmp_path / "wiki.test.raw", tmp_path / "wiki.test.raw.xz"
    misnamed.write_bytes(lzma.compress(TEXT.encode()))
    damaged.write_bytes(lzma.compress(TEXT.encode())[:-9])
    cases = {
        tmp_path / "absent": "file not found",
        misnamed: "a compressed file must end in .xz",
        damaged: "compressed file is damaged",
    }
    for path, message in cases.items():
        with pytest.raises(ProblemError, match=message):
            prepare(WikiText2(path), TaskContext(tokenizer, None, 8))


@pytest.mark.parametrize("changed", [f"{TEXT} ", TEXT[:-1], TEXT.replace("\n", "\r\n")])
def test_wikitext_refuses_another_text_even_if_it_would_be_cut(tokenizer, tmp_path, changed):
    path = tmp_path / "wiki.test.raw"
    path.write_bytes(changed.encode())
    for task in (WikiText2(path), WikiText2(path, max_bytes=4, sha256=SHA256)):
        with pytest.raises(ProblemError, match="not the test split of WikiText-2") as caught:
            prepare(task, TaskContext(tokenizer, None, 8))
        assert caught.value.problems[0].where == str(path)


def test_an_unreachable_hub_says_to_give_a_path(uniform_model, tokenizer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ProblemError) as caught:
        run(WikiText2(), uniform_model, tokenizer, heldout=None, sequence_length=8)
    [problem] = caught.value.problems
    assert (problem.code, problem.fix) == ("hub-unreachable", "set `path` to a local wiki.test.raw")


def test_components_build_by_name(uniform_model, tokenizer, text_file):
    registry = Registry.discover()
    task = registry.build("task", {"use": "wikitext2", "path": str(text_file), "max_bytes": 1000, "sha256": SHA256})
    assert run(task, uniform_model, tokenizer, heldout=None, sequence_length=8).details["bytes"] == len(TEXT) - 1
    assert isinstance(registry.build("task", "heldout"), Heldout)


def wikitext2_raw() -> str:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no WikiText-2 here")
    path = Path(os.environ["PENSTOCK_DATA"]) / "wikitext2" / "wiki.test.raw.xz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return lzma.decompress(path.read_bytes()).decode()


def test_the_hubs_rows_make_the_raw_file_byte_for_byte():
    text = wikitext2_raw()
    rows = [line + "\n" if line.strip() else "" for line in text.split("\n")[:-1]]  # as the hub's builder writes them
    assert len(rows) == 4358
    assert join_hub_rows(rows) == text


def test_wikitext2_itself(make_gru, tokenizer, tmp_path):
    text = wikitext2_raw()
    path = tmp_path / "wiki.test.raw"
    path.write_bytes(text.encode())
    task = WikiText2(path, max_bytes=30_000)
    result = run(task, make_gru(257), tokenizer, heldout=None, sequence_length=256)
    [bits] = [value for name, value in result.metrics.items() if "bits_per_byte" in name]
    assert bits == pytest.approx(UNIFORM_BITS, rel=0.05)  # untrained
    assert all("@raw-first-" in name for name in result.metrics)  # it is the published text
    assert 29_000 < result.details["bytes"] < 30_000
    assert 0 < result.details["standard_error"] < 0.1


def test_baselines_on_wikitext2_are_where_they_are_known_to_be(tokenizer):
    """Byte bigrams of English need 3.3 to 3.6 bits (Shannon 1951: 3.3 for letters); xz -9 on a megabyte about 2.2."""
    data = wikitext2_raw().encode()
    tokens = np.frombuffer(data, dtype=np.uint8).astype(np.int64) + 1
    cut = len(tokens) // 2
    assert 3.2 < bigram_bits_per_byte(tokens[:cut], tokens[cut:], 257, tokenizer.byte_lengths()) < 3.7
    assert 2.0 < xz_bits_per_byte(data) < 2.5
