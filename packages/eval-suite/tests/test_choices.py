"""Multiple choice by hand, and the layouts in which questions come."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.eval_suite.choices import Choices, Columns, Form, Question, scores_of
from penstock.eval_suite.choices import Prompt as Asked
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import LikelihoodAnswer, TaskContext

ROWS = [
    {"question": "What feeds a turbine?", "choices": ["a penstock", "an ox"], "answer": 0, "about": "dams"},
    {"question": "What turns in the wind?", "choices": ["a dam", "a sail"], "answer": 1, "about": "mills"},
]
EXAMPLES = [{"question": f"Is {n} even?", "choices": ["no", "yes"], "answer": 1 - n % 2} for n in range(4)]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "mills.jsonl", ROWS)


@pytest.fixture
def examples(tmp_path) -> Path:
    return write(tmp_path / "examples.jsonl", EXAMPLES)


def context(tokenizer, length: int = 400, **changes) -> TaskContext:
    return TaskContext(tokenizer, None, length, **changes)


def prompts(task, given) -> list[str]:
    return [item.document.text for item in task.items(given)]


def one_name(result) -> str:
    return next(iter(result.metrics)).split("@")[1]


def test_the_three_rules_and_the_probability_by_hand():
    asked = Asked("", ("a", "ü", "abcd"))  # characters 1, 1, 4; bytes 1, 2, 4
    answers = [LikelihoodAnswer(nll, False) for nll in (2.0, 2.5, 3.0)]
    found = {right: scores_of(asked, right, answers) for right in range(3)}
    assert [found[right]["right"] for right in range(3)] == [1, 0, 0]
    assert [found[right]["right_by_characters"] for right in range(3)] == [0, 0, 1]  # 2, 2.5, 0.75
    assert [found[right]["right_by_bytes"] for right in range(3)] == [0, 0, 1]  # 2, 1.25, 0.75
    shares = np.exp([-2.0, -2.5, -3.0]) / np.exp([-2.0, -2.5, -3.0]).sum()
    assert [found[right]["choice_probability"] for right in range(3)] == pytest.approx(shares)
    assert [found[right]["confidence"] for right in range(3)] == pytest.approx([shares[0]] * 3)
    by_bytes = scores_of(Asked("", ("a", "üü")), 1, [LikelihoodAnswer(2.0, False), LikelihoodAnswer(7.0, False)])
    assert (by_bytes["right_by_characters"], by_bytes["right_by_bytes"]) == (0, 1)  # 3.5 and 1.75 against 2


def test_of_equal_choices_the_first_is_chosen_and_likelihoods_of_any_size_are_compared():
    answers = [LikelihoodAnswer(5000.0, False)] * 2
    assert [scores_of(Asked("", ("a", "b")), right, answers)["right"] for right in (0, 1)] == [1, 0]
    assert scores_of(Asked("", ("a", "b")), 1, answers)["choice_probability"] == 0.5


def test_figures_of_a_uniform_model_by_hand(uniform_model, tokenizer, file):
    """It finds the shorter choice likelier, and a character of one as likely as of another."""
    result = run_task(Choices(file), uniform_model, context(tokenizer))
    convention = one_name(result)
    first = 1 / (1 + 257.0 ** len("penstock"[:5]))  # "a penstock" has 5 bytes more than "an ox"
    second = 1 / (1 + 257.0)  # "a sail" has one byte more than "a dam"
    assert convention.startswith("mills.jsonl-")
    assert convention.endswith("-texts-0-shot")
    assert result.metrics == {
        f"choices.accuracy@{convention}": 0.0,
        f"choices.accuracy_normalised@characters-{convention}": 0.0 if 11 / 10 > 6 / 5 else 1.0,
        f"choices.accuracy_normalised@bytes-{convention}": 0.0 if 11 / 10 > 6 / 5 else 1.0,
        f"choices.choice_probability@{convention}": pytest.approx((first + second) / 2),
    }


def test_the_text_of_a_choice_follows_the_question_after_a_space(tokenizer, file):
    task, given = Choices(file), context(tokenizer)
    (item, _) = task.items(given)
    texts = [tokenizer.decode([*each.context, *each.continuation]) for each in task.requests(item, given)]
    assert texts == [f"Question: What feeds a turbine?\nAnswer: {choice}" for choice in ROWS[0]["choices"]]


def test_letters_name_the_choices(tokenizer, file, examples):
    task = Choices(file, answers="letters", shots=1, examples=examples)
    first = next(iter(task.items(context(tokenizer))))
    assert first.document.answers == ("A", "B")
    assert first.document.text == (
        "Is 0 even?\nA. no\nB. yes\nAnswer: B\n\nWhat feeds a turbine?\nA. a penstock\nB. an ox\nAnswer:"
    )


def test_a_prompt_is_filled_once():
    form = Form("texts", "{question} ({choices})")
    assert form.prompt(Question("Is {choices} a word?", ("no", "yes"), 0)) == "Is {choices} a word? (A. no\nB. yes)"


def test_names_tell_questions_forms_and_examples_apart(uniform_model, tokenizer, file, examples):
    given = context(tokenizer)
    cases = (
        (Choices(file), given),
        (Choices(file, prompt="{question}"), given),
        (Choices(file, answers="letters"), given),
        (Choices(file, examples=examples), given),
        (Choices(file, examples=examples), context(tokenizer, shots=1)),
    )
    names = {one_name(run_task(task, uniform_model, replaced)) for task, replaced in cases}
    assert len(names) == 5
    twice = [name.rsplit("-texts")[0] for name in names if "texts" in name]
    assert len(twice) - len(set(twice)) == 1  # shots are not in the hash


def test_examples_are_the_first_and_no_more_than_there_are(tokenizer, file, examples):
    task = Choices(file, examples=examples, shots=2)
    text, more, none = (
        prompts(each, context(tokenizer, shots=shots))[0]
        for each, shots in ((task, None), (task, 4), (Choices(file), 0))
    )
    assert text.startswith("Question: Is 0 even?\nAnswer: yes\n\nQuestion: Is 1 even?\nAnswer: no\n\nQuestion: What")
    assert len(more) > len(text) > len(none)
    with pytest.raises(ProblemError, match=r"examples\.jsonl: 5 examples .* there are 4, use --shots 4"):
        prepare(task, context(tokenizer, shots=5))
    with pytest.raises(ProblemError, match=r"mills\.jsonl: 1 example before .* there are 0"):
        prepare(Choices(file), context(tokenizer, shots=1))


def test_examples_that_do_not_fit_are_refused_or_as_many_as_fit_are_taken(uniform_model, tokenizer, file, examples):
    """One number for all questions, however many are asked: the longest decides."""
    task = Choices(file, examples=examples, shots=4)
    longest = max(
        len(f"{item.document.text} {answer}")
        for item in task.items(context(tokenizer, shots=2))
        for answer in item.document.answers
    )
    with pytest.raises(ProblemError, match=r"question 1: with 4 examples it has \d+ tokens, .* --shots fit"):
        prepare(task, context(tokenizer, longest - 1))
    for length, shots in ((longest, 2), (longest - 1, 2), (longest - 2, 1), (40, 0)):
        for limit in (None, 1):
            fitted = context(tokenizer, length, fit_shots=True, limit=limit)
            assert f"-{shots}-shot" in one_name(run_task(task, uniform_model, fitted))
    assert run_task(task, uniform_model, context(tokenizer, 400, fit_shots=True)).details["cut_requests"] == 0
    assert "-1-shot" in one_name(run_task(task, uniform_model, context(tokenizer, 400, shots=1, fit_shots=True)))


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": "B"}, {}, Question("q", ("x", "y"), 1)),
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"},
            {"answer": "answerKey"},
            Question("q", ("x", "y"), 0),
        ),
        (
            {"ctx": "q", "endings": ["x", "y"], "label": "1"},
            {"question": "ctx", "choices": "endings", "answer": "label"},
            Question("q", ("x", "y"), 1),
        ),
        (
            {"goal": "q", "sol1": "x", "sol2": "y", "label": 0, "of": 7},
            {"question": "goal", "choices": ("sol1", "sol2"), "answer": "label", "group": "of"},
            Question("q", ("x", "y"), 0, "7"),
        ),
    ],
)
def test_the_layouts_of_the_hub_are_read(row, columns, expected):
    """MMLU-Pro's letters, ARC's labels, HellaSwag's digits, PIQA's columns."""
    assert Columns(**columns).question_of("there", row) == expected


def test_a_csv_file_has_a_column_for_each_choice(tokenizer, tmp_path):
    path = tmp_path / "mills.csv"
    path.write_text('question,A,B,answer\n"What, if any, turns?",a sail,"a ""dam""",A\n')
    (item,) = Choices(path, choices=("A", "B")).items(context(tokenizer))
    assert (item.document.answers, item.gold[0]) == (("a sail", 'a "dam"'), 0)
    path.write_text("question,A,B,answer\nWhat turns?,a sail,A\n")
    with pytest.raises(ProblemError, match=r"mills\.csv:2: 3 cells under a header of 4"):
        prepare(Choices(path, choices=("A", "B")), context(tokenizer))


GOOD = {"question": "q", "choices": ["x", "y"], "answer": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["x", "y"]}, "unknown column 'answer', the row has question, choices"),
        (GOOD | {"answer": None}, "the question has no answer in column 'answer'"),
        (GOOD | {"answer": ""}, "the question has no answer"),
        (GOOD | {"answer": -1}, "the question has no answer"),
        (GOOD | {"answer": 2}, "the answer 2 .* is not one of the 2 choices, possible are 0 to 1, or A to B"),
        (GOOD | {"answer": "C"}, "the answer 'C' .* is not one of the 2 choices"),
        (GOOD | {"answer": True}, "the answer True .* is not one of the 2 choices"),
        (GOOD | {"answer": [0]}, r"the answer \[0\] .* is not one of the 2 choices"),
        (GOOD | {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "0"}, "the answer '0' .* are A, B"),
        (GOOD | {"choices": {"text": ["x", "y"]}}, "unknown column 'label', the row has text"),
        (
            GOOD | {"choices": {"text": ["x", "y"], "label": None}},
            "column 'choices' is not a list .* labels",
        ),
        (
            GOOD | {"choices": {"text": ["x", "y"], "label": "AB"}},
            "column 'choices' is not a list .* labels",
        ),
        (GOOD | {"choices": {"text": ["x", "y", "z"], "label": ["A", "B"]}}, "3 choices have the labels A, B, not a"),
        (GOOD | {"choices": {"text": ["x", "y"], "label": ["A", "A"]}}, "2 choices have the labels A, A, not a label"),
        (GOOD | {"choices": ["x"]}, "column 'choices' is not a list of at least two choices"),
        (GOOD | {"choices": "x or y"}, "column 'choices' is not a list"),
        (GOOD | {"choices": ["x", 7]}, "choice 2 is int, not a string"),
        (GOOD | {"choices": ["x", " "]}, "choice 2 has no text"),
        (GOOD | {"question": " "}, "the question has no text"),
        (GOOD | {"question": None}, "column 'question' is null, not a string"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_place(tokenizer, tmp_path, row, message):
    path = write(tmp_path / "rows.jsonl", [GOOD, row])
    with pytest.raises(ProblemError, match=r"rows\.jsonl:2: " + message):
        prepare(Choices(path), context(tokenizer))


@pytest.mark.parametrize("group", [None, ""])
def test_a_question_without_the_group_that_was_asked_for_is_refused(tokenizer, tmp_path, group):
    path = write(tmp_path / "rows.jsonl", [GOOD | {"topic": "mills"}, GOOD | {"topic": group}])
    assert len(prepare(Choices(path), context(tokenizer)).asked) == 2
    with pytest.raises(ProblemError, match=r"rows\.jsonl:2: the question has no group in column 'topic'"):
        prepare(Choices(path, group="topic"), context(tokenizer))


def test_more_choices_than_letters_are_refused_only_where_letters_answer(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "choices": [str(n) for n in range(27)], "answer": 26}])
    assert len(prepare(Choices(path), context(tokenizer)).asked) == 1
    with pytest.raises(ProblemError, match="27 choices are more than there are letters"):
        prepare(Choices(path, answers="letters"), context(tokenizer))


def test_an_empty_file_and_a_missing_one_are_named(tokenizer, tmp_path):
    with pytest.raises(ProblemError, match=r"empty\.jsonl: has no rows"):
        prepare(Choices(write(tmp_path / "empty.jsonl", [])), context(tokenizer))
    with pytest.raises(ProblemError, match="absent: file not found"):
        prepare(Choices(tmp_path / "absent"), context(tokenizer))


def test_a_clone_of_the_hub_is_read_by_its_name_and_split(tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    rows = [
        {"id": str(n), "question": f"Is {n} even?", "choices": {"text": ["no", "yes"], "label": ["A", "B"]}}
        for n in range(4)
    ]
    for split in ("train", "test"):
        folder = tmp_path / "ai2_arc" / "ARC-Easy"
        folder.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list([row | {"answerKey": "AB"[1 - int(row["id"]) % 2]} for row in rows])
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    clone = tmp_path / "ai2_arc"
    (clone / "README.md").write_text(
        "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n"
        "  - split: train\n    path: ARC-Easy/train-*\n  - split: test\n    path: ARC-Easy/test-*\n---\n"
    )
    settings: dict[str, Any] = {"name": "ARC-Easy", "answer": "answerKey", "examples": clone, "shots": 1}
    items = list(Choices(clone, **settings).items(context(tokenizer)))
    assert [item.gold[0] for item in items] == [1, 0, 1, 0]
    assert items[1].document.text.startswith("Question: Is 0 even?\nAnswer: yes\n\nQuestion: Is 1 even?")
    in_file = Choices(clone / "ARC-Easy" / "test-00000-of-00001.parquet", answer="answerKey")
    assert [item.gold[0] for item in in_file.items(context(tokenizer))] == [1, 0, 1, 0]
    with pytest.raises(ProblemError, match=r'ai2_arc: Unknown split "dev"'):
        prepare(Choices(clone, **settings, split="dev"), context(tokenizer))
    settings["name"] = "ARC-Hard"
    with pytest.raises(ProblemError, match=r"not a data set in the hub's layout .*'ARC-Hard' not found"):
        prepare(Choices(clone, **settings), context(tokenizer))
    settings["name"] = "ARC-Easy"
    (clone / "README.md").unlink()
    assert len(prepare(Choices(clone, **settings), context(tokenizer)).asked) == 4


def test_a_damaged_parquet_file_is_named(tokenizer, tmp_path):
    pytest.importorskip("pyarrow", reason="the extra 'hf' is not installed")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ProblemError, match=r"rows\.parquet: not a readable Parquet file"):
        prepare(Choices(tmp_path / "rows.parquet"), context(tokenizer))


def test_the_component_is_built_by_name(file):
    settings = {"path": str(file), "question": "question", "choices": "choices", "answer": "answer"}
    assert isinstance(Registry.discover().build("task", {"use": "choices", **settings}), Choices)
    with pytest.raises(ProblemError, match="prompt"):
        Registry.discover().build("task", {"use": "choices", **settings, "prompt": "no question"})


def test_questions_of_a_group_are_alike(tokenizer, file):
    assert [item.group for item in Choices(file, group="about").items(context(tokenizer))] == ["dams", "mills"]


def test_a_better_model_has_a_higher_probability_of_the_right_choice():
    """By hand: two models choose alike, and one is surer."""
    asked = Asked("", ("x", "y"))
    sure, unsure = (
        scores_of(asked, 0, [LikelihoodAnswer(0.0, False), LikelihoodAnswer(nll, False)]) for nll in (3.0, 0.5)
    )
    assert sure["right"] == unsure["right"]
    assert sure["choice_probability"] == pytest.approx(1 / (1 + math.exp(-3)))
    assert unsure["choice_probability"] == pytest.approx(1 / (1 + math.exp(-0.5)))
