"""What a config must satisfy beyond its schemas is found without torch, all at once, each at its own line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from penstock.cli.main import root, run
from penstock.hooks.component import Component
from penstock.hooks.discovery import Loaded, Origin, discover
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.hooks.schema import schema_of
from penstock.run.checks import export_notes
from penstock.run.config import load_run_config

CONFIG = """\
name: checked
data: {corpus: python-stdlib, tokenizer: {vocab_size: 320}, sequence_length: 32}
model:
  use: glm-moe
  preset: quickstart
  router: {use: sigmoid-topk, k: 2}
  balance: [loss-free]
train: {tokens: 1024}
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def problems(config: Path, registry: Registry, *overrides: str) -> list[str]:
    try:
        load_run_config(config, overrides, registry)
    except ProblemError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model={use: hf, model_type: bert, task: masked}"],
            [
                "train.objective: 'next-token' trains models that predict the next token, but 'hf' predicts hidden "
                "tokens from both sides, use an objective for it, such as masked-lm, or a model that predicts"
            ],
        ),
        (
            ["model={use: bert, preset: small}", "train.objective=masked-lm", "evaluate.tasks=[heldout, wikitext2]"],
            [
                "evaluate.tasks.1: the model 'bert' predicts hidden tokens from both sides; the task 'wikitext2' needs "
                "the next token"
            ],
        ),
        (
            ["model={use: hf, model_type: t5, task: seq2seq}"],
            ["model.task: no objective trains a model that predicts one text from another"],
        ),
        (["model.router=random"], ["model.router: the router 'random' has no selection bias for 'loss-free' to set"]),
        (
            ["model.overrides=[{match: layers.1.mlp, router: random}]"],
            ["model.overrides.0.router: the router 'random' has no selection bias for 'loss-free'"],
        ),
        (["model.router=random", "model.balance=[z-loss]"], []),
        (
            ["model.balance=[loss-free, z-loss, quantile]"],
            ["model.balance.2: 'loss-free' sets the selection bias of the routers already, and 'quantile' would too"],
        ),
        (
            ["model.router={use: sigmoid-topk, groups: 8}"],
            ["model.router.groups: 8 groups of 8 experts are of one each"],
        ),
        (
            ["model.router={use: sigmoid-topk, k: 3, groups: 4, groups_kept: 1}"],
            ["model.router.groups_kept: groups_kept = 1 leaves 2 experts to choose from, but k is 3"],
        ),
        (
            ["model.overrides=[{match: layers.1.mlp, router: {use: sigmoid-topk, k: 9}}]"],
            ["model.overrides.0.router.k: the router chooses k = 9 experts per token, but a layer has 8"],
        ),
        (
            ["model.experts_backend=grouped", "model.moe_intermediate_size=20", "train.dtype=bf16"],
            ["model.moe_intermediate_size: is 20, but experts_backend = grouped needs a multiple of 8 in bf16"],
        ),
        (["model.experts_backend=grouped", "model.moe_intermediate_size=20"], []),
        (["train.engine=fsdp2"], []),
        (
            ["train.engine=fsdp2", "model.sharing=[tied-embeddings, {use: learned-sharing, budget: 1}]"],
            [
                "model.sharing.1: the engine 'fsdp2' cuts parameters over ranks, and 'learned-sharing' makes some of "
                "them one while training goes on, use train.engine=ddp"
            ],
        ),
        (["train.device=meta"], ["train.device: no type of device to train on: use one of auto, cpu, cuda"]),
        (["train.device=cuda:x"], ["train.device: write the number of the device after the colon"]),
        (["train.device=cuda:1"], []),
        (
            ["model.head_dim=31", "model.num_key_value_heads=3", "model.first_k_dense_replace=9"],
            ["model.head_dim: ", "model.num_attention_heads: ", "model.first_k_dense_replace: "],
        ),
        (
            ["model.router=random", "model.max_position_embeddings=16"],
            ["data.sequence_length: ", "model.router: "],
        ),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_built(config, registry, overrides, said):
    found = problems(config, registry, *overrides)
    assert len(found) == len(said), found
    assert all(part in "\n".join(found) for part in said), found


@pytest.mark.parametrize(("engine", "refused"), [("ddp", False), ("fsdp2", True)])
def test_an_optimizer_that_steps_whole_parameters_alone_gets_no_cut_ones(config, engine, refused):
    component = Component("optimizer", "plain", "plain:Plain", "Steps whole parameters")
    registry = Registry([*discover(), Loaded(Origin("acme", "1", "acme"), (component,))])
    found = problems(config, registry, f"train.engine={engine}", "train.optimizer=plain")
    said = "train.optimizer: the engine 'fsdp2' cuts parameters over ranks, and the optimizer 'plain' steps whole ones"
    assert [said in each for each in found] == [True] * refused


def test_what_the_export_cannot_write_is_a_note_and_no_problem(config, registry):
    checked, _ = load_run_config(config, ["model.router=cluster", "model.balance=[]"], registry)
    assert any("cannot be exported to transformers" in note for note in export_notes(checked))
    assert export_notes(load_run_config(config, [], registry)[0]) == []


@pytest.mark.parametrize(("tokens", "ends"), [(400, True), (401, False)])
def test_a_warmup_that_outlasts_training_is_a_note(config, registry, tokens, ends):
    storage = f"model.quantizer={{weights: {{use: ternary, warmup: {{tokens: {tokens}}}}}, head: int8}}"
    checked, _ = load_run_config(config, [storage, "train.tokens=400"], registry)
    found = [note for note in export_notes(checked) if "--format penstock" in note]
    assert len(found) == (not ends)
    assert ends or "model.quantizer.weights.warmup: weights reach their format after 401 tokens" in found[0]


def test_torch_is_not_needed(config):
    code = """import sys
from pathlib import Path
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
load_run_config(Path(sys.argv[1]), [], Registry.discover())
sys.exit("torch" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code, config]).returncode == 0


DENSE = ["model.first_k_dense_replace=3", "model.balance=[]", "model.router=null"]


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("ternary", None),
        ("{use: ternary, roles: [expert]}", "model.quantizer: 'ternary' finds no parameter of its role"),
        ("{matrix: ternary, expert: int8}", "model.quantizer.expert: 'int8' finds no parameter of its role"),
        ("{weights: ternary, head: int8, embedding: int4}", None),
    ],
)
def test_a_quantizer_that_finds_no_parameter_is_refused(config: Path, registry: Registry, storage: str, said: str):
    quantizer = f"model.quantizer={storage}"
    assert problems(config, registry, quantizer) == []
    found = problems(config, registry, quantizer, *DENSE)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize("tie", ["model.sharing=[tied-embeddings]", "model.tie_word_embeddings=true"])
@pytest.mark.parametrize(
    ("storage", "where"),
    [
        ("{weights: ternary, embedding: int8}", "model.quantizer.embedding"),
        ("{head: fp16}", "model.quantizer.head"),
        ("{embedding: int8, head: int4}", "model.quantizer.embedding"),
        ("{embedding: int8, head: {use: int8, activations: int8}}", "model.quantizer.embedding"),
        ("{use: bf16, roles: [matrix, head]}", "model.quantizer"),
        ("{weights: ternary, embedding: int8, head: int8}", None),
        ("{weights: ternary}", None),
        ("bf16", None),
        ("null", None),
    ],
)
def test_one_tensor_has_one_format(config: Path, registry: Registry, tie: str, storage: str, where: str | None):
    found = problems(config, registry, tie, f"model.quantizer={storage}")
    assert len(found) == (where is not None)
    assert where is None or f"{where}: embedding and head are one tensor ({tie.split('=')[0]}" in found[0]
    assert problems(config, registry, f"model.quantizer={storage}") == []


def test_the_head_of_a_task_is_no_embedding(config: Path, registry: Registry):
    bert = ["model={use: bert, preset: small, quantizer: {embedding: int8}, head: {task: %s}}", "train.objective=%s"]
    paths = "paths: [a.tsv], heldout: [b.tsv]"
    masked = [bert[0] % "masked-lm", bert[1] % "masked-lm"]
    assert any("one tensor (model.tie_word_embeddings)" in each for each in problems(config, registry, *masked))
    classified = [bert[0] % "classification, labels: 2", bert[1] % f"{{use: classification, {paths}}}"]
    assert problems(config, registry, *classified) == []


def test_a_frozen_base_is_said_to_be_no_artifact(registry: Registry):
    path = Path(__file__).parents[1] / "configs" / "frozen-base.yaml"
    notes = export_notes(load_run_config(path, [], registry)[0])
    assert any("--format penstock: model.base: the model learns beside a frozen base" in note for note in notes)
    plain = Path(__file__).parents[1] / "configs" / "ternary.yaml"
    assert export_notes(load_run_config(plain, [], registry)[0]) != notes


def test_an_unknown_role_is_one_problem(config: Path, registry: Registry):
    (found,) = problems(config, registry, "model.quantizer={router: ternary}")
    assert "model.quantizer.router: unknown field" in found


def penstock(*arguments):
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


MISSING = ["evaluate.tasks=[heldout, {use: text, paths: [gone.txt]}, {use: lambada, path: gone.jsonl}]"]


def test_a_file_that_the_machine_does_not_have_is_a_note_of_validate(config, monkeypatch):
    monkeypatch.chdir(config.parent)
    result = penstock("config", "validate", config, *MISSING)
    assert result.exit_code == 0, result.stderr
    assert "evaluate.tasks.1.paths.0: file or folder not found: gone.txt" in result.stderr
    assert "evaluate.tasks.2.path: file or folder not found: gone.jsonl" in result.stderr
    (config.parent / "gone.txt").write_text("found")
    (config.parent / "gone.jsonl").write_text('{"text": "found"}')
    assert "not found" not in penstock("config", "validate", config, *MISSING).stderr


def test_a_dry_run_refuses_files_that_are_missing_with_all_else_that_stops_the_run(config, monkeypatch):
    monkeypatch.chdir(config.parent)
    overrides = [*MISSING, "data.corpus={use: text, paths: [gone-too]}", "data.tokenizer={file: gone.json}"]
    with pytest.raises(ProblemError) as refused:
        run(["train", str(config), "--dry-run", *overrides])
    found = [str(problem) for problem in refused.value.problems]
    assert len(found) == 4, found
    assert "gone.json: the tokenizer cannot be read" in found[0]
    assert "gone-too" in found[1]
    assert "evaluate.tasks.1.paths.0: file or folder not found: gone.txt" in found[2]
    assert "evaluate.tasks.2.path: file or folder not found: gone.jsonl" in found[3]


def test_every_setting_that_is_a_path_says_whether_it_is_read(registry):
    """A setting of a plain `Path` that is read would be found missing hours later."""
    plain = {f"{schema.__module__}.{schema.__name__}.{name}" for schema, name in _fields_of(Path, registry)}
    assert plain == set()


def _fields_of(kind, registry):
    for entry in registry.entries():
        schema = schema_of(entry)
        for name, field in schema.model_fields.items():
            marks = repr((field.annotation, field.metadata))
            if _holds(field.annotation, kind) and "Input." not in marks and "Output." not in marks:
                yield schema, name


def _holds(annotation, kind):
    return annotation is kind or any(_holds(part, kind) for part in get_args(annotation))


def test_fields_schemas_and_checks_are_all_said_at_once(config, registry):
    overrides = ["seed=-1", "train.batch_size=6", "train.micro_batch_size=4", "train.tokens=many"]
    overrides += ["model.router=random", "data.sequence_length=2048", "model.num_key_value_heads=3"]
    found = "\n".join(problems(config, registry, *overrides))
    for part in ("seed: ", "train.tokens: ", "train.micro_batch_size: ", "model.num_attention_heads: "):
        assert part in found
    assert "model.router: the router 'random' has no selection bias" in found
    assert "data.sequence_length: sequences have 2048 tokens, but the model reads at most 1024" in found


@pytest.mark.parametrize(
    ("override", "silent"),
    [
        ("model.num_attention_heads=x", "num_key_value_heads"),
        ("data.sequence_length=x", "positions"),
        ("model.router=nonsense", "selection bias"),
        ("train.micro_batch_size=x", "multiple"),
    ],
)
def test_what_rests_on_a_refused_value_is_not_guessed(config, registry, override, silent):
    found = problems(config, registry, override, "model.first_k_dense_replace=0", "seed=-1")
    assert len(found) == 2, found
    assert silent not in "\n".join(found)
