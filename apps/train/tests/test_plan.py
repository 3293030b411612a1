"""`model.plan` and `penstock plan`: a plan is sizes, and its counts are those of the composed model."""

import json
import subprocess
import sys

import pytest
import yaml

from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.train.compose import compose_model, planned_vocabulary, size_table
from penstock.train.data import prepare_data

PLAN = {"parameters": "1M", "embedding_share": 0.25, "glu": 3.0, "width_multiple": 16}
FIXED_DEPTH = {"vary": "vocabulary", "layers": 5}


def write(folder, model, **data):
    text = {"corpus": {"use": "text", "paths": [str(folder / "text.txt")]}, **data}
    (folder / "text.txt").write_text("a few words of text\n\n" * 4000, encoding="utf-8")
    config = {"name": "planned", "data": text, "model": model, "train": {"tokens": 4096}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder / "run.yaml"


def penstock(*arguments, python=(), **streams):
    command = [sys.executable, *python, "-m", "penstock.cli", *arguments]
    return subprocess.run(command, check=True, timeout=60, text=True, **{"stdout": subprocess.PIPE, **streams}).stdout


def load(file, *overrides):
    return load_run_config(file, overrides, Registry.discover())[0]


@pytest.mark.parametrize(
    ("use", "free"),
    [
        ("gpt", {"parameters": "10M", "embedding_share": 0.35, "glu": 4.0, "vary": "vocabulary", "layers": 8}),
        ("glm-moe", {"vary": "vocabulary", "layers": 5}),
        ("glm-moe", {"vary": "factor", "layers": 3, "vocabulary": 4000, "share_tolerance": 0.02}),
    ],
)
def test_the_command_prints_the_counts_and_bytes_of_the_composed_model(tmp_path, use, free):
    arguments = [
        "plan",
        "--use",
        use,
        "--parameters=1M",
        "--embedding-share=0.25",
        "--glu=3",
        "--json",
        "--width-multiple=16",
    ]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in free.items()]
    told = json.loads(penstock(*arguments))

    config = load(write(tmp_path, {"use": use, "plan": {**PLAN, **free}}))
    composition = compose_model(config, planned_vocabulary(config), "meta")
    roles, counts = composition.roles(), {}
    for name, parameter in composition.module.named_parameters():
        counts[str(roles[name])] = counts.get(str(roles[name]), 0) + parameter.numel()
    assert told["by_role"] == counts
    assert told["reached"]["parameters"] == pytest.approx(told["requested"]["parameters"], rel=0.005)

    formats = {"weights": "ternary", "embedding": "int8", "head": "int8"}
    ternary = load(write(tmp_path, {"use": use, "plan": {**PLAN, **free}, "quantizer": formats}))
    table = size_table(compose_model(ternary, planned_vocabulary(ternary), "meta"))
    assert told["bytes"]["ternary"] in [row.bytes for row in table]


def test_a_resolved_config_holds_sizes_and_no_plan(tmp_path):
    config = load(write(tmp_path, {"use": "glm-moe", "plan": {**PLAN, **FIXED_DEPTH}}))
    resolved = config.resolved()
    assert resolved["model"]["plan"] is None
    assert resolved["model"]["num_hidden_layers"] == 5
    assert resolved["model"]["vocab_size"] == resolved["data"]["tokenizer"]["vocab_size"] == 2272
    (tmp_path / "config.resolved.yaml").write_text(yaml.safe_dump(resolved))
    assert load(tmp_path / "config.resolved.yaml").resolved() == resolved


def test_a_plan_without_a_shape_is_reported_with_everything_else_that_is_wrong(tmp_path):
    file = write(tmp_path, {"use": "glm-moe", "plan": {**PLAN, "embedding_share": 0.99}})
    with pytest.raises(ProblemError) as raised:
        load(file, "train.tokns=3")
    assert [each.code for each in raised.value.problems] == ["no-shape", "unknown-field"]
    assert "model.plan" in raised.value.problems[0].where


def test_a_size_beside_a_plan_is_refused(tmp_path):
    file = write(tmp_path, {"use": "glm-moe", "hidden_size": 64, "plan": {**PLAN, **FIXED_DEPTH}})
    with pytest.raises(ProblemError, match="plan sets hidden_size"):
        load(file)


def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused(tmp_path):
    config = load(write(tmp_path, {"use": "glm-moe", "plan": {**PLAN, **FIXED_DEPTH}}))
    with pytest.raises(ProblemError, match="of a vocabulary of 2,272") as raised:
        prepare_data(tmp_path / "runs", config, None)
    assert raised.value.problems[0].code == "unfilled-vocabulary"


def test_planning_imports_no_torch(tmp_path):
    file = write(tmp_path, {"use": "glm-moe", "plan": {**PLAN, **FIXED_DEPTH}})
    plan = [f"--{name.replace('_', '-')}={value}" for name, value in {**PLAN, **FIXED_DEPTH}.items()]
    for arguments in (["config", "validate", str(file)], ["plan", *plan]):
        imported = penstock(*arguments, python=["-X", "importtime"], stderr=subprocess.STDOUT)
        assert "penstock.moe_core.plan" in imported
        assert "|torch\n" not in imported.replace(" ", "")
