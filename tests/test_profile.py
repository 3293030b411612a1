"""`penstock profile --modify` on a trained run: quality against balance against communication."""

from __future__ import annotations

import pytest
import torch

from penstock.eval_suite.tasks import Heldout
from penstock.evaluate.reassignment import STRATEGIES, modified
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
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
    expected = Heldout().run(restored.model, restored.dataset.tokenizer(), heldout=heldout, sequence_length=32).metrics
    assert own["bits_per_byte"] == pytest.approx(expected["heldout.bits_per_byte@disjoint-32"], rel=1e-6)
    assert own["perplexity"] == pytest.approx(expected["heldout.token_perplexity@disjoint-32"], rel=1e-6)


def test_the_page_goes_where_it_is_asked_for(command, trained, tmp_path):
    page = tmp_path / "page.html"
    command("profile", trained, "--modify", "temperature", "--temperature", "2", "--max-tokens", 64, "--report", page)
    assert "temperature" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modify", "best"], "there is no strategy 'best', take all, or some of balanced"),
        (["--modify", "random", "--fraction", "0.5,2"], "'0.5,2' is not a list of numbers from 0 to 1"),
        (["--modify", "random", "--fraction", "half"], "'half' is not a list of numbers"),
        (["--modify", "random", "--fraction", "nan"], "'nan' is not a list of numbers"),
        (["--modify", "random", "--max-tokens", "31"], "31 tokens are less than one sequence of 32"),
        (["--fraction", "0.5"], "--fraction: nothing is to be modified"),
        (["--temperature", "0.5"], "--temperature: nothing is to be modified"),
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
    with pytest.raises(ProblemError, match="does not give every token the same number of experts"):
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
