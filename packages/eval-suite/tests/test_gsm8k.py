"""GSM8K: its prompts letter by letter, its two readings of an answer beside lm-evaluation-harness, its layouts."""

import json
import lzma
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.eval_suite.gsm8k import STOPS, Gsm8k, flexible_number, is_same_number, strict_number
from penstock.eval_suite.runner import Prepared, prepare, run_task
from penstock.eval_suite.tasks import Heldout
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import Generate, GenerateAnswer, TaskContext


def rows_of(split: str) -> list[dict[str, str]]:
    return [
        {
            "question": f"{split} {n}: {n} mills of 3 wheels?",
            "answer": f"3 * {n} = <<3*{n}={3 * n}>>{3 * n}\n#### {3 * n}",
        }
        for n in range(1, 8 if split == "train" else 4)
    ]


def as_lines(folder: Path, ending: str = "", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = changes.get(split, rows_of(split))
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{split}.jsonl{ending}").write_bytes(lzma.compress(text) if ending else text)
    return folder


def as_clone(folder: Path) -> Path:
    """As openai/gsm8k: Parquet files in the folder of the name, and a card that lists them."""
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    (folder / "main").mkdir(parents=True)
    for split in ("train", "test"):
        rows = datasets.Dataset.from_list(rows_of(split))
        rows.to_parquet(folder / "main" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - split: train\n    path: main/train-*\n  - split: test\n    path: main/test-*\n---\n"
    )
    return folder


def context(tokenizer: Any, length: int = 2048, **changes: Any) -> TaskContext:
    return TaskContext(**{"tokenizer": tokenizer, "heldout": None, "sequence_length": length, **changes})


def asked(task: Gsm8k, given: TaskContext) -> list[str]:
    return [
        given.tokenizer.decode(request.prompt) for item in task.items(given) for request in task.requests(item, given)
    ]


def generations(prepared: Prepared) -> list[Generate]:
    requests = [request for each in prepared.asked for request, _ in each.requests]
    return [request for request in requests if isinstance(request, Generate)]


class Turns:
    """A chat template by hand."""

    sha256 = "of the template"

    def __init__(self, tokenizer: Any, shots_as_turns: bool) -> None:
        self.encode = tokenizer.encode
        self.shots_as_turns = shots_as_turns

    def write(self, messages: Any) -> str:
        return "".join(f"[{each.role}]{each.content}" for each in messages) + "[assistant]"


def test_the_prompt_letter_by_letter(tokenizer, tmp_path):
    first = asked(Gsm8k(as_lines(tmp_path)), context(tokenizer, shots=1))[0]
    assert first == (
        "Question: train 1: 1 mills of 3 wheels?\nAnswer: 3 * 1 = <<3*1=3>>3\n#### 3\n\n"
        "Question: test 1: 1 mills of 3 wheels?\nAnswer:"
    )


@pytest.mark.parametrize(
    ("as_turns", "first"),
    [
        (
            True,
            "[user]Question: train 1: 1 mills of 3 wheels?\nAnswer:[assistant]3 * 1 = <<3*1=3>>3\n#### 3"
            "[user]Question: test 1: 1 mills of 3 wheels?\nAnswer:[assistant]",
        ),
        (
            False,
            "[user]Question: train 1: 1 mills of 3 wheels?\nAnswer: 3 * 1 = <<3*1=3>>3\n#### 3\n\n"
            "Question: test 1: 1 mills of 3 wheels?\nAnswer:[assistant]",
        ),
    ],
)
def test_examples_are_turns_of_a_chat_or_stand_in_one(tokenizer, tmp_path, make_gru, as_turns, first):
    given = context(tokenizer, shots=1, chat=Turns(tokenizer, as_turns))
    task = Gsm8k(as_lines(tmp_path), tokens=4)
    assert asked(task, given)[0] == first
    metrics = run_task(task, make_gru(257), given).metrics
    how = "of-3-questions-1-shot-4-tokens-chat" + ("" if as_turns else "-one-turn")
    assert list(metrics) == [f"gsm8k.exact_match@{kind}-{how}" for kind in ("strict", "flexible")]


def test_a_template_that_a_task_does_not_write_through_is_refused(tokenizer):
    heldout = context(tokenizer, 8, heldout=np.arange(1, 60), chat=Turns(tokenizer, True))
    with pytest.raises(ProblemError, match="task 'Heldout': the task asks nothing through a chat template"):
        prepare(Heldout(), heldout)


def test_five_examples_are_shown_unless_said_otherwise(tokenizer, tmp_path):
    task = Gsm8k(as_lines(tmp_path))
    assert [text.count("Question:") for text in asked(task, context(tokenizer))] == [6, 6, 6]
    assert [text.count("Question:") for text in asked(task, context(tokenizer, shots=0))] == [1, 1, 1]
    (tmp_path / "train.jsonl").unlink()
    assert len(asked(task, context(tokenizer, shots=0))) == 3  # nothing is read that is not shown


def test_examples_that_do_not_fit_are_an_error_or_fewer(tokenizer, tmp_path):
    task = Gsm8k(as_lines(tmp_path), tokens=20)
    with pytest.raises(ProblemError, match=r"with 5 examples .* tokens, but the model reads 300"):
        prepare(task, context(tokenizer, 300))
    fitted = prepare(task, context(tokenizer, 300, fit_shots=True))
    requests = generations(fitted)
    assert tokenizer.decode(requests[0].prompt).count("Question:") == 4
    assert max(len(request.prompt) + request.tokens for request in requests) <= 300


@pytest.mark.parametrize(
    ("said", "right", "flexible"),
    [
        (" It is 3.\n#### 3", 1, 1),
        (" #### $3.", 0, 1),  # the strict pattern has no dollar
        (" So 1,003 of 3,000.\n#### 3,000", 0, 0),
        (" The answer is $3.", 0, 1),
        (" #### 3\n#### 4", 1, 0),
        (" no number", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_text_is_read_in_two_ways(tokenizer, tmp_path, said, right, flexible):
    task, given = Gsm8k(as_lines(tmp_path)), context(tokenizer)
    (score,) = task.score(next(iter(task.items(given))), [GenerateAnswer(said)], given)
    assert (score["right"], score["right_flexible"]) == (right, flexible)


def test_both_readings_are_those_of_lm_evaluation_harness():
    """Its filters and its metric, with the patterns of its gsm8k.yaml."""
    extraction: Any = pytest.importorskip("lm_eval.filters.extraction", reason="lm-eval is not installed")
    metrics: Any = pytest.importorskip("lm_eval.api.metrics")
    strict = extraction.RegexFilter(r"#### (\-?[0-9\.\,]+)")
    flexible = extraction.RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
    parts = ["#### ", "####", "$", "-", "1", "12", ".", ",", " ", "\n", "x", "3.5", "\u0663", "1,000", "USD"]
    draw = random.Random(0)
    for _ in range(1000):
        said, gold = (
            "".join(draw.choices(parts, k=draw.randrange(9))),
            draw.choice(["x = 1\n#### 12", "#### 1,000", "#### -3.5"]),
        )
        for filtered, ours in ((strict, strict_number), (flexible, flexible_number)):
            ((theirs,),) = filtered.apply([[said]], [{}])
            scored = metrics.exact_match_hf_evaluate([theirs], [gold], regexes_to_ignore=ignored, ignore_case=True)
            assert is_same_number(ours(said), gold) == scored["exact_match"], (said, gold)


@pytest.mark.parametrize("layout", ["plain", "compressed", "clone", "data", "clone in data"])
def test_every_layout_gives_the_same_questions(tokenizer, tmp_path, layout):
    expected = asked(Gsm8k(as_lines(tmp_path / "expected")), context(tokenizer))
    place = tmp_path / "there" / "gsm8k"
    if "clone" in layout:
        as_clone(place)
    else:
        as_lines(place, ".xz" if layout == "compressed" else "")
    from_data = layout.endswith("data")
    task, given = (Gsm8k(), context(tokenizer, data=place.parent)) if from_data else (Gsm8k(place), context(tokenizer))
    assert asked(task, given) == expected


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a", "answer": "no number"}], r"test\.jsonl:1: the answer does not end with #### and a number"),
        ([{"question": "a", "answer": ""}], r"test\.jsonl:1: the answer does not end with ####"),
        ([*rows_of("test"), {"question": "a"}], r"test\.jsonl:4: unknown column 'answer'"),
        ([{"question": " ", "answer": "#### 1"}], r"test\.jsonl:1: the question has no text"),
        ([], r"test\.jsonl: has no rows"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_before_there_is_a_model(tokenizer, tmp_path, rows, said):
    with pytest.raises(ProblemError, match=said):
        prepare(Gsm8k(as_lines(tmp_path, test=rows)), context(tokenizer))


def test_missing_files_and_examples_are_named(tokenizer, tmp_path):
    with pytest.raises(ProblemError, match="absent: folder not found"):
        prepare(Gsm8k(tmp_path / "absent"), context(tokenizer))
    with pytest.raises(ProblemError, match=r"the folder has no gsm8k/test\.jsonl"):
        prepare(Gsm8k(), context(tokenizer, data=tmp_path))
    with pytest.raises(ProblemError, match="9 examples before each question, but there are 7"):
        prepare(Gsm8k(as_lines(tmp_path)), context(tokenizer, shots=9))
    (as_lines(tmp_path / "alone") / "train.jsonl").unlink()
    with pytest.raises(ProblemError, match=r"alone: the folder has no train\.jsonl, plain or compressed"):
        prepare(Gsm8k(tmp_path / "alone"), context(tokenizer))
    assert len(prepare(Gsm8k(tmp_path / "alone"), context(tokenizer, shots=0)).asked) == 3
    with pytest.raises(ProblemError, match="256 new tokens, but the model reads 256 at once"):
        prepare(Gsm8k(as_lines(tmp_path)), context(tokenizer, 256, shots=0))


def test_generation_stops_where_the_next_question_begins(tokenizer, tmp_path):
    prepared = prepare(Gsm8k(as_lines(tmp_path)), context(tokenizer, limit=1))
    (request,) = generations(prepared)
    assert request.stop == STOPS == ("Question:", "</s>", "<|im_end|>")
    assert (request.tokens, request.temperature, prepared.limited) == (256, 0.0, True)


def test_the_component_is_built_by_name(tmp_path):
    assert isinstance(Registry.discover().build("task", {"use": "gsm8k", "path": str(as_lines(tmp_path))}), Gsm8k)


def test_gsm8k_itself_has_1319_problems(tokenizer):
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no GSM8K here")
    data = Path(os.environ["PENSTOCK_DATA"])
    if not (data / "gsm8k").is_dir():
        pytest.skip(f"{data / 'gsm8k'} is absent")
    task, given = Gsm8k(), context(tokenizer, 8192, data=data)
    items = list(task.items(given))
    assert len(items) == 1319
    assert all(is_same_number(strict_number(item.gold[0]), item.gold[0]) for item in items)
