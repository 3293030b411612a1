"""`penstock train --lr-find` and `--overfit-tokens`: what they print and write."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.hooks.config import ConfigDocument
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.run.config import RunConfig
from penstock.run.records.rates import FoundRates, Overfitted
from penstock.run.records.record import write_record
from penstock.train.checks import Planned, require_for_start
from penstock.train.overfit import overfit
from penstock.train.rate_finder import find_rates
from penstock.train.rate_page import COLUMNS, row, write_rates_page
from penstock.train.training import prepare_run
from penstock.train.width import override_of_found

PAGE = "lr-find.html"


def look_for_rates(config: RunConfig, document: ConfigDocument, runs: Path, *, as_json: bool) -> dict[str, Any]:
    """Writes the page and its figures beside the runs of the config, and prints what the ramps suggest."""
    found = find_rates(config, _prepared(config, document, runs, "--lr-find"))
    page = write_rates_page(found, runs / config.name / PAGE)
    write_record(page.with_suffix(".json"), found)
    output.print_result(found, as_json, lambda: _rates_text(config, found, page))
    return found.to_json()


def look_whether_it_learns(
    config: RunConfig, document: ConfigDocument, runs: Path, tokens: int, *, as_json: bool
) -> dict[str, Any]:
    """Prints whether the model learns some tokens by heart; raises `ProblemError` with the findings if it does not."""
    found = overfit(config, _prepared(config, document, runs, "--overfit-tokens"), tokens)
    output.print_result(found, as_json, lambda: _overfitted_text(found))
    if not found.reached:
        what = f"{found.tokens} tokens were not learnt by heart: the loss is {found.loss:g}, above {found.bound:g}"
        raise failed("not-overfitted", what, document.name, "; ".join(found.findings))
    return found.to_json()


def _prepared(config: RunConfig, document: ConfigDocument, runs: Path, option: str) -> Path:
    """The folder of the prepared data, once everything is checked that a start checks."""
    name = config.train.engine.entry.component.name
    if name != "local":
        what = f"{option} trains in one process, without the engine '{name}'"
        raise ProblemError(Problem("wrong-ranks", what, "train.engine", "use train.engine=local for it"))
    require_for_start(Planned(config, runs), document)
    return Path(prepare_run(config, runs)["data"])


def _rates_text(config: RunConfig, found: FoundRates, page: Path) -> str:
    override = override_of_found(config, found)
    fell = any(curve.suggested is not None for rate in found.rates for curve in rate.curves)
    none = (
        "no rate to train with: the seeds disagree"
        if fell
        else "no loss fell: try penstock train --overfit-tokens 1024"
    )
    use = f"train with: {shlex.quote(override)}" if override else none
    return "\n\n".join([output.table(COLUMNS, [row(each) for each in found.rates]), use, f"curves: {page}"])


def _overfitted_text(found: Overfitted) -> str:
    fall = f"loss of {found.tokens} tokens: {found.first_loss:g} -> {found.loss:g} nats in {found.steps} steps"
    return f"{fall}\n{'learnt by heart' if found.reached else 'not learnt by heart'}"
