"""`penstock prepare` and `penstock train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.options import config_argument, overrides_argument, runs_option
from penstock.hooks.config import ConfigDocument
from penstock.hooks.registry import Registry
from penstock.run.checks import export_notes
from penstock.run.config import RunConfig, load_run_config
from penstock.run.plugin_lock import plugin_lock
from penstock.run.records.record import as_json
from penstock.run.records.training import Trained


@click.command()
@config_argument
@overrides_argument
@runs_option
@output.json_option
@click.pass_obj
def prepare(
    registry: Registry, config_file: Path, overrides: tuple[str, ...], runs: Path, as_json: bool
) -> dict[str, Any]:
    """Turn the corpus of CONFIG into a tokenizer and token shards. Does nothing if they already exist."""
    from penstock.train.training import prepare_run

    config, _ = load_run_config(config_file, overrides, registry)
    result = prepare_run(config, runs)
    output.print_result(result, as_json, lambda: prepared_text(result))
    return result


def prepared_text(result: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in result.items())


@click.command()
@config_argument
@overrides_argument
@click.option(
    "--resume", metavar="auto|RUN", help="Continue RUN, or with `auto` the newest unfinished run of this config."
)
@click.option(
    "--allow-config-drift",
    is_flag=True,
    help="Resume even if settings have changed; the changes are printed and recorded.",
)
@click.option(
    "--allow-plugin-drift",
    is_flag=True,
    help="Resume even if the code of components has changed; the changes are printed and recorded.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything, print parameter and step counts, and exit without training."
)
@runs_option
@output.json_option
@click.pass_obj
def train(
    registry: Registry,
    config_file: Path,
    overrides: tuple[str, ...],
    resume: str | None,
    allow_config_drift: bool,
    allow_plugin_drift: bool,
    dry_run: bool,
    runs: Path,
    as_json: bool,
) -> dict[str, Any] | None:
    """Train the model that CONFIG describes, preparing its data first if needed.

    After Ctrl-C, `--resume auto` continues the run, and the result is bit-identical to an uninterrupted one.
    """
    config, document = load_run_config(config_file, overrides, registry)
    if dry_run:
        result = _plan(config, document, runs)
        output.print_result(result, as_json, lambda: _plan_text(result))
        return result
    from penstock.train.training import train_run

    trained = train_run(
        config,
        document,
        runs,
        registry,
        overrides=overrides,
        resume=resume,
        allow_config_drift=allow_config_drift,
        allow_plugin_drift=allow_plugin_drift,
    )
    if trained is None:  # rank 0 has the result
        return None
    output.print_result(trained, as_json, lambda: trained_text(trained))
    return trained.to_json()


def trained_text(trained: Trained) -> str:
    begin = "already finished, nothing was trained now: trained" if trained.already_finished else "trained"
    speed = f"{trained.tokens_per_second:,.0f} tokens/s"
    lines = [f"{begin} {trained.train_tokens:,} tokens in {trained.seconds} s ({speed})"]
    if trained.learnt:
        from penstock.train.learnt import as_text

        lines.append(as_text(trained.learnt))
    return "\n".join([*lines, f"run: {trained.run_dir}"])


def _plan(config: RunConfig, document: ConfigDocument, runs: Path) -> dict[str, Any]:
    """What a run would be, computed from the model on the meta device; raises `ProblemError` with everything that would
    stop the run."""
    from penstock.train.checks import Planned, require
    from penstock.train.compose import parameter_summary, pick_device, size_table

    planned = Planned(config, runs)
    require(planned, document)
    per_step = config.train.batch_size * config.data.sequence_length
    return {
        "name": config.name,
        "device": str(pick_device(config.train.device)),
        "steps": math.ceil(config.train.tokens / per_step),
        "tokens_per_step": per_step,
        "parameters": parameter_summary(planned.composition).to_json(),
        "sizes": as_json(size_table(planned.composition)),
        "components": plugin_lock(config),
        "notes": export_notes(config),
    }


def _plan_text(plan: dict[str, Any]) -> str:
    parameters = plan["parameters"]
    rows = [(role, f"{count:,}") for role, count in parameters["by_role"].items()]
    rows += [("total", f"{parameters['total']:,}"), ("trained", f"{parameters['trained']:,}")]
    rows += [("active per token", f"{parameters['active']:,}")]
    components = [(c["kind"], c["name"], f"{c['distribution']} {c['version']}") for c in plan["components"]]
    return "\n\n".join(
        [
            f"{plan['name']}: {plan['steps']:,} steps of {plan['tokens_per_step']:,} tokens on {plan['device']}",
            output.table(("parameters", "count"), rows),
            output.table(("stored as", "size"), [(s["format"], output.human_bytes(s["bytes"])) for s in plan["sizes"]]),
            output.table(("kind", "component", "from"), components),
            *plan["notes"],
            "nothing was written: this was a dry run",
        ]
    )
