"""`penstock evaluate` of a trained run: its options, what it keeps, and what is wrong before a model is loaded."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest

from penstock.hooks.problems import ProblemError
from penstock.run.records.evaluation import Evaluation

PASSAGES = ["import os and import sys", "return the value", "the path of the file", "class of its own"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in PASSAGES).encode()
    (tmp_path / "data" / "lambada").mkdir(parents=True)
    (tmp_path / "data" / "lambada" / "lambada_test.jsonl.xz").write_bytes(lzma.compress(rows))
    return tmp_path / "data"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run beside its data, to be written to."""
    runs = trained.parent.parent
    copied = tmp_path / "runs" / trained.parent.name / trained.name
    shutil.copytree(runs / "data", tmp_path / "runs" / "data")
    shutil.copytree(trained, copied, ignore=shutil.ignore_patterns("answers", "evaluation.json", ".lock"))
    return copied


def figures(result: Any, task: str) -> dict[str, float]:
    return result["tasks"][task]["metrics"]


def test_a_task_reads_the_folder_of_data_and_says_its_limit(command, run, data, read_json):
    result = command("evaluate", run, "--task", "lambada", "--data", data, "--limit", 3)
    assert figures(result, "lambada").keys() == {
        "lambada.accuracy@openai-last-word-of-4-passages-first-3",
        "lambada.perplexity@openai-last-word-of-4-passages-first-3",
    }
    interval = result["tasks"]["lambada"]["intervals"]["lambada.perplexity@openai-last-word-of-4-passages-first-3"]
    assert interval["low"] <= figures(result, "lambada")["lambada.perplexity@openai-last-word-of-4-passages-first-3"]
    assert interval["samples"] == 3
    assert read_json(run / "evaluation.json") == result


def test_an_evaluation_says_which_text_was_held_out_and_which_task_read_it(command, run, read_json):
    result = command("evaluate", run, "--task", "heldout")
    manifest = read_json(next((run.parent.parent / "data").glob("*/manifest.json")))
    split = manifest["splits"]["heldout"]
    assert result["heldout_text"]["bytes"] == split["text_bytes"]
    assert result["heldout_text"]["documents"] == split["documents"]
    assert result["tasks"]["heldout"]["version"].startswith("penstock-eval-suite ")


def test_a_second_evaluation_computes_nothing_and_finds_the_same(command, run, data):
    first = command("evaluate", run, "--task", "lambada", "--task", "heldout", "--data", data)
    (kept,) = (run / "answers").iterdir()
    before = kept.read_bytes()
    again = command("evaluate", run, "--task", "lambada", "--task", "heldout", "--data", data)
    assert kept.read_bytes() == before
    for task in ("lambada", "heldout"):
        assert figures(again, task) == figures(first, task)
    kept.write_bytes(before[: len(before) // 2])  # as a kill leaves it
    assert figures(command("evaluate", run, "--task", "heldout"), "heldout") == figures(first, "heldout")
    assert kept.read_bytes().startswith(before[: before[: len(before) // 2].rfind(b"\n") + 1])


def test_answers_under_other_settings_of_the_model_are_not_those_of_these(command, run):
    command("evaluate", run, "--task", "heldout")
    resolved = run / "config.resolved.yaml"
    assert "normalize: true" in resolved.read_text()
    resolved.write_text(resolved.read_text().replace("normalize: true", "normalize: false"))
    shutil.copytree(run, fresh := run.with_name("20200101T000000Z-00000000"))
    shutil.rmtree(fresh / "answers")
    figure = figures(command("evaluate", fresh, "--task", "heldout"), "heldout")
    assert figures(command("evaluate", run, "--task", "heldout"), "heldout") == figure


def test_what_is_wrong_with_tasks_is_said_at_once_and_before_the_model_is_loaded(command, run, data):
    shutil.rmtree(run / "checkpoints")
    (data / "lambada" / "lambada_test.jsonl.xz").unlink()
    with pytest.raises(ProblemError) as caught:
        command(
            "evaluate", run, "--data", data, "--task", "lambada", "--task", "{use: heldout, stride: 99}", "--shots", 2
        )
    assert {problem.code for problem in caught.value.problems} == {"no-shots"}
    with pytest.raises(ProblemError) as caught:
        command("evaluate", run, "--data", data, "--task", "lambada", "--task", "{use: heldout, stride: 99}")
    assert [problem.code for problem in caught.value.problems] == ["missing-file", "bad-value"]


def test_a_record_is_what_its_file_holds(command, run):
    result = command("evaluate", run, "--task", "heldout")
    assert Evaluation.from_json(result).to_json() == result
    assert result["heldout_bits_per_byte"] == figures(result, "heldout")["heldout.bits_per_byte@disjoint-32"]


def test_a_model_trained_on_rows_is_not_compared_with_counts_of_its_corpus(command, config_file, tmp_path, caplog):
    for name in ("rows.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text('{"prompt": "the gate", "completion": " opens"}\n' * 8)
    paths = f"paths: [{tmp_path / 'rows.jsonl'}], heldout: [{tmp_path / 'heldout.jsonl'}]"
    overrides = [f"train.objective={{use: masked-next-token, {paths}}}", "train.tokens=128"]
    trained = command("train", config_file, *overrides, "--runs", tmp_path / "runs", "--json")
    baselines = command("evaluate", trained["run_dir"])["baselines"]
    assert baselines["xz_bits_per_byte"] > 0
    assert (baselines["unigram_bits_per_byte"], baselines["bigram_bits_per_byte"]) == (None, None)
    assert "without n-gram baselines: the objective 'masked-next-token' trains on other text" in caplog.text


def test_a_prompt_that_fills_the_model_is_named_before_anything_is_measured(command, config_file, tmp_path):
    prompts = f"evaluate.prompts=['def ', '{'gate 水 ' * 20}']"
    sizes = ["model.max_position_embeddings=32", "train.tokens=128", prompts]
    trained = command("train", config_file, *sizes, "--runs", tmp_path / "runs", "--json")
    with pytest.raises(ProblemError, match=r"evaluate\.prompts\.1: the prompt has \d+ tokens, .* at most 32"):
        command("evaluate", trained["run_dir"])
