"""Plugins that were written against an old contract do their work in this release, each in its real place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.cli.main import run
from penstock.hooks import CONTRACTS, KINDS, Registry, Selection
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.discovery import Loaded
from penstock.hooks.problems import ProblemError

FILES = sorted((Path(__file__).parent / "compat").glob("v*/*.py"))
SELECTION = Selection(no_plugins=True, files=tuple(map(str, FILES)))
# Not here: a model is too long to freeze; engines and servers of the first contract are supported no more; objectives,
# launchers, stop rules and sections came later; the others are not part of a run's result.
LEFT_OUT = {
    "architecture",
    "engine",
    "objective",
    "server",
    "launcher",
    "stop-rule",
    "cleaner",
    "observer",
    "section",
    "command",
}

CONFIG = """\
name: compat
data:
  corpus: {use: counted, documents: 120}
  filters: [no-titles]
  tokenizer: {vocab_size: 320}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: glm-moe
  preset: quickstart
  hidden_size: 32
  num_hidden_layers: 3
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 16
  intermediate_size: 32
  moe_intermediate_size: 16
  router: {use: cosine, k: 2}
  balance: [{use: entropy, weight: 0.1}, proportional]
  sharing: [tied-norms]
  quantizer: int8-rows
train:
  tokens: 512
  batch_size: 4
  optimizer: {use: sign-descent, lr: 0.001}
  schedule: square-root
  trackers: [jsonl, csv]
evaluate: {tasks: [accuracy], prompts: ["Sums"], sample_tokens: 4}
simulate: {topology: star, placement: heaviest-first, gpus: [2, 4]}
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover(SELECTION)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compat")
    (folder / "run.yaml").write_text(CONFIG)
    return Path(penstock("train", folder / "run.yaml", "--runs", folder / "runs")["run_dir"])


def penstock(*arguments: object) -> Any:
    return run([*SELECTION.arguments(), *map(str, arguments)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows(run_directory: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_there_is_a_plugin_of_the_oldest_contract_of_every_kind(registry):
    plugins = [plugin for plugin in registry.plugins if plugin.origin.entry_point in SELECTION.files]
    assert all(isinstance(plugin, Loaded) for plugin in plugins), [vars(plugin) for plugin in plugins]
    components = [component for plugin in plugins for component in plugin.components]
    assert {component.kind for component in components} == KINDS.keys() - LEFT_OUT
    assert all(component.contract == CONTRACTS[component.kind].oldest for component in components)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_old_plugin_loads_alone_and_is_built_through_a_registry(file, tmp_path):
    import torch

    registry = Registry.discover(Selection(no_plugins=True, files=(str(file),)))
    [component] = [
        component
        for plugin in registry.plugins
        if isinstance(plugin, Loaded) and plugin.origin.entry_point == str(file)
        for component in plugin.components
    ]
    context = {
        "router": {"hidden_size": 16, "experts": 4},
        "optimizer": {"parameters": {ParameterRole.NORM: {"norm": torch.ones(4, requires_grad=True)}}},
        "tracker": {"run_directory": tmp_path},
    }
    built = registry.build(component.kind, component.name, **context.get(component.kind, {}))
    assert type(built).__module__ == file.stem


def test_the_data_are_those_of_the_old_corpus_and_filter(trained):
    [manifest] = (trained.parent.parent / "data").glob("*/manifest.json")
    splits = read(manifest)["splits"]
    assert sum(split["documents"] for split in splits.values()) == 120  # of 240, half of which are titles


def test_the_model_trains_with_every_old_part(trained):
    locked = {component["name"] for component in read(trained / "plugins.lock.json")["components"]}
    assert {"cosine", "entropy", "proportional", "tied-norms", "int8-rows", "sign-descent", "square-root"} <= locked
    steps = rows(trained)
    assert [row["learning_rate_factor"] for row in steps] == [(1 - (step + 0.5) / 4) ** 0.5 for step in range(4)]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(row["balance/entropy"] >= 0 for row in steps)
    assert [line.split(",")[0] for line in (trained / "metrics.csv").read_text().splitlines()] == list("1234")
    sizes = read(trained / "sizes.json")
    assert sizes[-1]["format"] == "Int8Rows, rest fp32"


def test_the_weights_are_those_of_the_old_router_balancer_and_sharing(trained):
    from penstock.train.restore import restore

    restored = restore(trained, Registry.discover(SELECTION))
    routers = restored.model.routers.values()
    assert {type(router).__name__ for router in routers} == {"CosineRouter"}
    biases = [router.e_score_correction_bias for router in routers]
    assert all(bias is not None and bias.abs().max() > 0 for bias in biases)
    parameters = dict(restored.composition.module.named_parameters(remove_duplicate=False))
    assert parameters["layers.0.input_layernorm.weight"] is parameters["layers.2.input_layernorm.weight"]


@pytest.mark.parametrize(("engine", "optimizer"), [("ddp", "sign-descent"), ("fsdp2", "muon")])
def test_old_parts_train_on_two_ranks_as_in_one_process(engine, optimizer, server, tmp_path):
    from penstock.train.restore import restore

    (tmp_path / "run.yaml").write_text(CONFIG)
    command = ["train", tmp_path / "run.yaml", f"train.optimizer={{use: {optimizer}, lr: 0.001}}"]
    command += ["train.micro_batch_size=2"]
    alone = Path(penstock(*command, "--runs", tmp_path / "alone")["run_dir"])
    on_ranks = [*SELECTION.arguments(), *command, f"train.engine={engine}", "--runs", tmp_path / "ranks"]
    ends = server.run_ranks(*on_ranks, cwd=tmp_path)
    assert [end.status for end in ends] == [0, 0], ends[0].said + ends[1].said
    (ranks,) = tmp_path.glob("ranks/compat/2*")
    models: list[Any] = [restore(run, Registry.discover(SELECTION)).model for run in (alone, ranks)]
    expected, found = (model.state_dict() for model in models)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    assert read(ranks / "sizes.json") == read(alone / "sizes.json")


def test_an_old_optimizer_that_steps_whole_parameters_is_refused_by_an_engine_that_cuts_them(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    with pytest.raises(ProblemError, match="the optimizer 'sign-descent' steps whole ones alone"):
        penstock("config", "validate", tmp_path / "run.yaml", "train.engine=fsdp2")


def test_the_run_is_measured_by_the_old_task(trained):
    figures = penstock("evaluate", trained)["tasks"]["accuracy"]["metrics"]
    assert 0 <= figures["accuracy"] <= 1


def test_the_old_task_is_not_told_of_a_limit(trained):
    with pytest.raises(ProblemError, match="was written against contract 1, which does not support limit"):
        penstock("evaluate", trained, "--limit", 3)


def test_the_network_is_the_old_one_with_the_old_placement(trained):
    penstock("profile", trained)
    result = penstock("simulate", trained)
    assert (result["topology"], result["placement"]) == ("star", "heaviest-first")
    assert all(row["dispatch_seconds"] > 0 for row in result["rows"])


def test_a_packed_file_holds_what_old_parts_compute_with(trained, tmp_path):
    import torch

    from penstock.train.restore import restore

    registry, path = Registry.discover(SELECTION), tmp_path / "model.penstock"
    formats = penstock("export", trained, "--format", "penstock", "--out", path)["sizes"]["formats"]
    assert [each["format"] for each in formats] == ["fp32"]  # the old quantizer has no format of ours
    token_BS = torch.arange(64).view(2, 32)
    run, packed = (restore(each, registry).model for each in (trained, path))
    with torch.no_grad():
        assert torch.equal(run.logits(run(token_BS).hidden_BSD), packed.logits(packed(token_BS).hidden_BSD))
    parameters = cast(torch.nn.Module, packed).get_parameter
    assert parameters("layers.0.input_layernorm.weight") is parameters("layers.2.input_layernorm.weight")


def test_the_model_is_written_by_the_old_exporter(trained, tmp_path):
    result = penstock("export", trained, "--format", "npz", "--out", tmp_path)
    assert set(result["files"]) == {"weights.npz", "config.json", "tokenizer.json"}
