"""`tests/benchmarks/serving.py` and its like on a tiny model: what they send, how they time it, and what they find."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tokenizers
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parent / "benchmarks"
STORED = BENCHMARKS / "results" / "serving.json"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def trace(_importable: None) -> ModuleType:
    return importlib.import_module("serving_trace")


@pytest.fixture(scope="module")
def load(_importable: None) -> ModuleType:
    return importlib.import_module("serving_load")


@pytest.fixture(scope="module")
def serving(_importable: None) -> ModuleType:
    return importlib.import_module("serving")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def words(trace: ModuleType) -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    named = [" ".join(random.Random(0).choices(["mill", "wheel", "river", "weir", "turns"], k=200))]
    made.train_from_iterator(named, trainer)
    return made, trace.Words(made)


def result_of(script: str, *options: str) -> dict[str, Any]:
    """What a script prints, whether its bars are met or not."""
    done = CliRunner().invoke(importlib.import_module(script).main, [*options, "--json"])
    assert done.exit_code in (0, 1), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return json.loads(done.stdout[done.stdout.index('{\n  "benchmark"') :])


def missed(result: dict[str, Any], *names: str) -> list[str]:
    return [bar["name"] for bar in result["bars"] if not bar["met"] and any(each in bar["name"] for each in names)]


def test_the_trace_is_that_of_its_seed(trace):
    assert trace.FILE.read_text() == "".join(f"{each.line()}\n" for each in trace.drawn())
    requests = trace.trace()
    assert [each.at for each in requests] == sorted(each.at for each in requests)
    assert 0.5 * trace.SECONDS < requests[-1].at < 2 * trace.SECONDS
    assert len({each.line() for each in trace.drawn(seed=1)} & {each.line() for each in requests}) == 0


def test_prompts_have_their_lengths_and_share_what_blocks_share(trace, words):
    tokenizer, made = words
    for each in trace.trace():
        assert len(tokenizer.encode(made.prompt(each, "a")).ids) == each.prompt
    one, other = trace.Arrival(0.0, 40, 8, (0, 1, 7)), trace.Arrival(0.0, 30, 8, (0, 8))
    first, second = made.prompt(one, "a").split(), made.prompt(other, "a").split()
    assert first[:16] == second[:16]
    assert first[16:30] != second[16:30]
    assert made.prompt(one, "a") == made.prompt(one, "a") != made.prompt(one, "b")


def answer(load: ModuleType, tokens: int, times: list[float]) -> Any:
    lines = [json.dumps({"choices": [{"text": "a"}]}).encode()] * (len(times) - 1)
    return load.Answer(200, [*lines, json.dumps({"usage": {"completion_tokens": tokens}}).encode()], times)


def test_first_tokens_are_timed_from_the_arrival_and_tokens_count_within_the_window(trace, load):
    told = [
        (trace.Request("a", 4, 1.0), answer(load, 4, [11.5, 11.6, 11.7, 11.8])),
        (trace.Request("b", 4, 1.0), answer(load, 4, [11.9, 12.1, 12.2, 12.3])),  # it waited for a stream
    ]
    found = load.figures(told, begun=10.0, seconds=2.0)
    assert found.first == pytest.approx([0.5, 0.9])
    assert found.later == pytest.approx([0.1, 0.4 / 3])
    assert found.rate == pytest.approx((4 + 1) / 2.0)
    assert load.figures(told, begun=10.0).rate == pytest.approx(8 / 2.3)


@pytest.mark.parametrize("tokens", [3, 5])
def test_another_number_of_tokens_than_asked_for_is_no_answer(trace, load, tokens: int):
    with pytest.raises(ValueError, match="asked for 4 tokens"):
        load.figures([(trace.Request("a", 4), answer(load, tokens, [1.0, 2.0]))], begun=0.0)


def test_errors_are_found_in_answers_and_events(load):
    said = b'{"error": {"message": "the engine died"}}'
    assert "engine died" in load.Answer(503, body=said).error
    assert "engine died" in load.Answer(200, [b'{"choices": []}', said], [1.0, 2.0]).error
    assert load.Answer(200, [b'{"choices": []}', load.DONE], [1.0, 2.0]).error is None
    assert load.Answer().error is None


def test_a_tiny_model_is_served_at_every_load_and_continues_texts_as_it_was_trained(
    serving, trace, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = tmp_path / "trace.jsonl"
    short.write_text("".join(f"{trace.Arrival(0.02 * number, 24, 16, (0, number)).line()}\n" for number in range(1, 9)))
    monkeypatch.setattr(trace, "FILE", short)
    sizes = ("--model", "tiny", "--no-peers", "--rounds", "1", "--seconds", "0.2", "--runs", str(runs))
    result = result_of("serving", *sizes)
    rows = {(row["program"], row["streams"]): row for row in result["rows"]}
    programs = (serving.OURS, serving.HAND_WRITTEN)
    assert rows.keys() == {(each, load) for each in programs for load in (1, 8, 32)} | {(serving.OURS, "trace")}
    assert all(row["tokens/s"] > 0 for row in rows.values())
    assert 0 < rows[serving.OURS, "trace"]["first ms"] <= rows[serving.OURS, "trace"]["first ms, p99"]
    equal = {row["engine"]: row["equal tokens"] / row["of"] for row in result["parity"]}
    assert equal.keys() == {serving.OURS, serving.HAND_WRITTEN, "transformers, in process"}
    assert not missed(result, "differ by more than rounding"), result["parity"]
    assert "| tiny | penstock |" in serving.figures_of(result)


def test_a_text_that_leaves_at_a_tie_is_told_with_its_margin():
    parity = importlib.import_module("serving_parity")
    reference = parity.Reference("p", [1], [5, 6, 7], ["a", "ab", "abc"], [-1.0, -1.0, -1.0], [0.5, 1e-6, 0.5])
    near, far = parity.Greedy("aXY", [-1.00001, -3.0]), parity.Greedy("ab!", [-1.00001, -1.0, -2.0])
    equal = parity.Greedy("abc\N{REPLACEMENT CHARACTER}")
    found = parity.compared("one", [reference] * 3, [equal, near, far], 0.0)
    assert (found["equal tokens"], found["of"]) == (3 + 1 + 2, 9)
    assert found["log-probabilities differ by"] == pytest.approx(1e-5)
    assert (found["ties"], found["differ"], found["margin of the widest"]) == (1, 1, 0.5)


def test_figures_of_the_page_are_those_that_are_stored(serving):
    page = serving.PAGE.read_text()
    assert serving.BEGIN in page
    assert serving.END in page
    if STORED.exists():
        assert serving.page_of(json.loads(STORED.read_text()), page) == page, "tests/benchmarks/serving.py renews it"
    else:
        assert "Not measured yet." in page


def test_nothing_is_lost_while_clients_misbehave_and_the_engine_is_killed(runs: Path):
    result = result_of("serving_soak", "--model", "tiny", "--minutes", "0.08", "--runs", str(runs))
    assert not missed(result, ""), result
    clients = {row["client"]: row for row in result["rows"]}
    assert clients["stream"]["whole answers"] > 0
    assert result["kills"] >= 1
    refused = ("malformed", "too long", "wrong key", "no key")
    assert all(clients[each]["errors"] == clients[each]["sent"] for each in refused if each in clients)
