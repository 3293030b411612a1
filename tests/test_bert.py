"""An encoder from training to a decoded file: what it learns, keeps and refuses."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers

from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.train.restore import restore
from penstock.train.scoring import task_scores

CONFIG = """\
name: NAME
data:
  corpus: {use: text, paths: [FOLDER/train.tsv]}
  filters: []
  tokenizer: {vocab_size: 320}
  sequence_length: 16
model:
  use: bert
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 4
  intermediate_size: 64
  max_position_embeddings: 16
  head: {task: classification, labels: 2}
train:
  objective: {use: classification, paths: [FOLDER/train.tsv], heldout: [FOLDER/dev.tsv]}
  tokens: 7680
  batch_size: 16
  optimizer: {use: adamw, lr: 0.01}
  evaluate_every: 20
  checkpoint_every: 20
  device: cpu
"""
GOOD, BAD = ("good", "fine", "great", "nice"), ("bad", "dull", "poor", "awful")
MASKED = ("train.objective=masked-lm", "model.head={task: masked-lm}")
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences whose label is in one of their words."""
    folder = tmp_path_factory.mktemp("sentences")
    lines = [
        f"the {'film' if place % 2 else 'plot'} is {word} {place}\t{label}\n"
        for place in range(12)
        for label, words in enumerate((BAD, GOOD))
        for word in words
    ]
    (folder / "train.tsv").write_text("".join(lines[: 8 * 9]))
    (folder / "dev.tsv").write_text("".join(lines[8 * 9 :]))
    return folder


@pytest.fixture
def penstock(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(folder)
    return command


def config(folder: Path, name: str = "bert") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)).replace("NAME", name))
    return path


@pytest.fixture
def trained(folder: Path, penstock: Command) -> Path:
    """One run for all tests that only read it."""
    runs = sorted((folder / "runs" / "bert").glob("*-*"))
    return runs[0] if runs else Path(penstock("train", config(folder))["run_dir"])


def test_a_classifier_learns_and_its_figures_are_in_metrics_status_and_evaluation(
    trained: Path, penstock: Command
) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    logged = [row["heldout/accuracy"] for row in rows if "heldout/accuracy" in row]
    status = json.loads((trained / "status.json").read_text())
    assert status["heldout"]["accuracy"] == logged[-1] == 1.0
    assert any("accuracy" in row for row in rows)
    result = penstock("evaluate", trained)
    task = result["tasks"]["classification"]
    assert task["metrics"] == {"classification.accuracy": 1.0}
    assert task["details"]["examples"] == 24
    assert task["details"]["majority"] == 0.5
    assert task["intervals"]["classification.accuracy"]["samples"] == 24
    penstock("report", trained)


def test_an_export_is_what_transformers_computes_with_its_own_tokenizer(
    folder: Path, trained: Path, penstock: Command
) -> None:
    exported = folder / "exported"
    penstock("export", trained, "--format", "{use: hf, dtype: float32}", "--out", exported)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(exported)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(exported)
    lines = [line.split("\t") for line in (folder / "dev.tsv").read_text().splitlines()]
    read = tokenizer([text for text, _ in lines], return_tensors="pt", padding=True)
    with torch.no_grad():
        said = model(**read).logits.argmax(-1).tolist()
    scores = task_scores(trained, Registry.discover())
    assert [float(each == int(label)) for each, (_, label) in zip(said, lines, strict=True)] == list(
        scores.values["accuracy"]
    )


def test_a_compressed_encoder_gives_its_figures_to_the_bit(folder: Path, penstock: Command) -> None:
    quantizer = "model.quantizer={matrix: ternary, embedding: int8}"
    shared = (
        "model.sharing=[{use: factorised-embedding, rank: 8, positions: true}, "
        "{use: cross-layer, norms: true, biases: true}]"
    )
    run = Path(penstock("train", config(folder, "small"), quantizer, shared, "train.optimizer=muon")["run_dir"])
    artifact = folder / "small.penstock"
    penstock("export", run, "--format", "penstock", "--out", artifact)
    registry = Registry.discover()
    token_BS = torch.arange(64).view(4, 16)
    expected, found = (restore(path, registry).composition.module.eval() for path in (run, artifact))
    with torch.no_grad():
        assert torch.equal(*(cast(Any, model).task_logits(token_BS) for model in (expected, found)))
    assert penstock("evaluate", artifact)["tasks"] == penstock("evaluate", run)["tasks"]
    assert artifact.stat().st_size < (run / "checkpoints" / "step-00000030" / "model.safetensors").stat().st_size


def test_a_task_starts_from_a_masked_language_model_and_says_what_is_fresh(
    folder: Path, penstock: Command, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(penstock("train", config(folder, "masked"), *MASKED)["run_dir"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["heldout/loss"] for row in rows if "heldout/loss" in row]
    assert losses[-1] < losses[0]
    figures = penstock("evaluate", run)["tasks"]["masked-lm"]["metrics"]
    assert 0 < figures["masked-lm.nats_per_token"] < 6
    base = folder / "base"
    penstock("export", run, "--format", "{use: hf, dtype: float32}", "--out", base)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    own = (f"data.tokenizer.file={base}", f"model.pretrained={base}", "train.optimizer={use: adamw, lr: 0}")
    written = config(folder, "task")
    lines = written.read_text().splitlines(keepends=True)
    written.write_text("".join(line for line in lines if not line.strip().startswith(sizes)))
    with caplog.at_level(logging.INFO, "penstock"):
        task = Path(penstock("train", written, *own, "train.tokens=256")["run_dir"])
    assert "starts with fresh weights of pooler, classifier" in caplog.text
    before, after = (state(each) for each in (run, task))
    body = [name for name in before if name.startswith("bert.")]
    assert len(body) > 20
    assert all(torch.equal(before[name], after[name]) for name in body)
    caplog.clear()
    penstock("evaluate", task)
    assert "fresh" not in caplog.text


def state(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


def test_dropout_draws_the_same_after_a_resume(folder: Path, penstock: Command) -> None:
    options = ("model.dropout=0.1", "train.tokens=1024", "train.checkpoint_every=2")
    run = Path(penstock("train", config(folder, "dropped"), *options)["run_dir"])
    expected = state(run)
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    penstock("train", config(folder, "dropped"), *options, "--resume", run)
    found = state(run)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("generate", "RUN", "--prompt", "a"), "text generation"),
        (("chat", "RUN"), "text generation"),
        (("profile", "RUN"), "a profile"),
        (("export", "RUN", "--for", "vllm"), "an export for vllm"),
        (("evaluate", "RUN", "--task", "heldout"), "the task 'heldout'"),
        (("evaluate", "RUN", "--limit", "3"), "an option of tasks"),
        (("evaluate", "RUN", "RUN", "--compare"), "--compare"),
    ],
)
def test_what_needs_the_next_token_refuses_an_encoder(
    trained: Path, penstock: Command, arguments: tuple[str, ...], asked: str
) -> None:
    with pytest.raises(ProblemError, match=f"'bert' predicts a label for each text; {asked} needs the next") as raised:
        penstock(*(str(trained) if each == "RUN" else each for each in arguments))
    assert raised.value.exit_code == 2


def test_an_exported_encoder_or_its_artifact_generates_nothing_either(
    folder: Path, trained: Path, penstock: Command
) -> None:
    exported, artifact = folder / "silent", folder / "silent.penstock"
    penstock("export", trained, "--out", exported)
    penstock("export", trained, "--format", "penstock", "--out", artifact)
    for path in (exported, artifact):
        with pytest.raises(ProblemError, match="text generation needs the next token"):
            penstock("generate", path, "--prompt", "a")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.objective=next-token", "'next-token' trains models that predict the next token, but 'bert' predicts"),
        ("train.objective=masked-lm", "'masked-lm' trains models that predict hidden tokens"),
        ("model.head={task: tags, labels: 2}", "'classification' trains models that predict a label for each text"),
        ("model.head={task: classification, labels: 3}", r"the head has 3 labels, but the objective has 2 \(0, 1\)"),
        ("data.sequence_length=32", "the model reads at most 16 positions"),
    ],
)
def test_a_config_that_does_not_fit_an_encoder_is_refused_before_work(
    folder: Path, penstock: Command, override: str, said: str
) -> None:
    with pytest.raises(ProblemError, match=said) as raised:
        penstock("train", config(folder, "refused"), override, "--dry-run")
    assert raised.value.exit_code == 2
    assert not (folder / "runs" / "refused").exists()


def test_a_frozen_base_is_no_encoder(folder: Path, penstock: Command) -> None:
    base = "{use: bert, preset: small}"
    model = f"model={{use: frozen-base, base: {base}, layers: [1], experts: 2, router: softmax-topk}}"
    with pytest.raises(ProblemError, match="'bert' predicts hidden tokens from both sides: take a base of next tokens"):
        penstock("train", config(folder, "frozen"), model, "train.objective=next-token", "--dry-run")
