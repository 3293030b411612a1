"""C4: documents by themselves, and the windows of GPTQ."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from penstock.eval_suite.c4 import C4, FILE
from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import TaskContext

TEXTS = ["The mill stood still.", " ", "Water rose\nall day."]


def write(path: Path, texts=TEXTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps({"text": text, "url": "", "timestamp": ""}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def context(tokenizer, **changes) -> TaskContext:
    return TaskContext(tokenizer, None, 16, **changes)


def test_documents_follow_the_end_of_text_each_by_itself(make_gru, tokenizer, tmp_path):
    model, path = make_gru(257), write(tmp_path / FILE)
    result = run_task(C4(path), model, context(tokenizer))
    nats = sum(
        token_nll(model, np.array([0, *tokenizer.encode(text)]), sequence_length=16).sum()
        for text in TEXTS
        if text.strip()
    )
    size = len("".join(TEXTS).encode()) - 1
    bits, perplexity = result.metrics
    assert bits.startswith("c4.bits_per_byte@")
    assert bits.endswith("-disjoint-16")
    assert perplexity.startswith("c4.token_perplexity@")
    assert result.metrics[bits] == pytest.approx(nats / math.log(2) / size)
    assert result.metrics[perplexity] == pytest.approx(math.exp(nats / size))


def test_gptq_joins_documents_by_spaces_and_leaves_a_short_window_out(tokenizer, tmp_path):
    (item,) = C4(write(tmp_path / FILE), "gptq", window=8).items(context(tokenizer))
    text = " ".join(text for text in TEXTS if text.strip())
    requests = item.document.requests()
    assert len(requests) == len(text) // 8
    assert tokenizer.decode([*requests[0].context, *requests[0].continuation]) == text[:8]
    assert len(requests[0].context) == 1


def test_gptq_reads_1100_documents_and_256_windows(uniform_model, tokenizer, tmp_path):
    path = write(tmp_path / FILE, ["ab"] * 1_200)
    (item,) = C4(path, "gptq", window=12).items(context(tokenizer))
    assert len(item.document.parts) == 256  # of 274, the 1,100 documents and the spaces between them
    (item,) = C4(path, "gptq", window=16).items(context(tokenizer))
    assert len(item.document.parts) == (1_100 * 3 - 1) // 16
    (name,) = run_task(C4(path, "gptq"), uniform_model, context(tokenizer)).metrics
    assert name.startswith("c4.token_perplexity@gptq-")
    assert name.endswith("-16")


def test_a_file_a_clone_and_the_folder_of_data_hold_the_same(tokenizer, tmp_path):
    file, clone = write(tmp_path / FILE), write(tmp_path / "clone" / "en" / FILE).parents[1]
    write(tmp_path / "data" / "c4" / FILE)
    write(tmp_path / "cloned" / "c4" / "en" / FILE)
    places = [(C4(each), None) for each in (file, file.parent, clone)]
    places += [(C4(), tmp_path / name) for name in ("data", "cloned")]
    found = [[item.gold for item in task.items(context(tokenizer, data=data))] for task, data in places]
    assert found == [found[0]] * 5
    assert len(found[0]) == 2


def test_what_is_wrong_is_said_before_there_is_a_model(tokenizer, tmp_path):
    path = write(tmp_path / FILE)
    with pytest.raises(ProblemError, match="windows of 17 tokens, but the model reads 16"):
        prepare(C4(path, window=17), context(tokenizer))
    with pytest.raises(ProblemError, match="no items to limit"):
        prepare(C4(path, "gptq"), context(tokenizer, limit=1))
    with pytest.raises(ProblemError, match=r"\.json\.gz: has no rows"):
        prepare(C4(write(path, [])), context(tokenizer))
    with pytest.raises(ProblemError, match=r"\.json\.gz:1: no document has text"):
        prepare(C4(write(path, [" ", ""])), context(tokenizer))
    (tmp_path / "absent").mkdir()
    with pytest.raises(ProblemError, match=r"absent: the folder has no c4-validation.*, nor en/"):
        prepare(C4(tmp_path / "absent"), context(tokenizer))
    assert len(prepare(C4(write(path)), context(tokenizer, limit=1)).asked) == 1


def test_the_component_is_built_by_name():
    assert isinstance(Registry.discover().build("task", {"use": "c4", "convention": "gptq"}), C4)
