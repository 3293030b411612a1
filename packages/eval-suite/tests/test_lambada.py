"""LAMBADA by hand, and its data: local files in the hub's layout."""

import gzip
import json
import lzma
import math
import os
from pathlib import Path

import numpy as np
import pytest

from penstock.eval_suite.lambada import Lambada
from penstock.eval_suite.prompts import continuation
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import Item, Likelihood, LikelihoodAnswer, TaskContext

PASSAGES = ["the gate feeds a turbine", '"Water," she said,\n\nand meant the penstock', "a b"]


def context(tokenizer, **changes) -> TaskContext:
    return TaskContext(tokenizer, None, 64, **changes)


def write(path: Path, rows) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes({".xz": lzma.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(text))
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "lambada_test.jsonl", [{"text": text} for text in PASSAGES])


def test_the_last_word_is_asked_for_with_the_space_before_it(tokenizer, file):
    task = Lambada(file)
    items = list(task.items(context(tokenizer)))
    asked = [task.requests(item, context(tokenizer))[0] for item in items]
    assert [tokenizer.decode(request.continuation) for request in asked] == [" turbine", " penstock", " b"]
    assert [tokenizer.decode([*request.context, *request.continuation]) for request in asked] == PASSAGES
    assert [item.id for item in items] == ["0", "1", "2"]


def test_a_row_may_end_its_line(tokenizer, tmp_path):
    asked = {}
    for end in ("", "\n", "\r\n"):
        task = Lambada(write(tmp_path / "rows.jsonl", [{"text": f"{text}{end}"} for text in PASSAGES]))
        asked[end] = [task.requests(item, context(tokenizer)) for item in task.items(context(tokenizer))]
    assert asked[""] == asked["\n"] == asked["\r\n"]


def test_figures_of_a_uniform_model_by_hand(uniform_model, tokenizer, file):
    result = run_task(Lambada(file), uniform_model, context(tokenizer))
    mean_tokens = (len(" turbine") + len(" penstock") + len(" b")) / 3
    assert result.metrics == {
        "lambada.accuracy@openai-last-word-of-3-passages": 0.0,
        "lambada.perplexity@openai-last-word-of-3-passages": pytest.approx(257**mean_tokens, rel=1e-6),
    }
    assert result.intervals["lambada.perplexity@openai-last-word-of-3-passages"].samples == 3


def test_accuracy_is_the_share_of_first_choices_and_perplexity_is_by_word(tokenizer, file):
    task, given = Lambada(file), context(tokenizer)
    answers = [LikelihoodAnswer(math.log(4), True), LikelihoodAnswer(math.log(16), False)]
    item = Item("0", "", ("gate", 2))
    samples = [task.score(item, [answer], given)[0] for answer in answers]
    result = task.total({name: np.array([sample[name] for sample in samples]) for name in samples[0]}, given)
    assert list(result.metrics.values()) == [0.5, pytest.approx(8.0)]


@pytest.mark.parametrize("name", ["lambada_test.jsonl", "lambada_test.jsonl.xz", "lambada_test.jsonl.gz"])
def test_the_folder_of_data_has_it_plain_or_compressed(tokenizer, tmp_path, name):
    write(tmp_path / "lambada" / name, [{"text": text} for text in PASSAGES])
    assert len(list(Lambada().items(context(tokenizer, data=tmp_path)))) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a b"}, {"passage": "c d"}], "jsonl:2: unknown column 'text', the row has passage"),
        ([{"text": 7}], "jsonl:1: column 'text' is int"),
        ([{"text": "a\ud800 b"}], "jsonl:1: column 'text' has half of a surrogate pair at character 1"),
        ([{"text": "word"}], "jsonl:1: the passage does not end with a space and a word"),
        ([{"text": "a word "}], "jsonl:1: the passage does not end"),
        ([["a b"]], "jsonl: the file is a JSON array"),
        ([], "rows.jsonl: has no rows"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_before_there_is_a_model(tokenizer, tmp_path, rows, message):
    with pytest.raises(ProblemError, match=message):
        prepare(Lambada(write(tmp_path / "rows.jsonl", rows)), context(tokenizer))


def test_a_line_that_is_no_json_is_named(tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a b"}\n{"text": \n')
    with pytest.raises(ProblemError, match="jsonl:2: not valid JSON"):
        prepare(Lambada(tmp_path / "rows.jsonl"), context(tokenizer))


def test_missing_files_are_named(tokenizer, tmp_path):
    with pytest.raises(ProblemError, match="absent: file not found"):
        prepare(Lambada(tmp_path / "absent"), context(tokenizer))
    with pytest.raises(ProblemError, match=r"the folder has no lambada/lambada_test\.jsonl"):
        prepare(Lambada(), context(tokenizer, data=tmp_path))


def test_shots_are_refused(tokenizer, file):
    with pytest.raises(ProblemError, match=r"--shots 5: task .lambada. has no few-shot examples"):
        prepare(Lambada(file), context(tokenizer, shots=5))
    assert len(prepare(Lambada(file), context(tokenizer, shots=0)).asked) == 3


def test_an_unreachable_hub_says_to_give_a_path(tokenizer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ProblemError, match=r"set `path` to a local lambada_test\.jsonl"):
        prepare(Lambada(), context(tokenizer))


def test_spaces_at_the_end_of_a_context_go_to_the_continuation(tokenizer):
    request = continuation(tokenizer, "the gate \n", "opens")
    assert tokenizer.decode(request.context) == "the gate"
    assert tokenizer.decode(request.continuation) == " \nopens"


def test_an_empty_context_is_the_end_of_text(tokenizer):
    assert continuation(tokenizer, " ", "opens") == Likelihood([0], tokenizer.encode(" opens"))


def test_the_component_is_built_by_name(file):
    assert isinstance(Registry.discover().build("task", {"use": "lambada", "path": str(file)}), Lambada)


def test_lambada_itself_has_5153_passages(make_gru, tokenizer):
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no LAMBADA here")
    data = Path(os.environ["PENSTOCK_DATA"])
    if not (data / "lambada").is_dir():
        pytest.skip(f"{data / 'lambada'} is absent")
    assert sum(1 for _ in Lambada().items(context(tokenizer, data=data))) == 5153
    result = run_task(Lambada(), make_gru(257), TaskContext(tokenizer, None, 256, limit=30, data=data))
    assert result.metrics["lambada.accuracy@openai-last-word-first-30"] == 0.0  # untrained
    assert result.metrics["lambada.perplexity@openai-last-word-first-30"] > 1e6


@pytest.fixture
def joining(tokenizer):
    """Has a token for the whole of "abc", as some tokenizers have one for where a question ends and an answer begins,
    and puts a token of its own before every text."""

    class Joining(type(tokenizer)):
        begin_of_text = 1
        always_begins = True

        def encode(self, text):
            return [300] if text == "abc" else super().encode(text)

    return Joining()


def test_a_token_over_the_join_leaves_the_text_by_itself_and_texts_begin_with_their_token(joining):
    before = [1, *joining.encode("ab")]
    assert continuation(joining, "ab", "c") == Likelihood(before, joining.encode("c"))
    assert continuation(joining, "ab", "d") == Likelihood(before, joining.encode("d"))
    assert continuation(joining, "", "abc") == Likelihood([1], [300])
