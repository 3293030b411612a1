"""`penstock export-study`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("export-study")
@click.argument("sweep", metavar="SWEEP", type=click.Path(path_type=Path))
@click.argument("journal", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the study (default: that of SWEEP).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export_study(sweep: Path, journal: Path, name: str | None, as_json: bool) -> dict[str, Any]:
    """Write the sweep in the folder SWEEP as an Optuna study, into the journal FILE.

    Read it with `optuna.load_study(study_name=..., storage=JournalStorage(JournalFileBackend(FILE)))`.
    """
    from penstock.sweep.stored import read_figures
    from penstock_optuna.export import export_study as export

    figures = read_figures(sweep)
    study = export(figures, name or sweep.resolve().name, journal)
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    result = {
        "study": study.study_name,
        "journal": str(journal),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "left_out": len(figures.cells) - len(states),
    }
    counted = ", ".join(f"{count} {state}" for state, count in result["trials"].items()) or "none"
    click.echo(json.dumps(result) if as_json else f"study {study.study_name} in {journal}; trials: {counted}")
    return result
