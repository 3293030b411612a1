"""The page of claims says what stored results say, and what scripts keep can be told from."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner

WORKSPACE = Path(__file__).parents[1]
BENCHMARKS = WORKSPACE / "tests" / "benchmarks"
STORED = {path.stem: json.loads(path.read_text()) for path in sorted((BENCHMARKS / "results").glob("*.json"))}


@pytest.fixture(scope="module")
def claims() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("claims")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def findings(claims: ModuleType) -> ModuleType:
    return claims.findings


@pytest.fixture(scope="module")
def measure(claims: ModuleType) -> ModuleType:
    return importlib.import_module("measure")


def test_the_page_is_what_the_stored_results_say(claims):
    written = (WORKSPACE / "docs" / "claims.md").read_text()
    assert written == claims.page(claims.stored()), "python tests/benchmarks/claims.py renews it"


def test_every_claim_has_a_row_and_a_section_with_its_source(claims):
    page = claims.page(STORED)
    assert list(claims.CLAIMS) == list(range(1, len(claims.CLAIMS) + 1))
    for number, claim in claims.CLAIMS.items():
        assert re.search(rf"^\| {number} \| {re.escape(claim.says)} \| .+ \|$", page, re.MULTILINE)
        assert f"## Claim {number}\n\n{claim.says}\n\n*Source: {claim.source}.*\n" in page


def test_a_claim_without_a_result_is_not_measured(claims):
    page = claims.page({})
    assert page.count("| not measured |") == page.count("**Not measured**") == len(claims.CLAIMS)


def test_a_claim_that_holds_for_some_figures_is_confirmed_within_limits(claims):
    figures = {word: claims.Finding("a", "1", "none", word) for word in claims.ORDER}
    confirmed, limited, refuted, undecided = (figures[word] for word in claims.ORDER)
    assert claims.summary_of([refuted, refuted]) == "refuted"
    assert claims.summary_of([refuted, confirmed]) == "within limits: of 2 figures 1 confirmed, 1 refuted"
    assert claims.summary_of([undecided, limited]).startswith("within limits: ")
    assert claims.summary_of([undecided, refuted]).startswith("not decided: ")


def test_a_claim_that_can_be_answered_names_a_script_that_keeps_its_result(claims):
    for claim in claims.CLAIMS.values():
        if claim.read is not None:
            assert "@json_option" in (BENCHMARKS / f"{claim.script}.py").read_text()


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.items() for part in each for text in strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in strings(part))


@pytest.mark.parametrize("name", STORED)
def test_a_stored_result_says_its_origin_answers_a_claim_and_names_no_path(claims, name):
    result = STORED[name]
    assert result["benchmark"] == name
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert re.fullmatch(r"[0-9a-f]{7,40}\+?", result["commit"])
    assert result["machine"]
    assert name in {claim.script for claim in claims.CLAIMS.values() if claim.read is not None}
    assert [text for text in strings(result) if re.search(r"(^|[\s:=])(/\w|~/|[A-Z]:\\)", text)] == []


def test_a_script_keeps_what_it_prints_only_if_told_to(measure, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)

    @click.command()
    @measure.json_option
    def script(as_json: bool) -> None:
        measure.finish("toy", [{"what": "a", "seconds": 1.5}], [], as_json, seeds=3)

    assert CliRunner().invoke(script, ["--json"]).exit_code == 0
    assert list(tmp_path.iterdir()) == []
    printed = CliRunner().invoke(script, ["--json", "--store"]).stdout
    kept = json.loads((tmp_path / "toy.json").read_text())
    assert kept == json.loads(printed)
    assert {"date", "machine", "commit", "options"} <= kept.keys()


def test_a_result_of_an_earlier_script_gets_the_origin_that_is_given(claims, measure, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(claims, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(claims, "PAGE", tmp_path / "claims.md")
    (tmp_path / "printed.json").write_text(json.dumps({"benchmark": "ledger", "rows": [WHOLE_FILE, SMALL_FILE]}))
    options = ["--store", str(tmp_path / "printed.json"), "--commit", "abcdef0", "--date", "2026-01-02"]
    assert CliRunner().invoke(claims.main, options).exit_code == 0
    kept = json.loads((tmp_path / "results" / "ledger.json").read_text())
    assert (kept["commit"], kept["date"]) == ("abcdef0", "2026-01-02")
    page = (tmp_path / "claims.md").read_text()
    assert "| one layer | 50.0 times, of bf16 25.0 times (8.76 MB) | exact | confirmed |" in page
    assert "| fp32 |" not in page  # a file that shares nothing says nothing about the claim


WHOLE_FILE = {
    "row": "fp32",
    "parameters": 109_500_000,
    "bits a parameter": 32.0,
    "against fp32": 1.0,
    "against bf16": 0.5,
    "bytes": 438_000_000,
    "of it header and hashes": 1000,
}
SMALL_FILE = {
    "row": "one layer",
    "parameters": 11_000_000,
    "bits a parameter": 6.4,
    "against fp32": 50.0,
    "against bf16": 25.0,
    "bytes": 8_760_000,
    "of it header and hashes": 1000,
}


def test_an_interval_across_the_limit_decides_nothing(findings):
    assert findings.judged(0.04, 0.06, most=0.05) == "not decided"
    assert findings.judged(0.03, 0.05, most=0.05) == "confirmed"
    assert findings.judged(0.06, 0.07, most=0.05) == "refuted"
    assert findings.judged(1.2, 1.3, least=1.35, most=2) == "refuted"
    assert findings.judged(2.1, 2.3, least=1.35, most=2) == "refuted"


def balance_rows(entropies: list[tuple[float, float, float]]) -> dict[str, Any]:
    names = ("MaxVio", "specialisation", "of an untrained router")
    rows = [{"method": "faint-loss", "entropy": 0.9, **dict(zip(names, each, strict=True))} for each in entropies]
    return {"rows": rows}


def test_experts_that_an_untrained_router_would_specialise_as_much_are_not_specialised(findings):
    uneven = [(0.5, 0.30, 0.30), (0.6, 0.31, 0.33), (0.7, 0.32, 0.36)]
    assert [each.verdict for each in findings.even_and_specialised(balance_rows(uneven))] == ["refuted", "not decided"]
    learned = [(0.05, 0.40, 0.30), (0.06, 0.41, 0.31), (0.055, 0.42, 0.30)]
    assert [each.verdict for each in findings.even_and_specialised(balance_rows(learned))] == ["confirmed", "confirmed"]


def test_verdicts_of_other_scripts_are_said_in_the_words_of_the_page(findings):
    row = {"seed": "all", "strategy": "attention", "claimed": "at most 2 % lost", "cost %": 1.0, "+-": 0.5}
    said = {"holds": "confirmed", "fails: saves 3 %": "refuted: saves 3 %", "not decided: more seeds would": None}
    for theirs, ours in said.items():
        [found] = findings.shared_parameters({"rows": [{**row, "saved of layers %": 25.0, "verdict": theirs}]})
        assert found.verdict == (ours or theirs)
        assert found.interval == "0.5 to 1.5 %"


def test_a_task_without_signal_decides_nothing_about_lost_points(findings):
    silent = {"task": "mrpc", "row": "fp32", "figure": 68.0, "under 2 points": "no signal: 68.0 of a baseline of 66.5"}
    trained = {"task": "sst2", "row": "ternary", "bytes": 5, "against fp32": 30.0, "lost": 3.0, "+-": 0.5}
    found = findings.points_lost({"rows": [silent, {**trained, "under 2 points": "fails"}]})
    assert [each.verdict for each in found] == ["not decided", "refuted"]
    assert found[1].interval == "2.5 to 3.5 points"


def test_what_fine_tuning_and_reassignment_cost_is_held_to_the_limits_of_their_kind(findings):
    tuned = {"what": "fine-tuned with the loss", "cut %": 30.0, "cut % +-": 5.0, "cost %": 0.1, "cost % +-": 0.3}
    costs = {"gentle": 4.0, "aggressive": 40.0}
    moved = [
        {"what": kind, "kind": kind, "changed %": 20.0, "perplexity %": cost, "perplexity % +-": 1.0}
        for kind, cost in costs.items()
    ]
    found = findings.fine_tuning({"rows": [tuned, *moved]})
    assert [each.verdict for each in found] == ["confirmed", "not decided", "confirmed", "refuted"]


def test_muon_is_as_fast_as_claimed_only_if_its_steps_and_the_rule_say_so(findings):
    rows = [{"share": 1.0, "z": 9.0}, {"share": 0.74, "z": 3.5}, {"share": 0.5, "z": -2.0}]
    facts = {"rows": rows, "steps": 200, "half_width": 0.1, "bounded": False, "step_of_muon_over_adamw": 1.1}
    steps, rule, time = findings.muon({**facts, "speedup": 1.5, "fewest_steps": 0.74})
    assert steps.verdict == rule.verdict == "within limits: a model of 1.07M parameters, 200 steps"
    assert time.verdict == "not decided"
    slow = findings.muon({**facts, "speedup": 1.1, "fewest_steps": 1.0})
    assert [each.verdict for each in slow] == ["refuted"] * 3


SHARES, EXPANSIONS = ("25 %", "35 %", "45 %"), ("2.0", "2.66", "3.0", "4.0")


def allocation_rows(design: str, best: str, step: float) -> list[dict[str, Any]]:
    """Cells whose bits per byte grow by `step` with each share from the best, and by 0.001 with each expansion, and
    scatter by less than 0.001."""
    noise = iter([0.0, 0.0008, -0.0008, 0.0004, 0.0007, -0.0007, 0.0002, 0.0, -0.0005, 0.0, 0.0009, -0.0004])
    return [
        {
            "design": design,
            "share": share,
            "expansion": expansion,
            "reached share": int(share[:2]) / 100,
            "parameters": 1_000_000,
            "layers": 5,
            "width": 96,
            "vocabulary": 2000,
            "FLOPs a token": 5_000_000,
            "tokens": 400_000,
            "bits per byte": 1.9 + step * abs(SHARES.index(share) - SHARES.index(best)) + 0.001 * column + next(noise),
            "final tokens": None,
            "final bits per byte": None,
            "latency of 128": None,
            "peak memory": None,
        }
        for share in SHARES
        for column, expansion in enumerate(EXPANSIONS)
    ]


def allocated(claims: ModuleType, *designs: tuple[str, str, float]) -> dict[str, Any]:
    script = importlib.import_module("allocation")
    rows, sweeps = [], {}
    for design, best, step in designs:
        own = allocation_rows(design, best, step)
        rows += own
        axes = (("share", "expansion"), ("expansion", "share"))
        effects = {axis: script.compared(own, axis, other) for axis, other in axes}
        sweeps[design] = {"name": "made", "hours": 1.0, "runs": 21, "states": {"finished": 3}, "effects": effects}
    return {"rows": rows, "sweeps": sweeps, "date": "2026-11-30", "machine": "x86_64, 2 cores", "commit": "abcdef0"}


def test_a_best_share_is_one_only_if_depth_does_not_move_it(claims, findings):
    same = findings.parameter_shares(allocated(claims, ("depth fixed", "35 %", 0.02), ("depth follows", "35 %", 0.05)))
    assert [each.verdict for each in same[:2]] == ["within limits: at 1M parameters"] * 2
    moved = findings.parameter_shares(allocated(claims, ("depth fixed", "25 %", 0.02), ("depth follows", "45 %", 0.05)))
    assert [each.verdict for each in moved[:2]] == [
        "refuted: 45 % with depth follows",
        "refuted: 25 % with depth fixed",
    ]
    close = findings.parameter_shares(allocated(claims, ("depth fixed", "35 %", 0.0001)))
    assert close[0].verdict == "not decided"


def test_shares_are_compared_at_equal_expansion_and_not_by_their_means_alone(claims):
    script = importlib.import_module("allocation")
    rows = allocation_rows("d", "25 %", 0.02)
    for row in rows:
        row["bits per byte"] += EXPANSIONS.index(row["expansion"])  # expansions differ by far more than shares
    best, second, third = script.compared(rows, "share", "expansion")
    assert (best["value"], second["value"], third["value"]) == SHARES
    assert second["behind"] == pytest.approx(0.02, abs=0.001)
    assert second["+-"] < 0.003


def test_the_page_of_the_allocation_is_what_its_stored_result_says(claims):
    script = importlib.import_module("allocation")
    assert script.PAGE.exists() == ("allocation" in STORED)
    if "allocation" in STORED:
        assert script.PAGE.read_text() == script.page(STORED["allocation"]), "allocation.py --store renews it"
    page = script.page(allocated(claims, ("depth fixed", "35 %", 0.02), ("depth follows the share", "45 %", 0.05)))
    assert page.count("| 35 % | 2.66 | 35.0 % | 1,000,000 | 5 | 96 | 2,000 | 400,000 |") == 2
    assert "| 35 % | 1.9015 | best |" in page  # at its best in one sweep only
    assert page.count("| best |") == 4
    assert "\n## Depth follows the share\n" in page


@pytest.mark.parametrize("name", ["allocation", "claim_findings", "measure", "muon_against_adamw"])
def test_the_examples_of_scripts_hold(claims, name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_a_share_of_steps_passes_by_more_than_the_seeds_scatter(claims):
    muon = importlib.import_module("muon_against_adamw")
    adamw = [2.00, 2.01, 2.02]
    found = muon.compared(adamw, {1.0: [1.90, 1.91, 1.92], 0.5: [2.00, 2.01, 2.02]})
    assert found.z[1.0] == pytest.approx(0.1 / (0.01 * (2 / 3) ** 0.5))
    assert found.z[0.5] == 0
    assert found.fewest_steps == 1.0
    assert found.speedup == pytest.approx(2)
    scattered = muon.compared(adamw, {1.0: [1.7, 1.9, 2.1]})
    assert scattered.fewest_steps is None


def test_trials_of_both_optimizers_are_points_of_one_space(claims):
    muon = importlib.import_module("muon_against_adamw")
    corners = [muon.settings_at([at] * len(muon.SPACE)) for at in (0, 1)]
    assert corners == [{name: limits[at] for name, limits in muon.SPACE.items()} for at in (0, 1)]
    for template in muon.OPTIMIZERS.values():
        for name in ("matrices", "others", "weight_decay"):
            assert f"{{{name}}}" in template
