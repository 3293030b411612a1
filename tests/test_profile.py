"""`penstock profile` of a trained run: of other text than it held out, by domain, and of other assignments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli.main import run as run_command
from penstock.eval_suite.runner import run_task
from penstock.eval_suite.tasks import Heldout
from penstock.hooks.contracts import TaskContext
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.profile.reassignment import STRATEGIES, modified
from penstock.traces.trace import RoutingTrace
from penstock.train.restore import restore


@pytest.fixture(scope="module")
def restored(trained):
    return restore(trained, Registry.discover())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_fraction_computes_the_same_bits_and_the_routers_are_given_back(restored, strategy):
    token_BS = torch.arange(64).view(2, 32)
    with torch.inference_mode():
        own = restored.model(token_BS)
        with modified(restored.model, strategy, 0) as found:
            same = restored.model(token_BS)
        with modified(restored.model, strategy, 1):
            other = restored.model(token_BS)
        after = restored.model(token_BS)
    assert torch.equal(own.hidden_BSD, same.hidden_BSD)
    assert torch.equal(own.hidden_BSD, after.hidden_BSD)
    assert not torch.equal(own.hidden_BSD, other.hidden_BSD)
    assert found.changed == 0
    assert found.total == 64 * 2 * 2


def test_modify_measures_each_strategy_and_fraction(command, trained, read_json):
    result = command("profile", trained, "--modify", "all", "--fraction", "1,0,0.5", "--max-tokens", 512)
    assert read_json(trained / "modified.json") == result
    assert [(row["strategy"], row["fraction"]) for row in result["rows"]] == [
        ("router", 0),
        *((strategy, fraction) for strategy in STRATEGIES for fraction in (0.5, 1)),
    ]
    rows = {(row["strategy"], row["fraction"]): row for row in result["rows"]}
    assert rows["router", 0]["changed"] == 0
    assert rows["balanced", 1]["max_violation_batch"] == 0
    assert rows["balanced", 1]["slowdown"] == pytest.approx(1)
    assert rows["round-robin", 1]["max_violation_batch"] == 0
    assert rows["balanced", 1]["changed"] < rows["round-robin", 1]["changed"]
    assert rows["random", 0.5]["changed"] < rows["random", 1]["changed"]
    front = [row for row in result["rows"] if row["pareto"]]
    assert min(result["rows"], key=lambda row: row["bits_per_byte"]) in front
    html = (trained / "modified.html").read_text()
    assert "Quality against communication" in html
    assert "sweep" not in html
    assert "<h2>Strategies</h2>" in html
    assert all(strategy in html for strategy in STRATEGIES)


def test_the_routers_own_row_is_the_evaluation_of_the_same_tokens(command, trained, restored):
    (own,) = command("profile", trained, "--modify", "random", "--fraction", "0", "--max-tokens", 256)["rows"]
    heldout = restored.dataset.split("heldout").slice(0, 257)
    context = TaskContext(restored.dataset.tokenizer(), heldout, 32)
    expected = run_task(Heldout(), restored.model, context).metrics
    assert own["bits_per_byte"] == pytest.approx(expected["heldout.bits_per_byte@disjoint-32"], rel=1e-6)
    assert own["perplexity"] == pytest.approx(expected["heldout.token_perplexity@disjoint-32"], rel=1e-6)


def test_the_page_goes_where_it_is_asked_for(command, trained, tmp_path):
    page = tmp_path / "page.html"
    command("profile", trained, "--modify", "temperature", "--temperature", "2", "--max-tokens", 64, "--report", page)
    assert "temperature" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modify", "best"], "unknown strategy 'best', use all, or some of balanced"),
        (["--modify", "random", "--fraction", "0.5,2"], "'0.5,2' is not a list of numbers from 0 to 1"),
        (["--modify", "random", "--fraction", "half"], "'half' is not a list of numbers"),
        (["--modify", "random", "--fraction", "nan"], "'nan' is not a list of numbers"),
        (["--modify", "random", "--fraction", ""], "'' is not a list of numbers"),
        (["--modify", "random", "--max-tokens", "31"], "31 tokens do not fill one window of 32"),
        (["--fraction", "0.5"], "--fraction: this option only applies with --modify"),
        (["--temperature", "0.5"], "--temperature: this option only applies with --modify"),
    ],
)
def test_a_strategy_or_fraction_that_is_none_is_said(command, trained, arguments, message):
    (trained / "modified.json").unlink(missing_ok=True)
    with pytest.raises(ProblemError, match=message):
        command("profile", trained, *arguments)
    assert not (trained / "modified.json").exists()


def test_a_router_that_drops_tokens_is_refused(command, config_file, tmp_path):
    override = "model.router={use: sigmoid-topk, k: 2, capacity: 1.0}"
    run = command("train", config_file, override, "train.tokens=128", "--runs", tmp_path)["run_dir"]
    message = "--modify: the router of layer 1 does not give every token the same number of experts, profile it without"
    with pytest.raises(ProblemError, match=message):
        command("profile", run, "--modify", "balanced")


def test_a_dense_model_has_nothing_to_modify(command, config_file, tmp_path):
    run = command(
        "train",
        config_file,
        "model.first_k_dense_replace=3",
        "model.balance=[]",
        "train.tokens=128",
        "--runs",
        tmp_path,
    )["run_dir"]
    with pytest.raises(ProblemError, match="no experts"):
        command("profile", run, "--modify", "balanced")


def test_a_trace_file_cannot_be_modified(command, trained, tmp_path):
    with pytest.raises(ProblemError, match="run"):
        command("profile", trained / "trace" / "train.npz", "--modify", "balanced")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two domains of text that no run has seen."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "code.txt").write_text("def gate(turbine):\n    return turbine.open()\n" * 60)
    (folder / "prose.txt").write_text("The gate is open, and twelve turbines run all night.\n" * 50)
    return folder


def test_text_that_is_given_stands_beside_the_held_out_one(command, trained, texts, read_json, tmp_path):
    held_out = command("profile", trained)
    before = {name: (trained / name).read_bytes() for name in ("trace/heldout.npz", "profile.json")}
    result = command("profile", trained, "--corpus", texts, "--domains", "--report", tmp_path / "page.html")
    assert {name: (trained / name).read_bytes() for name in before} == before
    assert read_json(trained / "profile-corpus.json") == result
    assert result["domains"] == ["code", "prose"]
    trace = RoutingTrace.load(trained / "trace" / "corpus.npz")
    assert [layer["counts"] for layer in result["layers"]] == trace.counts_LE.tolist()
    assert set(trace.header["domains"]) == {"code", "prose"}
    assert trace.header["tokens"] == result["tokens"] != held_out["tokens"]
    assert trace.header["data"] != RoutingTrace.load(trained / "trace" / "heldout.npz").header["data"]
    assert "Domain preferences" in (tmp_path / "page.html").read_text()
    modified_ = command("profile", trained, "--corpus", texts, "--modify", "random", "--fraction", "1")
    assert read_json(trained / "modified-corpus.json") == modified_
    assert "the given text" in (trained / "modified-corpus.html").read_text()


def test_a_step_of_a_domain_has_the_experts_that_the_model_chooses_for_its_text(command, trained, restored, texts):
    command("profile", trained, "--corpus", texts, "--domains", "--max-tokens", 128, "--trace", "t.npz")
    trace = RoutingTrace.load(Path("t.npz"))
    tokenizer = restored.dataset.tokenizer()
    assert trace.header["domains"] == ["code", "prose"]
    for step, name in enumerate(trace.header["domains"]):
        tokens = tokenizer.encode((texts / f"{name}.txt").read_text())[:128]
        with torch.inference_mode():
            routings = restored.model(torch.tensor(tokens).view(4, 32)).routings
        expected_LE = [torch.bincount(routings[layer].expert_TK.flatten(), minlength=8).tolist() for layer in (1, 2)]
        assert trace.counts_SLE[step].tolist() == expected_LE


def test_a_run_and_the_model_that_it_is_exported_to_choose_the_same_experts(command, trained, texts, tmp_path):
    exported = tmp_path / "exported"
    command("export", trained, "--format", "{use: hf, dtype: float32}", "--out", exported)
    text = ["--corpus", texts, "--domains", "--sequence-length", 32]
    run = command("profile", trained, *text, "--trace", tmp_path / "run.npz")
    model = command("profile", exported, *text, "--trace", tmp_path / "model.npz")
    assert model["model"] == "exported"
    ours, theirs = (RoutingTrace.load(tmp_path / f"{name}.npz") for name in ("run", "model"))
    assert ours.expert_NLK is not None
    assert theirs.expert_NLK is not None
    same = np.sort(ours.expert_NLK, axis=2) == np.sort(theirs.expert_NLK, axis=2)
    assert same.mean() > 0.999  # rounding may decide between scores that are all but equal
    assert ours.header["data"] == theirs.header["data"]
    rows = [
        command("profile", each, *text[:2], *text[3:], "--modify", "random", "--fraction", "0")["rows"][0]
        for each in (trained, exported)
    ]
    assert rows[0]["bits_per_byte"] == pytest.approx(rows[1]["bits_per_byte"], rel=1e-5)
    assert run["tokens"] == model["tokens"]


def test_a_run_keeps_the_trace_of_its_figures_beside_a_copy_that_is_asked_for(command, trained, tmp_path):
    command("profile", trained)
    result = command("profile", trained, "--max-tokens", 64, "--trace", tmp_path / "t.npz")
    kept, copied = (RoutingTrace.load(path) for path in (trained / "trace" / "heldout.npz", tmp_path / "t.npz"))
    assert kept.counts_LE.tolist() == copied.counts_LE.tolist() == [layer["counts"] for layer in result["layers"]]


def files_of(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("asked", [["--trace", "t.npz"], ["--modify", "random", "--fraction", "1"]])
@pytest.mark.parametrize("page", ["file/page.html", f"{'x' * 300}.html", f"{'x' * 250}.html", "/proc/page.html"])
def test_a_page_that_has_no_place_leaves_everything_as_it_was(command, trained, tmp_path, monkeypatch, asked, page):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no folder")
    command("profile", trained)
    before = files_of(trained, tmp_path)
    with pytest.raises(ProblemError, match="cannot write the file"):
        command("profile", trained, "--max-tokens", 64, *asked, "--report", page)
    assert files_of(trained, tmp_path) == before


def test_recording_reads_the_last_window_though_no_token_follows_it(command, trained, restored):
    tokens = len(restored.dataset.split("heldout"))
    length = next(each for each in range(8, tokens) if tokens % each == 0)
    assert command("profile", trained, "--sequence-length", length)["tokens"] == tokens
    scored = command("profile", trained, "--sequence-length", length, "--modify", "random", "--fraction", "0")
    assert scored["tokens"] == tokens - length


def test_one_window_is_enough_to_record_and_scoring_says_which_token_it_lacks(command, trained, restored, tmp_path):
    text = "def gate(turbine): return turbine"
    (tmp_path / "short").write_text(text)
    length = len(restored.dataset.tokenizer().encode(text)) + 1  # the end of text
    arguments = ["profile", trained, "--corpus", tmp_path / "short", "--sequence-length", length]
    assert command(*arguments)["tokens"] == length
    with pytest.raises(ProblemError, match=f"has {length} tokens, but a window of {length} needs {length + 1}"):
        command(*arguments, "--modify", "random")


def test_too_little_held_out_text_is_said_of_the_length_of_windows(command, config_file, tmp_path):
    less = ["train.tokens=128", "data.heldout_share=0.1"]
    run = command("train", config_file, *less, "--runs", tmp_path)["run_dir"]
    with pytest.raises(
        ProblemError, match=r"--sequence-length: the held-out split has \d+ tokens, but a window of 1024"
    ):
        command("profile", run, "--sequence-length", 1024)


@pytest.mark.parametrize(
    "name", ["configs/typo", "shared-runs/typo", "no-such.json", "no-such.npz", "no-such.jsonl.xz"]
)
def test_a_slip_in_a_path_is_not_looked_up_on_the_hub(command, trained, texts, name):
    with pytest.raises(ProblemError, match="run, model or trace not found") as raised:
        command("profile", name, "--corpus", texts)
    assert raised.value.problems[0].code == "missing-file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domains"], "the run's data does not record the domain of its documents, give each domain's text"),
        (["--corpus", "nowhere"], "nowhere: file or folder not found"),
        (["--corpus", ""], "--corpus: the value is empty"),
        (["--corpus", "x" * 300], "file or folder not found"),
        (["--sequence-length", "99999999"], "the model has"),
    ],
)
def test_text_that_a_run_cannot_read_is_said(command, trained, arguments, message):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(ProblemError, match=message):
        command("profile", trained, *arguments)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_preferences_of_a_router_that_drops_tokens_are_refused(command, config_file, texts, tmp_path):
    override = "model.router={use: sigmoid-topk, k: 2, capacity: 1.0}"
    run = command("train", config_file, override, "train.tokens=128", "--runs", tmp_path)["run_dir"]
    with pytest.raises(ProblemError, match="--domains: preferences need routers that give every token the same number"):
        command("profile", run, "--corpus", texts, "--domains")
    assert not (Path(run) / "trace" / "corpus.npz").exists()
    assert command("profile", run, "--corpus", texts)["tokens"] > 0


def test_a_checkpoint_is_no_model_of_its_own(command, trained, texts):
    (checkpoint,) = sorted((trained / "checkpoints").glob("step-*"))[-1:]
    with pytest.raises(ProblemError, match=f"only its run knows the routers, profile the run: {trained}"):
        command("profile", checkpoint, "--corpus", texts)


def test_without_the_plugin_the_package_that_has_it_is_named(config_file, texts, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    others = [each for each in Registry.discover().plugins if each.origin.distribution != "penstock-hf-models"]
    with pytest.raises(ProblemError, match=r"unknown architecture 'hf', `uv add penstock-hf-models` provides it"):
        run_command(["profile", str(tmp_path), "--corpus", str(texts)], Registry(others))
