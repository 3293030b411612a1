"""`penstock evaluate A B --compare`: paired differences of a run and its compressed form."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.eval_suite.metrics import bits_per_byte
from penstock.evaluate.comparison import compare_paths
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.comparison import Comparison
from penstock.train.restore import restore

REGISTRY = Registry.discover()
PAIRED = ("loss", "bits_per_byte", "top1_accuracy")
TEXT = "".join(f"def gate_{number}(level):\n    return level * {number}\n<|end|>" for number in range(30))


@pytest.fixture(scope="module")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the shared run, which tests may write to, and its data."""
    folder = tmp_path_factory.mktemp("compared") / "runs"
    shutil.copytree(trained.parent.parent / "data", folder / "data")
    for name in ("20260101T000000Z-00000001", "20260101T000000Z-00000002"):
        shutil.copytree(trained, folder / "quickstart" / name, ignore=shutil.ignore_patterns("answers", ".lock"))
    return folder


@pytest.fixture(scope="module")
def baseline(runs: Path) -> Path:
    return runs / "quickstart" / "20260101T000000Z-00000001"


@pytest.fixture(scope="module")
def other(runs: Path, config_file: Path) -> Path:
    """A smaller model on the same data, without experts."""
    from penstock.cli.main import run

    changes = ["name=dense", "model.first_k_dense_replace=3", "model.balance=[]", "model.hidden_size=16", "seed=3"]
    return Path(run(["train", str(config_file), *changes, "--runs", str(runs), "--json"])["run_dir"])


def test_a_model_compared_with_itself_differs_by_exactly_0(command, baseline: Path, tmp_path: Path):
    artifact = tmp_path / "model.penstock"
    command("export", baseline, "--format", "penstock", "--out", artifact)
    result = command("evaluate", baseline, artifact, "--compare", "--json")
    for name in PAIRED:
        figure = result[name]
        assert figure["baseline"] == figure["compressed"]
        assert (figure["difference"], figure["interval"]["low"], figure["interval"]["high"]) == (0, 0, 0)
    assert (result["kl_divergence"]["value"], result["top1_agreement"]["value"]) == (0, 1)
    assert {each["difference"] for each in result["worst"]} == {0}
    assert result["compressed"]["bytes"] == artifact.stat().st_size
    weights = next((baseline / "checkpoints").glob("step-*[0-9]")) / "model.safetensors"
    assert result["baseline"]["file"] == weights.name
    assert result["times_smaller"] == result["baseline"]["bytes"] / artifact.stat().st_size
    assert json.loads((tmp_path / "model.comparison.json").read_text()) == result
    assert Comparison.from_json(result).to_json() == result


def test_models_of_unlike_shape_are_compared_on_the_text_that_was_held_out(command, baseline: Path, other: Path):
    result = command("evaluate", baseline, other, "--compare", "--json")
    for side, run in (("baseline", baseline), ("compressed", other)):
        metrics = command("evaluate", run, "--task", "heldout", "--json")["tasks"]["heldout"]["metrics"]
        assert result["bits_per_byte"][side] == pytest.approx(metrics["heldout.bits_per_byte@disjoint-32"], rel=1e-6)
        perplexity = metrics["heldout.token_perplexity@disjoint-32"]
        assert math.exp(result["loss"][side]) == pytest.approx(perplexity, rel=1e-6)
    for name in PAIRED:
        interval = result[name]["interval"]
        assert interval["low"] < result[name]["difference"] < interval["high"]
        assert interval["samples"] == result["samples"] > 5
    for name, most in (("top1_agreement", 1), ("kl_divergence", math.inf)):
        interval = result[name]["interval"]
        assert 0 <= interval["low"] <= result[name]["value"] <= interval["high"] <= most
    worst = [each["difference"] for each in result["worst"]]
    assert worst == sorted(worst, reverse=True)
    assert json.loads((other / "comparison.json").read_text()) == result


def test_every_figure_is_that_of_all_logits_at_once(baseline: Path, other: Path, tmp_path: Path):
    """An oracle that holds the logits of a whole document."""
    (tmp_path / "gates.txt").write_text(TEXT)
    task = REGISTRY.choose("task", {"use": "text", "paths": [str(tmp_path / "gates.txt")], "separator": "<|end|>"})
    found = compare_paths(baseline, other, REGISTRY, [task])
    assert found.scores is not None
    assert found.record.kl_divergence is not None
    assert found.record.bits_per_byte is not None
    models: list[Any] = [restore(path, REGISTRY) for path in (baseline, other)]
    rows = []
    for piece in TEXT.split("<|end|>")[:-1]:
        tokens = torch.tensor([0, *models[0].tokenizer.encode(piece.strip("\r\n"))])
        assert len(tokens) <= 33
        with torch.no_grad():
            log_SV, other_SV = (
                each.model.logits(each.model(tokens[None, :-1]).hidden_BSD)[0].double().log_softmax(-1)
                for each in models
            )
        target_S = tokens[1:]
        rows.append(
            {
                "tokens": len(target_S),
                "bytes": len(piece.strip("\r\n").encode()),
                "baseline_nll": -float(log_SV[range(len(target_S)), target_S].sum()),
                "compressed_nll": -float(other_SV[range(len(target_S)), target_S].sum()),
                "baseline_correct": int((log_SV.argmax(-1) == target_S).sum()),
                "compressed_correct": int((other_SV.argmax(-1) == target_S).sum()),
                "same": int((log_SV.argmax(-1) == other_SV.argmax(-1)).sum()),
                "kl": float((log_SV.exp() * (log_SV - other_SV)).sum()),
            }
        )
    assert found.record.samples == len(rows) == 30
    for name, column_K in found.scores.items():
        np.testing.assert_allclose(column_K, [row[name] for row in rows], rtol=1e-5, atol=1e-6)
    assert found.record.kl_divergence.value > 0
    assert found.record.bits_per_byte.compressed == pytest.approx(
        bits_per_byte([row["compressed_nll"] for row in rows], sum(row["bytes"] for row in rows)), rel=1e-6
    )


def test_the_table_names_both_and_the_worst_documents(command, baseline: Path, other: Path, capsys):
    command("evaluate", baseline, other, "--compare")
    said = capsys.readouterr().out
    words = (
        "KL(A || B)",
        "bits per byte",
        "same first choice",
        "times smaller",
        str(baseline),
        "documents",
        "document ",
    )
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["A", "B"], "2 paths, add --compare"),
        (["A", "--compare"], "--compare takes two paths, not 1"),
        (["A", "B", "A", "--compare"], "--compare takes two paths, not 3"),
        (["A", "B", "--compare", "--task", "heldout", "--task", "heldout"], "--compare takes one text, not 2"),
        (["A", "B", "--compare", "--task", "lambada", "--data", "EMPTY"], "lambada_test.jsonl"),
        (["A", "B", "--compare", "--shots", "2"], "shots"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_model_is_loaded(
    command, baseline: Path, other: Path, tmp_path: Path, monkeypatch, arguments: list[str], what: str
):
    (tmp_path / "lambada").mkdir()
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text("")
    monkeypatch.setattr("penstock.evaluate.compared_models.restore_run", lambda *_: pytest.fail("a model was loaded"))
    places = {"A": baseline, "B": other, "EMPTY": tmp_path}
    with pytest.raises(ProblemError, match=what) as caught:
        command("evaluate", *(places.get(each, each) for each in arguments))
    assert caught.value.exit_code == 2


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A folder of data with 60 passages for `lambada`."""
    (tmp_path / "lambada").mkdir()
    rows = [json.dumps({"text": f"def gate_{number}(level): return {number}"}) for number in range(60)]
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_questions_are_compared_one_by_one_beside_a_text(command, baseline: Path, other: Path, words: Path, capsys):
    arguments = ["--compare", "--task", "heldout", "--task", "lambada", "--data", words]
    result = command("evaluate", baseline, other, *arguments, "--json")
    task = result["tasks"]["lambada"]
    assert (task["samples"], task["groups"]) == (60, {})
    for side, run in (("baseline", baseline), ("compressed", other)):
        alone = command("evaluate", run, "--task", "lambada", "--data", words, "--json")["tasks"]["lambada"]["metrics"]
        assert {name: metric[side] for name, metric in task["metrics"].items()} == pytest.approx(alone, rel=1e-6)
    perplexity = task["metrics"]["lambada.perplexity@openai-last-word-of-60-passages"]
    assert perplexity["interval"]["low"] < perplexity["difference"] < perplexity["interval"]["high"]
    assert perplexity["p_value"] <= perplexity["adjusted"] <= 2 * perplexity["p_value"]
    accuracy = task["metrics"]["lambada.accuracy@openai-last-word-of-60-passages"]
    assert accuracy["test"] == "McNemar, exact"
    assert accuracy["difference"] * 60 == pytest.approx(accuracy["only_compressed"] - accuracy["only_baseline"])
    assert result["kl_divergence"]["value"] > 0
    assert Comparison.from_json(result).to_json() == result
    command("evaluate", baseline, other, *arguments)
    said = capsys.readouterr().out
    assert [word for word in ("KL(A || B)", "lambada.accuracy@", "difference") if word not in said] == []


def test_models_of_two_tokenizers_are_compared_on_questions_and_per_byte_of_documents(
    command, config_file: Path, baseline: Path, words: Path
):
    changes = ["data.tokenizer.vocab_size=300", "train.tokens=128"]
    run = command("train", config_file, *changes, "--runs", words, "--json")["run_dir"]
    (words / "gates.txt").write_text(TEXT)
    text = f"{{use: text, paths: [{words / 'gates.txt'}], separator: '<|end|>'}}"
    result = command(
        "evaluate", baseline, run, "--compare", "--task", text, "--task", "lambada", "--data", words, "--json"
    )
    assert (result["loss"], result["kl_divergence"], result["task"]) == (None, None, "")
    ((name, metric),) = result["tasks"]["text"]["metrics"].items()
    assert name.startswith("text.bits_per_byte@")
    assert (metric["interval"]["samples"], result["tasks"]["lambada"]["samples"]) == (30, 60)
    with pytest.raises(ProblemError, match="another tokenizer than that of"):
        command("evaluate", baseline, run, "--compare", "--task", text.replace(", separator: '<|end|>'", ""))


def test_a_comparison_of_before_there_were_tasks_opens(command, baseline: Path, other: Path):
    result = command("evaluate", baseline, other, "--compare", "--json")
    earlier = {name: value for name, value in result.items() if name != "tasks"}
    assert Comparison.from_json(earlier).to_json() == result


def test_models_of_two_tokenizers_are_refused_by_name_before_they_are_loaded(
    command, config_file: Path, baseline: Path, tmp_path: Path, monkeypatch
):
    changes = ["data.tokenizer.vocab_size=300", "train.tokens=128"]
    run = command("train", config_file, *changes, "--runs", tmp_path, "--json")["run_dir"]
    monkeypatch.setattr("penstock.evaluate.compared_models.restore_run", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ProblemError, match=f"{run}: another tokenizer than that of {baseline}"):
        command("evaluate", baseline, run, "--compare")


def test_an_encoder_has_no_next_tokens_to_compare(command, config_file: Path, baseline: Path, tmp_path: Path):
    sizes = "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16"
    changes = [f"model={{use: bert, preset: small, {sizes}}}", "train.objective=masked-lm", "train.tokens=128"]
    run = command("train", config_file, *changes, "--runs", tmp_path, "--json")["run_dir"]
    with pytest.raises(ProblemError, match=f"{run}: the model 'bert' predicts .*; --compare needs the next token"):
        command("evaluate", baseline, run, "--compare")


def test_a_model_of_other_data_may_have_read_what_was_held_out(
    command, config_file: Path, baseline: Path, tmp_path: Path, caplog
):
    tokenizer = next((baseline / "checkpoints").glob("step-*[0-9]")) / "tokenizer.json"
    changes = [f"data.tokenizer={{file: {tokenizer}}}", "data.heldout_share=0.2", "train.tokens=128"]
    run = command("train", config_file, *changes, "--runs", tmp_path, "--json")["run_dir"]
    command("evaluate", baseline, run, "--compare")
    assert "trained on other data" in caplog.text
