"""`penstock prepare` and `penstock train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.options import config_argument, overrides_argument, runs_option
from penstock.hooks.config import ConfigDocument
from penstock.hooks.problems import Problem, ProblemError
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
    "--fork",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Begin with the steps that RUN has trained alike: a shorter run of the same config, up to its decay.",
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
    "--ranks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train as N processes on this machine, which share the cores and take a share of each batch; engine `ddp` "
    "where the config says `local`.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="With --ranks: when a rank fails, start all again from the last checkpoint, up to N times.",
)
@click.option(
    "--lr-find",
    is_flag=True,
    help="Do not train: find learning rates for this config with ramps of a few steps from three seeds, and draw them.",
)
@click.option(
    "--overfit-tokens",
    type=click.IntRange(min=2, max=65_536),
    metavar="N",
    help="Do not train: check that the model learns N tokens by heart (1024 is usual), and say what is wrong if not.",
)
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Pause after so many tokens with a checkpoint; the schedule is that of the whole run, and --resume goes on.",
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
    fork: Path | None,
    allow_config_drift: bool,
    allow_plugin_drift: bool,
    ranks: int | None,
    max_restarts: int,
    lr_find: bool,
    overfit_tokens: int | None,
    until: int | None,
    dry_run: bool,
    runs: Path,
    as_json: bool,
) -> dict[str, Any] | None:
    """Train the model that CONFIG describes, preparing its data first if needed.

    After Ctrl-C, `--resume auto` continues the run, and the result is bit-identical to an uninterrupted one.
    """
    if max_restarts and not ranks:
        raise click.UsageError("--max-restarts needs --ranks: one process alone is not watched")
    if lr_find or overfit_tokens:
        if ranks or resume or fork or until or dry_run or (lr_find and overfit_tokens):
            what = "--lr-find and --overfit-tokens train no run: give one of them alone"
            raise click.UsageError(f"{what}, without --ranks, --resume, --fork, --until and --dry-run")
        from penstock.train.trials import look_for_rates, look_whether_it_learns

        config, document = load_run_config(config_file, overrides, registry)
        if overfit_tokens:
            return look_whether_it_learns(config, document, runs, overfit_tokens, as_json=as_json)
        return look_for_rates(config, document, runs, as_json=as_json)
    if ranks:
        from penstock.train.launch import require_no_launcher

        require_no_launcher()
    overrides = (*overrides, *_engine_of_ranks(config_file, overrides, registry, ranks or 1))
    config, document = load_run_config(config_file, overrides, registry)
    if dry_run:
        result = _plan(config, document, runs, ranks)
        if resume:
            allowed = {"allow_config_drift": allow_config_drift, "allow_plugin_drift": allow_plugin_drift}
            result["continues"] = _continued(config, runs, resume, **allowed)
        if fork and not result.get("continues"):
            result["begins_with"] = _begun(config, fork, registry)
        if not _later_rank(config):
            output.print_result(result, as_json, lambda: _plan_text(result))
        return result
    if ranks:
        from penstock.train.training import train_on_ranks

        paused = [f"--until={until}"] if until else []
        drift = ["--allow-config-drift"] * allow_config_drift + ["--allow-plugin-drift"] * allow_plugin_drift
        train_on_ranks(
            config,
            document,
            runs,
            registry,
            ranks=ranks,
            max_restarts=max_restarts,
            arguments=["train", str(config_file), *overrides, *drift, *paused, *["--json"] * as_json],
            overrides=overrides,
            resume=resume,
            fork=fork,
            allow_config_drift=allow_config_drift,
        )
        return None  # rank 0 has printed the result
    from penstock.train.training import train_run

    trained = train_run(
        config,
        document,
        runs,
        registry,
        overrides=overrides,
        resume=resume,
        fork=fork,
        allow_config_drift=allow_config_drift,
        allow_plugin_drift=allow_plugin_drift,
        until=None if until is None else math.ceil(until / config.tokens_per_step),
    )
    if trained is None:  # rank 0 has the result
        return None
    output.print_result(trained, as_json, lambda: trained_text(trained))
    return trained.to_json()


def _engine_of_ranks(path: Path, overrides: tuple[str, ...], registry: Registry, ranks: int) -> list[str]:
    """What to override so that several ranks train one run: an engine that is one process would train several."""
    if ranks == 1:
        return []
    engine = load_run_config(path, overrides, registry)[0].train.engine.entry.component
    if "several-ranks" in engine.capabilities:
        return []
    if engine.name != "local":
        what = f"--ranks starts {ranks} processes, but engine '{engine.name}' uses 1"
        raise ProblemError(Problem("wrong-ranks", what, "train.engine", "use train.engine=ddp, or leave out --ranks"))
    output.note(f"{ranks} ranks: train.engine=ddp instead of local")
    return ["train.engine=ddp"]


def trained_text(trained: Trained) -> str:
    begin = "already finished, nothing was trained now: trained" if trained.already_finished else "trained"
    speed = f"{trained.tokens_per_second:,.0f} tokens/s"
    lines = [f"{begin} {trained.train_tokens:,} tokens in {trained.seconds} s ({speed})"]
    if trained.learnt:
        from penstock.train.learnt import as_text

        lines.append(as_text(trained.learnt))
    return "\n".join([*lines, f"run: {trained.run_dir}"])


def _plan(config: RunConfig, document: ConfigDocument, runs: Path, ranks: int | None) -> dict[str, Any]:
    """What a run would be, computed from the model on the meta device, and what each of its ranks would do; raises
    `ProblemError` with everything that would stop the run."""
    from penstock.train.checks import Planned, require
    from penstock.train.compose import parameter_summary, pick_device, size_table
    from penstock.train.shares import shares_of_ranks

    planned = Planned(config, runs)
    require(planned, document)
    shares = {"ranks": as_json(shares_of_ranks(planned, ranks))} if ranks else {}
    per_step = config.train.batch_size * config.data.sequence_length
    return {
        "name": config.name,
        "device": str(pick_device(config.train.device)),
        "steps": math.ceil(config.train.tokens / per_step),
        "tokens_per_step": per_step,
        "parameters": parameter_summary(planned.composition).to_json(),
        "sizes": as_json(size_table(planned.composition)),
        "components": plugin_lock(config),
        **shares,
        "notes": export_notes(config),
    }


def _continued(config: RunConfig, runs: Path, resume: str, **allowed: bool) -> dict[str, Any] | None:
    """The run that `--resume` would continue and from which step; None if a new run would start. Raises
    `ProblemError` for a run that may not be continued."""
    from penstock.train.checkpoint import newest_checkpoint
    from penstock.train.resume import check_resume, find_run

    found = find_run(runs, config, resume, allow_config_drift=allowed["allow_config_drift"])
    if found is None:
        return None
    changed = check_resume(found, config, **allowed).changes
    checkpoint = newest_checkpoint(found.checkpoints, output.warn)
    step = checkpoint.step if checkpoint else 0
    return {"run": str(found.path), "step": step, "changes": [str(change) for change in changed]}


def _begun(config: RunConfig, fork: Path, registry: Registry) -> dict[str, Any]:
    """The run that `--fork` would begin with and up to which step. Raises `ProblemError` for one that it may not."""
    from penstock.train.fork import find_origin

    origin = find_origin(config, fork, registry)
    return {"run": str(origin.run.path), "step": origin.checkpoint.step}


def _later_rank(config: RunConfig) -> bool:
    """Whether a launcher started this process as one of several and another speaks for it. Raises `ProblemError` for
    variables of a launcher that training would refuse."""
    from penstock.train.rendezvous import place, started_by_launcher

    started, number = started_by_launcher()
    if started > 1 and "several-ranks" in config.train.engine.entry.component.capabilities:
        place()
    return number > 0


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
            *([_shares_text(plan["ranks"])] if "ranks" in plan else []),
            *plan["notes"],
            *([_continued_text(plan["continues"])] if "continues" in plan and "begins_with" not in plan else []),
            *([_begun_text(plan["begins_with"])] if "begins_with" in plan else []),
            "nothing was written: this was a dry run",
        ]
    )


def _continued_text(continued: dict[str, Any] | None) -> str:
    if continued is None:
        return "a new run would start"
    lines = [f"would continue {continued['run']} from step {continued['step']:,}"]
    return "\n".join([*lines, *(f"changed: {change}" for change in continued["changes"])])


def _begun_text(begun: dict[str, Any]) -> str:
    return f"a new run would begin with the first {begun['step']:,} steps of {begun['run']}"


def _shares_text(shares: list[dict[str, Any]]) -> str:
    rows = [
        (
            share["rank"],
            f"{share['micro_batches']} x {share['micro_batch_size']}",
            share["threads"],
            output.human_bytes(share["parameter_bytes"]),
        )
        for share in shares
    ]
    return output.table(("rank", "micro-batches x sequences", "threads", "parameters"), rows)
