"""`penstock compress`: every row a file, measured; nothing made twice; and the page of one ledger or several."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from penstock.cli.main import run as run_command
from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.quant158.artifact import Artifact
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.records.compression import Compression
from penstock.train.scoring import task_scores

PLAN = """\
name: small
steps:
  - name: bf16
    train: false
    model: {quantizer: {weights: bf16, embedding: bf16, head: bf16}}
  - name: tied ternary
    model:
      sharing: [{use: tied-embeddings}]
      quantizer: {weights: {use: ternary, group: 64}}
"""
SEEDS = 3


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def ledger(trained: Path, plan: Path) -> dict[str, Any]:
    """What the command printed; nothing in its folders is written to."""
    return compress(trained, plan)


def compress(run: Path, plan: Path, *options: str, seeds: int = SEEDS) -> dict[str, Any]:
    return run_command(["compress", str(run), "--plan", str(plan), "--seeds", str(seeds), *options, "--json"])


def rows(ledger: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in ledger["rows"]}


def test_bytes_are_those_on_disk_and_each_is_counted_once(ledger):
    record = Compression.from_json(ledger)
    folder = Path(ledger["folder"])
    assert len(record.files) == 3 * SEEDS
    for file in record.files:
        assert file.bytes.file == (folder / file.path).stat().st_size
        assert file.bytes.tokenizer == len(Artifact.open(folder / file.path).file("tokenizer.json"))
    for row in record.rows:
        assert row.bytes.file == max(file.bytes.file for file in record.files if file.row == row.name)
    assert [sorted(row.bytes.codes) for row in record.rows] == [
        ["fp32"],
        ["bf16", "fp32"],
        ["bf16", "fp32", "ternary-base3-g64"],
    ]


def test_a_shared_tensor_is_counted_once_in_parameters_and_bytes(ledger):
    fp32, tied = rows(ledger)["fp32"], rows(ledger)["tied ternary"]
    embedding = Artifact.open(Path(ledger["folder"]) / "fp32" / "seed-0.penstock").tensor("embed_tokens.weight")
    assert fp32["parameters"] - tied["parameters"] == embedding.shape[0] * embedding.shape[1]
    assert ledger["fp32_bytes"] == 4 * fp32["parameters"] == 2 * ledger["bf16_bytes"]


def test_quality_is_what_evaluate_measures_on_the_file(ledger):
    file = next(file for file in ledger["files"] if file["row"] == "tied ternary")
    found = run_command(["evaluate", str(Path(ledger["folder"]) / file["path"]), "--task", "heldout", "--json"])
    assert file["quality"] == pytest.approx(found["heldout_bits_per_byte"], rel=1e-9)
    assert file["text"] == found["heldout_text"]["sha256"]


def test_intervals_are_students_over_seeds_and_differences_are_paired_by_seed(ledger):
    by_row = {name: [f["quality"] for f in ledger["files"] if f["row"] == name] for name in ("fp32", "tied ternary")}
    found = rows(ledger)["tied ternary"]
    for values, mean, half in (
        (by_row["tied ternary"], found["quality"]["mean"], found["quality"]["half_width"]),
        (
            [a - b for a, b in zip(by_row["tied ternary"], by_row["fp32"], strict=True)],
            found["difference"]["mean"],
            found["difference"]["half_width"],
        ),
    ):
        low, high = stats.t.interval(0.95, SEEDS - 1, loc=stats.tmean(values), scale=stats.sem(values))
        assert (mean - half, mean + half) == pytest.approx((low, high))
    assert rows(ledger)["fp32"]["difference"] is None


def test_a_row_that_is_not_trained_has_the_weights_of_the_row_before(ledger):
    runs = {(file["row"], file["seed"]): file["run"] for file in ledger["files"]}
    assert all(runs["bf16", seed] == runs["fp32", seed] for seed in range(SEEDS))
    assert len(set(runs.values())) == 2 * SEEDS


def test_speed_says_what_decoded(ledger):
    assert [row["decoded_by"] for row in ledger["rows"]] == ["torch", "torch", "decoder"]
    assert all(row["tokens_per_second"] > 0 for row in ledger["rows"])


def test_the_page_has_every_row_its_ratios_and_the_rivals(ledger):
    page = Path(ledger["report"]).read_text()
    assert all(name in page for name in ("tied ternary", "against fp32", "against bf16", "arXiv:2009.12812"))
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_several_ledgers_are_one_picture_and_mixed_with_runs_they_are_refused(ledger, trained, plan, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(PLAN.replace("name: small", "name: other", 1))
    second = compress(trained, other, "--out", str(tmp_path / "second"), seeds=1)
    page = run_command(["report", ledger["folder"], second["folder"], "--out", str(tmp_path / "page.html"), "--json"])
    text = Path(page["report"]).read_text()
    assert text.count("Bytes against quality") == 1
    assert "2 compressions" in text
    with pytest.raises(ProblemError, match="give runs or compressions"):
        run_command(["report", ledger["folder"], str(trained)])


def test_the_same_command_again_makes_nothing_and_says_the_same(ledger, trained, plan):
    runs = sorted(Path(ledger["folder"]).parent.iterdir())
    before = {path: path.stat().st_mtime_ns for path in Path(ledger["folder"]).rglob("*.penstock")}
    assert compress(trained, plan) == ledger
    assert sorted(Path(ledger["folder"]).parent.iterdir()) == runs
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_file_that_has_changed_is_made_again(ledger, trained, plan, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(ledger["folder"], folder)
    damaged = folder / "bf16" / "seed-1.penstock"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = compress(trained, plan, "--out", str(folder))
    assert again["files"] == ledger["files"]
    assert damaged.stat().st_size == (Path(ledger["folder"]) / "bf16" / "seed-1.penstock").stat().st_size


def test_a_killed_compression_goes_on_with_what_is_finished(ledger, trained, plan, tmp_path, server):
    root = tmp_path / "runs"
    copied = root / trained.parent.name / trained.name
    shutil.copytree(trained, copied)
    shutil.copytree(trained.parents[1] / "data", root / "data")
    command = ["compress", copied, "--plan", plan, "--seeds", "1"]
    # The first row has three checkpoints, so the fifth is written while the second one trains.
    killed = server.run(*command, cwd=tmp_path, at={"stage": "write_checkpoint", "nth": 5, "delay": 0.0})
    assert killed.status == -signal.SIGKILL, killed.said
    (folder,) = (path.parent for path in root.glob("*-compress/*/compression.json"))
    kept = {path: path.read_bytes() for path in folder.rglob("*.penstock")}
    assert [row["name"] for row in json.loads((folder / "compression.json").read_text())["rows"]] == ["fp32", "bf16"]
    resumed = server.run(*command, cwd=tmp_path)
    assert resumed.status == 0, resumed.said
    assert {path: path.read_bytes() for path in kept} == kept
    found = json.loads((folder / "compression.json").read_text())["files"]
    expected = [file for file in ledger["files"] if file["seed"] == 0]
    for name in ("row", "quality", "parameters", "text"):
        assert [file[name] for file in found] == [file[name] for file in expected]
    assert [file["bytes"]["codes"] for file in found] == [file["bytes"]["codes"] for file in expected]


def test_a_dry_run_says_sizes_and_time_and_writes_nothing(trained, plan, tmp_path):
    other = tmp_path / "plan.yaml"
    other.write_text(PLAN.replace("group: 64", "group: row"))
    folders = sorted(trained.parents[1].iterdir())
    price = compress(trained, other, "--dry-run")
    assert [(row["row"], row["runs"] - row["finished"]) for row in price["rows"]][1:] == [
        ("bf16", 0),
        ("tied ternary", SEEDS),
    ]
    assert price["seconds_left"] > 0
    assert not Path(price["folder"]).exists()
    assert sorted(trained.parents[1].iterdir()) == folders


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{sharing: [{use: cross-layer}, {use: attention}]}", "q, k, v, o are shared by"),
        ("{sharing: [{use: cross-layer, pattern: sparse, groups: [[0, 7]]}]}", "names no parameter"),
        ("{sharing: [{use: factorised-embedding, rank: 32}]}", "saves nothing"),
        ("{sharing: [{use: tied-embeddings}], quantizer: {embedding: int8}}", "have two formats"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_trained(trained, tmp_path, model, said):
    path = tmp_path / "plan.yaml"
    path.write_text(f"name: bad\nsteps:\n  - name: bad\n    model: {model}\n")
    before = sorted(trained.parents[1].rglob("config.resolved.yaml"))
    with pytest.raises(ProblemError, match=re.escape(said)) as caught:
        compress(trained, path)
    assert caught.value.exit_code == 2
    assert all("plan.yaml" in problem.where for problem in caught.value.problems)
    assert sorted(trained.parents[1].rglob("config.resolved.yaml")) == before


# ------------------------------------------------------------------------------------- the plans of configs/compression

PLANS = Path(__file__).parents[1] / "configs" / "compression"
CONFIG = """\
name: sized
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 600}}
  sequence_length: 16
model: {model}
train: {{tokens: 64, batch_size: 4, evaluate_every: null, trackers: [], observers: [], objective: {objective}}}
"""
SIZES = "hidden_size: 320, num_hidden_layers: 5, num_attention_heads: 4, intermediate_size: 64"
SMALL = "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32"
HEAD = "head: {task: classification, labels: 2}"
MODELS = {
    "glm-moe": f"{{use: glm-moe, {SIZES}, num_key_value_heads: 2, head_dim: 8, first_k_dense_replace: 5}}",
    "gpt": f"{{use: gpt, {SIZES}, max_position_embeddings: 512}}",
    "bert": f"{{use: bert, {SIZES}, max_position_embeddings: 512, {HEAD}}}",
    "small bert": f"{{use: bert, {SMALL}, max_position_embeddings: 2048, {HEAD}}}",
}


def made(name: str, folder: Path) -> RunDirectory:
    """A run that was never trained: all that a plan needs is its config."""
    for split in ("train", "heldout"):
        (folder / f"{split}.tsv").write_text(
            "".join(f"{'good' if number % 2 else 'bad'} film {number} {split}\t{number % 2}\n" for number in range(40))
        )
    corpus = folder / "train.tsv"
    task = f'{{use: classification, paths: ["{corpus}"], heldout: ["{folder / "heldout.tsv"}"]}}'
    objective = task if name.endswith("bert") else "next-token"
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(corpus=corpus, model=MODELS[name], objective=objective))
    registry = Registry.discover()
    config, document = load_run_config(path, (), registry)
    return RunDirectory.create(folder / "runs", config, document, (), registry)


@pytest.mark.parametrize("name", ["glm-moe", "gpt", "bert"])
def test_every_row_of_the_plans_is_smaller_than_the_one_before(name, tmp_path):
    run = made(name, tmp_path)
    own = name != "glm-moe"  # a head that is the embedding without any plan
    files = [file for file in sorted(PLANS.glob("*.yaml")) if file.name.startswith("tied-") == own]
    assert len(files) == (3 if own else 4)
    for file in files:
        rows = compress(run.path, file, "--dry-run")["rows"]
        # A rotary model has no positions to count, and a file is coded after it is counted.
        sizes = [row["bytes"] for row in rows if row["row"] != "entropy coding"]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(sizes)
        assert rows[0]["bytes"] == 4 * rows[0]["parameters"]


ENCODER = """\
name: encoder
steps:
  - {name: factorised, model: {sharing: [{use: factorised-embedding, rank: 4, positions: true}, {use: cross-layer}]}}
  - {name: int8, train: false, model: {quantizer: {weights: int8, embedding: int8, head: int8}}}
  - {name: coded, train: false, export: {compress: lzma}}
"""


def test_an_encoder_is_measured_by_its_task_and_decodes_nothing(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(ENCODER)
    ledger = compress(made("small bert", tmp_path).path, plan, seeds=1)
    assert (ledger["metric"], ledger["higher_is_better"]) == ("accuracy", True)
    for row, file in zip(ledger["rows"], ledger["files"], strict=True):
        scores = task_scores(Path(ledger["folder"]) / file["path"], Registry.discover())
        assert file["quality"] == scores.total("accuracy")
        assert (row["decoded_by"], row["tokens_per_second"]) == ("predicts a label for each text", None)
    assert ledger["rows"][1]["parameters"] < 2048 * 32  # less than the table that was factorised in it
    coded, before = ledger["rows"][-1]["bytes"], ledger["rows"][-2]["bytes"]
    assert sum(coded["codes"].values()) < sum(before["codes"].values())
    assert ledger["files"][-1]["quality"] == ledger["files"][-2]["quality"]
