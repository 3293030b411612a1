"""Shared weights from training to the artifact: one tensor in count, optimizer, quantizer and file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from crash import differences, outcome
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.quant158.decoder import Decoder
from penstock.train.restore import restore

Command = Callable[..., Any]
REGISTRY = Registry.discover()
TERNARY = "model.quantizer={weights: {use: ternary, group: row, activations: int8}, embedding: int8, head: int8}"
# Changes of the shared config, one run each, and what the decoder lacks of it.
RUNS: dict[str, tuple[list[str], str | None]] = {
    "all layers one, norms too": (
        ["model.first_k_dense_replace=0", "model.sharing=[tied-embeddings, {use: cross-layer, norms: true}]", TERNARY],
        None,
    ),
    "two distinct, alternating": (
        [
            "model.first_k_dense_replace=0",
            "model.sharing=[{use: attention, pattern: alternate, distinct: 2}, {use: feed-forward, interval: 2}]",
            TERNARY,
        ],
        None,
    ),
    "a factorised embedding": (
        ["model.sharing=[tied-embeddings, {use: factorised-embedding, rank: 8}, attention]", TERNARY],
        "product of two matrices",
    ),
    "parameters of each use": (
        [
            "model.sharing=[{use: cross-layer, per_use: {gains: true, low_rank: 2}}]",
            "model.first_k_dense_replace=0",
            TERNARY,
        ],
        "layer changes",
    ),
    "a vector of each use": (
        [
            "model.sharing=[{use: cross-layer, per_use: {loop_embedding: true, norms: true}}]",
            "model.first_k_dense_replace=0",
            TERNARY,
        ],
        "a vector added",
    ),
    "a learned plan": (
        [
            "model.sharing=[{use: learned-sharing, budget: 2, temperature: {until: 0.5}}]",
            "model.first_k_dense_replace=0",
            TERNARY,
        ],
        None,
    ),
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request: pytest.FixtureRequest, workplace: Path, config_file: Path) -> tuple[str, Path, Path]:
    """A trained run, and its artifact."""
    name = f"sharing-{list(RUNS).index(request.param)}"
    overrides = [f"name={name}", *RUNS[request.param][0]]
    arguments = ["train", str(config_file), *overrides, "--runs", str(workplace / "sharing"), "--json"]
    run = Path(run_command(arguments)["run_dir"])
    path = workplace / "sharing" / f"{name}.penstock"
    run_command(["export", str(run), "--format", "penstock", "--out", str(path), "--json"])
    return request.param, run, path


def tokens(model: Any) -> Tensor:
    return torch.arange(3 * 32).view(3, 32) % model.vocabulary_size


@torch.no_grad()
def logits_of(path: Path) -> Tensor:
    model: Any = restore(path, REGISTRY).model
    return model.logits(model(tokens(model)).hidden_BSD)


def test_an_artifact_computes_what_the_run_does(exported: tuple[str, Path, Path]) -> None:
    _, run, path = exported
    assert torch.equal(logits_of(run), logits_of(path))


def test_what_is_one_parameter_is_stored_once_and_restored_as_one_object(exported: tuple[str, Path, Path]) -> None:
    _, run, path = exported
    of_run, of_artifact = restore(run, REGISTRY).composition, restore(path, REGISTRY).composition
    groups = of_run.stored_plan.groups
    assert groups
    artifact = Artifact.open(path)
    for composition in (of_run, of_artifact):
        modules = composition.module
        for first, *others in named_groups(of_run.module):
            assert all(modules.get_parameter(name) is modules.get_parameter(first) for name in others)
            assert all(alias_of(artifact, name) == first for name in others)
    assert sum(each.numel() for each in of_artifact.module.parameters()) == parameters_of(run)


def named_groups(module: torch.nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def alias_of(artifact: Artifact, name: str) -> str:
    aliases = {tensor.partition(":")[0]: one.partition(":")[0] for tensor, one in artifact.header.aliases.items()}
    return aliases[name]


def parameters_of(run: Path) -> int:
    return json.loads((run / "status.json").read_text())["parameters"]["total"]


def test_a_text_is_the_same_from_the_run_and_the_artifact_whatever_decodes_it(
    exported: tuple[str, Path, Path], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run, path = exported
    of_run, of_artifact = load(run), load(path)
    lacks = RUNS[name][1]
    assert isinstance(of_artifact.model, Decoder) == (lacks is None)
    for sampling in ({"temperature": 0.0}, {"seed": 3}, {"temperature": 1.5, "top_p": 0.6}):
        texts = {model.generate("def ", tokens=12, **sampling) for model in (of_run, of_artifact)}
        assert len(texts) == 1, sampling
    capsys.readouterr()
    command("generate", path, "--prompt", "def ", "--tokens", 4)
    assert (lacks or "tokens/s") in capsys.readouterr().err


@pytest.fixture(scope="module")
def deep(workplace: Path, config_file: Path) -> Path:
    """A run in full precision of a model that transformers has, with everything shared that its layout cannot say."""
    sharing = (
        "[tied-embeddings, {use: factorised-embedding, rank: 8}, {use: feed-forward, interval: 2}, "
        "{use: attention, per_use: {gains: true, low_rank: 2}}]"
    )
    overrides = [f"model.sharing={sharing}", "model.first_k_dense_replace=0", "name=deep"]
    arguments = ["train", str(config_file), *overrides, "--runs", str(workplace / "sharing"), "--json"]
    return Path(run_command(arguments)["run_dir"])


def test_transformers_computes_the_same_with_all_written_out(deep: Path, command: Command, tmp_path: Path) -> None:
    command("export", deep, "--out", tmp_path / "hf", "--format", "{use: hf, dtype: float32}")
    model: Any = restore(deep, REGISTRY).model
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        expected, found = model.logits(model(tokens(model)).hidden_BSD), exported(tokens(model)).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_size_table_says_what_writing_everything_out_costs(deep: Path, command: Command, tmp_path: Path) -> None:
    command("export", deep, "--out", tmp_path / "hf", "--format", "{use: hf, dtype: float32}")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    sizes = {row["format"]: row["bytes"] for row in json.loads((deep / "sizes.json").read_text())}
    written_out = sum(4 * tensor.numel() for tensor in tensors.values())
    assert sizes["fp32 for transformers, shared tensors repeated and factors multiplied"] == written_out
    assert written_out > 1.2 * sizes["fp32"]


def test_a_vector_of_each_use_is_refused_by_layouts_without_it(
    workplace: Path, config_file: Path, command: Command, tmp_path: Path
) -> None:
    own = "model.sharing=[{use: attention, per_use: {loop_embedding: true}}]"
    run = command("train", config_file, own, "train.tokens=128", "--runs", tmp_path)["run_dir"]
    assert json.loads(next(Path(run).glob("checkpoints/*/config.json")).read_text())["model_type"] == "penstock_glm_moe"
    with pytest.raises(ProblemError, match="no transformers class has a vector added to the input of a block"):
        command("export", run, "--out", tmp_path / "hf")


def test_a_run_that_was_interrupted_anywhere_resumes_bit_equal(
    workplace: Path, config_file: Path, command: Command, tmp_path: Path
) -> None:
    """Steps 5 and 10 have checkpoints; an assignment that is learned until 0.6 of 12 steps is soft at the first."""
    learned = "model.sharing=[{use: learned-sharing, budget: 1, temperature: {until: 0.6}}, tied-embeddings]"
    arguments = ["train", config_file, learned, "model.first_k_dense_replace=0", TERNARY, "--runs", tmp_path]
    run = Path(command(*arguments)["run_dir"])
    expected = outcome(run)
    for kept in ("step-00000010", "step-00000005"):
        for name in sorted(path.name for path in (run / "checkpoints").glob("step-*")):
            if name > kept:
                shutil.rmtree(run / "checkpoints" / name)
        command(*arguments, "--resume", run)
        assert differences(outcome(run), expected) == []
