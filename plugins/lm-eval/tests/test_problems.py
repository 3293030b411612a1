"""What is wrong with a task or a model is told before a model is loaded, with where it is and what to do."""

from __future__ import annotations

import json
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from local_tasks import write_tasks
from penstock_lm_eval.command import main
from penstock_lm_eval.harness import load
from penstock_lm_eval.opening import opened
from penstock_lm_eval.task import LmEval

from penstock.cli.choices import choose
from penstock.conformance.laws.task_parts import ByteTokenizer
from penstock.eval_suite.runner import prepare
from penstock.hooks import Problem, ProblemError, Registry
from penstock.hooks.contracts import TaskContext

BUILT_IN = Path(lm_eval.tasks.__file__).parent
"""The harness's own tasks. A folder of them is found in no time, and all of them in ten seconds."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path)


def problem_of(name: str, folder: Path, **options: Any) -> Problem:
    length = options.pop("sequence_length", 256)
    with pytest.raises(ProblemError) as caught:
        prepare(LmEval(name, folder), TaskContext(ByteTokenizer(), None, length, **options))
    return caught.value.problems[0]


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_misspelt_task_gets_near_names(folder):
    problem = problem_of("arc_esay", folder)
    assert problem.code == "unknown-task"
    assert "did you mean 'arc_easy'" in problem.fix


def test_a_task_whose_data_is_on_the_hub_names_it_and_what_to_give(monkeypatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    problem = problem_of("arc_easy", BUILT_IN / "arc")
    assert (problem.code, problem.where) == ("hub-unreachable", "allenai/ai2_arc")
    assert "`dataset` to a folder" in problem.fix
    assert "include_path" in problem.fix


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("choose.yaml", "doc_to_text: '{{question}}'", "doc_to_text: '{{riddle}}'", "riddle"),
        ("choose.yaml", "test_split: test", "test_split: exam", "exam"),
    ],
)
def test_a_task_that_does_not_fit_its_data_is_refused(folder, file, old, new, said):
    change(folder / file, old, new)
    problem = problem_of("choose", folder)
    assert problem.code == "bad-task"
    assert said in problem.what


def test_an_empty_file_is_refused(folder):
    (folder / "choose.jsonl").write_text("")
    assert problem_of("choose", folder).code == "bad-task"


def test_a_document_without_a_right_answer_is_named(folder):
    rows = [json.loads(line) for line in (folder / "choose.jsonl").read_text().splitlines()]
    rows[3]["answer"] = 7
    (folder / "choose.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = problem_of("choose", folder)
    assert (problem.code, problem.where) == ("invalid-field", "choose: document 3")


def test_examples_that_do_not_fit_are_refused_or_left_out(folder):
    assert problem_of("choose", folder, shots=4, sequence_length=80).code == "shots-too-long"
    context = TaskContext(ByteTokenizer(), None, 80, shots=4, fit_shots=True)
    task = LmEval("choose", folder)
    requests: list[Any] = [each for item in task.items(context) for each in task.requests(item, context)]
    lengths = [len(each.context) + len(each.continuation) - 1 for each in requests]
    assert 40 < max(lengths) <= 80


def test_examples_of_a_text_to_be_read_are_refused(folder):
    assert problem_of("read", folder, shots=1).code == "no-shots"


def test_a_limit_of_a_group_takes_questions_of_each_task(folder):
    context = TaskContext(ByteTokenizer(), None, 256, limit=6)
    ids = [each.item.id for each in prepare(LmEval("mill", folder), context).asked]
    assert ids == [f"{task}/{number}" for number in range(3) for task in ("choose", "choose_again")]


def test_a_built_in_task_reads_a_folder_in_the_layout_of_the_hub(tmp_path):
    row = {"text": "the wheel of the mill turns and the gate is open"}
    files = tmp_path / "EleutherAI" / "lambada_openai"
    files.mkdir(parents=True)
    (files / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: [{split: test, path: test.jsonl}]\n---\n"
    )
    (files / "test.jsonl").write_text(json.dumps(row) + "\n")
    for where in ({"data": tmp_path, "dataset": None}, {"data": None, "dataset": files}):
        task = load("lambada_openai", BUILT_IN / "lambada", **where).tasks["lambada_openai"]
        assert [dict(doc) for doc in task.eval_docs] == [row]


def test_a_task_is_named_on_a_command_line_after_a_colon(folder):
    registry = Registry.discover()
    short = choose(registry, "task", "lm-eval:end", {"include_path": str(folder)})
    long = choose(registry, "task", {"use": "lm-eval", "name": "end", "include_path": str(folder)})
    assert short.settings == long.settings
    assert (
        choose(registry, "task", "penstock-eval-suite:heldout", {"include_path": "x"}).entry.component.name == "heldout"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "no model is named"),
        ({"run": "x", "dtpye": "fp32"}, "did you mean 'dtype'"),
        ({"run": "x", "dtype": "fp8"}, "fp64"),
        ({"run": "x", "max_length": "long"}, "max_length is long, not a number of tokens"),
        ({"run": "x", "max_length": 0}, "max_length is 0"),
        ({"run": "x", "device": "toaster"}, "unknown device 'toaster'"),
    ],
)
def test_arguments_of_a_model_are_checked(arguments, said):
    with pytest.raises(ProblemError, match=said):
        opened(arguments)


def test_a_model_is_not_given_more_tokens_than_it_has_positions(twins):
    with pytest.raises(ProblemError, match="max_length is 4096, but the model reads at most"):
        opened({"run": str(twins.folder), "max_length": 4096})


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's command without the 14,000 built-in tasks, and without the programs that describe the machine."""
    found = lm_eval.tasks.TaskManager.__init__
    monkeypatch.setattr(lm_eval.tasks.TaskManager, "__init__", partialmethod(found, include_defaults=False))
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.mark.usefixtures("swift")
def test_the_command_of_the_harness_measures_a_folder_of_transformers(twins, folder, tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    line = f"run --model penstock --model_args run={twins.folder},dtype=fp64 --tasks end --include_path {folder}"
    monkeypatch.setattr(sys, "argv", ["penstock-lm-eval", *line.split(), "--output_path", str(out)])
    main()
    (written,) = out.parent.glob("results*.json")
    results = json.loads(written.read_text(encoding="utf-8"))
    assert set(results["results"]["end"]) >= {"acc,none", "perplexity,none"}
    assert set(results["config"]["model_sha256"]) == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("swift")
def test_a_problem_of_the_command_is_one_line(folder, monkeypatch, capsys):
    line = f"run --model penstock --model_args run={folder / 'nowhere'} --tasks end --include_path {folder}"
    monkeypatch.setattr(sys, "argv", ["penstock-lm-eval", *line.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
