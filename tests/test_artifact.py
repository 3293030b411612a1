"""An artifact is exactly the trained model: the same logits, the same figures, the same text, to the bit."""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact, Content, write_artifact
from penstock.train.compose import stored_tensors
from penstock.train.restore import restore, restore_run

Command = Callable[..., Any]

REGISTRY = Registry.discover()
# Changes of the shared config, one run each: dense and mixture, tied and untied, with and without added parameters.
RUNS: dict[str, list[str]] = {
    "mixture, tied, groups of 64": [
        "model.quantizer={weights: {use: ternary, group: 64}, embedding: int8, head: int8}",
        "model.sharing=[tied-embeddings]",
    ],
    "dense, untied, a scale a tensor": [
        "model.first_k_dense_replace=3",
        "model.balance=[]",
        "model.sharing=[]",
        "model.quantizer={matrix: ternary, embedding: int8, head: int4}",
    ],
    "mixture, tied by the model, scales of rows, shared with gains": [
        "model.tie_word_embeddings=true",
        "model.sharing=[{use: tied-gains, match: ['*q_proj*', '*experts.down_proj']}]",
        "model.quantizer={use: ternary, group: row}",
    ],
    "mixture, int8 activations, learned thresholds, norms before projections, warmed up": [
        "model.sub_norm=true",
        "model.quantizer={matrix: {use: ternary-learned, activations: int8}, expert: {use: ternary, group: 128, "
        "activations: int8, warmup: {tokens: 640}}, embedding: fp16, head: {use: int8, activations: int8}}",
        "model.sharing=[]",
    ],
    "full precision in bf16": ["model.quantizer=null", "train.dtype=bf16"],
    "every matrix in 16 bits": ["model.quantizer={weights: bf16, embedding: fp16, head: fp16}"],
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request: pytest.FixtureRequest, workplace: Path, config_file: Path) -> tuple[Path, Path]:
    """A trained run, and its artifact in another folder."""
    name = f"artifact-{list(RUNS).index(request.param)}"
    overrides = [f"name={name}", *RUNS[request.param]]
    run = Path(
        run_command(["train", str(config_file), *overrides, "--runs", str(workplace / "art"), "--json"])["run_dir"]
    )
    path = workplace / "art" / f"{name}.penstock"
    run_command(["export", str(run), "--format", "penstock", "--out", str(path), "--json"])
    return run, path


def logits_of(path: Path) -> tuple[Tensor, float]:
    """Logits of fixed tokens, and their loss."""
    model: Any = restore(path, REGISTRY).model
    token_BS = torch.arange(3 * 32).view(3, 32) % model.vocabulary_size
    with torch.no_grad():
        return model.logits(model(token_BS).hidden_BSD), model.next_token_loss(token_BS, token_BS).loss.item()


def test_logits_and_loss_are_those_of_the_run(exported: tuple[Path, Path]) -> None:
    (of_run, loss_of_run), (of_artifact, loss_of_artifact) = map(logits_of, exported)
    assert torch.equal(of_run, of_artifact)
    assert loss_of_run == loss_of_artifact


def test_figures_samples_and_texts_are_those_of_the_run(exported: tuple[Path, Path], command: Command) -> None:
    run, path = exported
    before = sorted(path.parent.iterdir())
    of_run, of_artifact = command("evaluate", run, "--json"), command("evaluate", path, "--json")
    for same in ("checkpoint", "heldout_bits_per_byte", "baselines", "samples", "heldout_text"):
        assert of_run[same] == of_artifact[same]
    assert of_run["tasks"]["heldout"]["metrics"] == of_artifact["tasks"]["heldout"]["metrics"]
    texts = [load(each).generate("def ", tokens=12, seed=3) for each in (run, path)]
    assert texts[0] == texts[1]
    assert sorted(path.parent.iterdir()) == before


def test_every_byte_is_listed_once(exported: tuple[Path, Path], command: Command, tmp_path: Path) -> None:
    run, path = exported
    result = command("export", run, "--format", "penstock", "--out", tmp_path / "again.penstock", "--json")
    sizes = result["sizes"]
    listed = sum(each["codes"] + each["scales"] for each in sizes["formats"]) + sum(sizes["files"].values())
    assert listed + sizes["header"] + sizes["hashes"] + sizes["padding"] == result["bytes"] == path.stat().st_size
    assert (tmp_path / "again.penstock").read_bytes() == path.read_bytes()


def test_an_entropy_coded_file_is_the_same_model_in_fewer_bytes(
    exported: tuple[Path, Path], command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = exported
    small = tmp_path / "small.penstock"
    command("export", run, "--format", "penstock", "--compress", "lzma", "--out", small)
    assert re.search(r"lzma saves [\d,]+ bytes, \d+\.\d\d% of the weights", capsys.readouterr().out)
    assert small.stat().st_size < path.stat().st_size
    assert torch.equal(logits_of(small)[0], logits_of(path)[0])
    texts = [load(each).generate("def ", tokens=12, seed=3) for each in (small, path)]
    assert texts[0] == texts[1]


def test_stored_weights_are_those_of_the_forward_pass(exported: tuple[Path, Path]) -> None:
    run, path = exported
    model: Any = restore(run, REGISTRY).model
    artifact = Artifact.open(path)
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, site in model.weight_sites().items():
            parts = site.layout.matrices(site.effective())
            for matrix, weight in parts.items():
                stored = artifact.weight(name if len(parts) == 1 else f"{name}:{matrix}")
                assert np.array_equal(stored, weight.numpy())
    for name, buffer in buffers.items():
        if name.endswith("e_score_correction_bias"):
            assert np.array_equal(artifact.weight(name), buffer.numpy())


# ---------------------------------------------------------------------------------------------- one run for the rest


@pytest.fixture(scope="module")
def ternary(workplace: Path, config_file: Path) -> Path:
    """A run with groups of 128 and tied embeddings; its width is divided by 128."""
    overrides = ["name=wide", "model.hidden_size=128", "model.intermediate_size=128", "model.moe_intermediate_size=128"]
    overrides += [
        "model.quantizer={weights: {use: ternary, group: 128}, embedding: int8, head: int8}",
        "train.tokens=256",
    ]
    arguments = ["train", str(config_file), *overrides, "--runs", str(workplace / "wide-runs"), "--json"]
    return Path(run_command(arguments)["run_dir"])


@pytest.fixture(scope="module")
def artifact(ternary: Path) -> Path:
    return Path(run_command(["export", str(ternary), "--format", "penstock", "--json"])["artifact"])


def test_at_most_1_73_bits_a_ternary_weight(ternary: Path, artifact: Path, command: Command, capsys: Any) -> None:
    assert artifact == ternary / "model.penstock"
    capsys.readouterr()
    sizes = command("export", ternary, "--format", "penstock")["sizes"]
    said = capsys.readouterr().out
    assert sizes["bits_per_ternary_weight"] <= 1.73
    assert "bits a ternary weight, codes and scales" in said
    assert all(word in said for word in ("ternary-base3-g128", "int8-rows", "fp32", "tokenizer.json", "hashes"))


def test_tensors_are_stored_as_the_plan_says(ternary: Path, artifact: Path) -> None:
    planned = stored_tensors(restore_run(ternary, REGISTRY).composition)
    header = Artifact.open(artifact).header
    of_plan = {each.name: (each.format, each.shape, each.bytes) for each in planned}
    found = {name: (tensor.format, tensor.shape, tensor.bytes) for name, tensor in header.tensors.items()}
    biases = {name for name in found if name.endswith("e_score_correction_bias")}  # buffers, of which no plan speaks
    assert of_plan == {name: each for name, each in found.items() if name not in biases}
    assert len(biases) == 2


def test_shared_tensors_are_stored_once(artifact: Path) -> None:
    header = Artifact.open(artifact).header
    assert header.aliases == {"lm_head.weight": "embed_tokens.weight"}
    names = {name.partition(":")[0] for name in header.tensors}
    restored: Any = restore(artifact, REGISTRY).model
    assert names | {"lm_head.weight"} == set(restored.state_dict())
    assert restored.lm_head.weight is restored.embed_tokens.weight


def test_the_artifact_says_what_it_was_made_from(ternary: Path, artifact: Path) -> None:
    header = Artifact.open(artifact).header
    restored = restore_run(ternary, REGISTRY)
    assert header.run == json.loads(json.dumps(restored.config.resolved()))
    assert (header.checkpoint.step, header.checkpoint.tokens) == (2, 256)
    assert header.architecture.endswith(":glm-moe")
    assert header.decoder
    assert set(header.files) == {"tokenizer.json", "plugins.lock.json", "data.json"}


def test_a_copied_artifact_works_without_its_data_and_says_where_that_was_searched(
    artifact: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "a" / "b" / "c" / "d" / "model.penstock"
    copy.parent.mkdir(parents=True)
    opened = Artifact.open(artifact)
    data = json.loads(opened.file("data.json"))
    shutil.copytree(data["folder"], copy.parent / "data" / "text")
    without_folder = {"data.json": json.dumps({**data, "folder": "/nowhere"}).encode()}
    rewrite(opened, copy, files={"tokenizer.json": opened.file("tokenizer.json"), **without_folder})
    monkeypatch.chdir(tmp_path)
    figures = command("evaluate", copy, "--json")["heldout_bits_per_byte"]
    assert figures > 0
    assert command("profile", copy, "--json")["tokens"] > 0
    shutil.rmtree(copy.parent / "data")
    assert command("generate", copy, "--prompt", "def ", "--tokens", 3, "--json")["new_tokens"] == 3
    with pytest.raises(ProblemError, match="the data of the artifact's run was not found") as caught:
        command("evaluate", copy)
    assert str(copy.parent / "data") in str(caught.value)


def rewrite(artifact: Artifact, path: Path, **changes: Any) -> Path:
    """The artifact again with changes, and hashes that fit."""
    header = artifact.header
    tensors = changes.pop("tensors", header.tensors)
    contents = [
        Content(name, tensor.format, tensor.shape, lambda name=name: artifact.arrays(name))
        for name, tensor in tensors.items()
    ]
    given = {
        "penstock": header.penstock,
        "run": header.run,
        "checkpoint": header.checkpoint,
        "architecture": header.architecture,
        "decoder": header.decoder,
        "aliases": header.aliases,
        "files": {name: artifact.file(name) for name in header.files},
    }
    write_artifact(path, contents, **(given | changes))
    return path


def test_an_artifact_of_an_architecture_that_is_not_installed_is_refused_by_name(
    artifact: Path, tmp_path: Path
) -> None:
    opened = Artifact.open(artifact)
    run = {**opened.header.run, "model": {**opened.header.run["model"], "use": "glm-moe-2"}}
    path = rewrite(opened, tmp_path / "other.penstock", run=run)
    with pytest.raises(ProblemError, match=r"other\.penstock: run.*unknown architecture 'glm-moe-2'"):
        restore(path, REGISTRY)


def test_an_artifact_whose_tensors_are_not_its_models_is_refused_with_all_of_them(
    artifact: Path, tmp_path: Path
) -> None:
    opened = Artifact.open(artifact)
    model = {**opened.header.run["model"], "num_hidden_layers": 2, "intermediate_size": 256}
    path = rewrite(opened, tmp_path / "other.penstock", run={**opened.header.run, "model": model})
    with pytest.raises(ProblemError) as caught:
        restore(path, REGISTRY)
    said = str(caught.value)
    assert "tensor 'layers.2.self_attn.q_proj.weight' is not one of the model of" in said
    assert "'layers.0.mlp.gate_proj.weight' has shape [128, 128], but the model of its config needs [256, 128]" in said
    fewer = {name: tensor for name, tensor in opened.header.tensors.items() if name != "norm.weight"}
    path = rewrite(opened, tmp_path / "fewer.penstock", tensors=fewer)
    with pytest.raises(ProblemError, match=r"has a tensor 'norm\.weight' that the artifact lacks"):
        restore(path, REGISTRY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 2**31 - 4}, "the model of its config is larger than its"),
        ({"n_routed_experts": 10**8}, "the model of its config is larger than its"),
        ({"num_hidden_layers": 9999}, "the model of its config is larger than its"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: input should be less than or equal to 10000"),
    ],
)
def test_a_config_larger_than_the_file_is_refused_before_its_memory_is_taken(
    artifact: Path, tmp_path: Path, changes: dict[str, int], said: str
) -> None:
    opened = Artifact.open(artifact)
    model = {**opened.header.run["model"], **changes}
    path = rewrite(opened, tmp_path / "huge.penstock", run={**opened.header.run, "model": model})
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProblemError, match=said):
        restore(path, REGISTRY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.monotonic() - began < 10


LOADED = """
import sys
from pathlib import Path
from penstock.hooks.registry import Registry
from penstock.train.restore import restore
restore(Path(sys.argv[1]), Registry.discover())
sys.exit("sympy" in sys.modules)
"""


def test_an_artifact_is_loaded_without_the_compiler_of_torch(artifact: Path) -> None:
    """Its import takes as long as everything else."""
    assert subprocess.run([sys.executable, "-c", LOADED, artifact], timeout=300).returncode == 0


@pytest.mark.parametrize("lock", [{}, {"components": []}])
def test_a_lock_that_names_nothing_is_no_change(artifact: Path, tmp_path: Path, lock: Any, caplog: Any) -> None:
    opened = Artifact.open(artifact)
    files = {"tokenizer.json": opened.file("tokenizer.json"), "plugins.lock.json": json.dumps(lock).encode()}
    restore(rewrite(opened, tmp_path / "without.penstock", files=files), REGISTRY)
    assert caplog.text == ""
    files["plugins.lock.json"] = json.dumps({"components": [{}]}).encode()
    with pytest.raises(ProblemError, match=r"plugins\.lock\.json: components\.0\.kind: Field required"):
        restore(rewrite(opened, tmp_path / "nameless.penstock", files=files), REGISTRY)


def test_changed_code_of_a_component_is_said(artifact: Path, tmp_path: Path, caplog: Any) -> None:
    opened = Artifact.open(artifact)
    lock = json.loads(opened.file("plugins.lock.json"))
    for component in lock["components"]:
        component["hash"] = "0" * 64
    files = {"tokenizer.json": opened.file("tokenizer.json"), "plugins.lock.json": json.dumps(lock).encode()}
    restore(rewrite(opened, tmp_path / "older.penstock", files=files), REGISTRY)
    assert "is not the code of the run (files changed: hash was 000000000000" in caplog.text
    caplog.clear()
    restore(artifact, REGISTRY)
    assert caplog.text == ""


def test_a_damaged_artifact_is_refused_by_every_command(artifact: Path, command: Command, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.penstock").write_bytes(data)
    for words in (("evaluate",), ("generate", "--prompt", "x"), ("profile",)):
        with pytest.raises(ProblemError, match=r"bad\.penstock: .* its SHA-256 is not the one in the header"):
            command(words[0], tmp_path / "bad.penstock", *words[1:])
    (tmp_path / "bad.penstock").write_bytes(b"GGUF")
    for words in (("evaluate",), ("generate", "--prompt", "x"), ("profile",)):
        with pytest.raises(ProblemError, match=r"bad\.penstock: not an artifact of Penstock"):
            command(words[0], tmp_path / "bad.penstock", *words[1:])
        with pytest.raises(ProblemError, match=r"none\.penstock: the artifact cannot be read \(No such file"):
            command(words[0], tmp_path / "none.penstock", *words[1:])


@pytest.mark.parametrize("name", ["layers.1.mlp.experts.gate_up_proj", "norm.weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(
    name: str, value: float, ternary: Path, tmp_path: Path
) -> None:
    from penstock.quant158.exporter import ArtifactExporter
    from penstock.train.restore import trained_model

    restored = restore_run(ternary, REGISTRY)
    with torch.no_grad():
        dict(restored.composition.module.named_parameters())[name].view(-1)[-1] = value
    with pytest.raises(ProblemError, match=f"'{name}.*' has NaN or infinite values"):
        ArtifactExporter().export(trained_model(restored), tmp_path / "model.penstock")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_still_warms_up_is_refused_and_nothing_is_written(
    config_file: Path, command: Command, tmp_path: Path
) -> None:
    quantizer = "model.quantizer={use: ternary, warmup: {tokens: 100000}}"
    run = command("train", config_file, "name=warm", quantizer, "train.tokens=128", "--runs", tmp_path, "--json")
    out = tmp_path / "out" / "model.penstock"
    out.parent.mkdir()
    with pytest.raises(ProblemError, match="warm") as caught:
        command("export", run["run_dir"], "--format", "penstock", "--out", out)
    assert [problem.code for problem in caught.value.problems] == ["not-trained"]
    assert list(out.parent.iterdir()) == []


def test_a_place_that_is_not_an_artifacts_is_refused(ternary: Path, command: Command, tmp_path: Path) -> None:
    notes = tmp_path / "notes.penstock"
    notes.write_text("years of work")
    with pytest.raises(ProblemError, match="the file is no artifact, so it is not replaced"):
        command("export", ternary, "--format", "penstock", "--out", notes)
    assert notes.read_text() == "years of work"
    (tmp_path / "folder.penstock").mkdir()
    with pytest.raises(ProblemError, match="the folder is no artifact, so it is not replaced"):
        command("export", ternary, "--format", "penstock", "--out", tmp_path / "folder.penstock")
    with pytest.raises(ProblemError, match=r"'model' does not end in \.penstock"):
        command("export", ternary, "--format", "penstock", "--out", tmp_path / "model")
