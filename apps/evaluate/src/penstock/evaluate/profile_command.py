"""`penstock profile`: of a run, which is recorded, or of a trace file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.run_directory import RunDirectory, write_json
from penstock.evaluate.choices import choose
from penstock.evaluate.commands import stage
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.hooks.trace import RoutingTrace


@click.command()
@click.argument("path", metavar="RUN|TRACE", type=click.Path(path_type=Path))
@click.option("--max-tokens", type=click.IntRange(min=1), help="Read only the first so many held-out tokens of RUN.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with heat maps here.")
@click.option(
    "--modify",
    metavar="STRATEGY,...",
    help="Measure RUN with other assignments: all, or of balanced, round-robin, random, topk-filtered, temperature.",
)
@click.option("--fraction", default=None, help="Shares of the tokens that --modify changes; 0,0.25,0.5,1 if not given.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Of the draws of topk-filtered and temperature; 1 if not given.",
)
@output.json_option
@click.pass_obj
def profile(
    registry: Registry,
    path: Path,
    max_tokens: int | None,
    report: Path | None,
    modify: str | None,
    fraction: str | None,
    temperature: float | None,
    as_json: bool,
) -> dict[str, Any]:
    """Record which experts RUN's model chooses on held-out text: trace/heldout.npz and profile.json. Or show those of
    TRACE: a trace .npz, a table of counts .json or lines of vLLM .jsonl, also packed with xz. With --modify, measure
    how RUN does with other assignments than its routers': modified.json and modified.html."""
    if modify is None and (fraction is not None or temperature is not None):
        option = "--temperature" if fraction is None else "--fraction"
        raise ProblemError(Problem("bad-value", "nothing is to be modified", option, "add --modify STRATEGY"))
    if modify is not None:
        return _modified(registry, path, max_tokens, report, modify, fraction or "0,0.25,0.5,1", temperature, as_json)
    if path.is_file():
        return _of_file(path, max_tokens, report, as_json)
    return _of_run(registry, path, max_tokens, report, as_json)


def _of_file(path: Path, max_tokens: int | None, report: Path | None, as_json: bool) -> dict[str, Any]:
    from penstock.evaluate.atlas import atlas
    from penstock.evaluate.trace_files import read_traces

    if max_tokens is not None:
        raise ProblemError(Problem("bad-value", "a trace is read as a whole", "--max-tokens", "leave it out"))
    traces = read_traces(path)
    result = atlas(traces)
    page = _page(path.name, traces, result, report)
    output.print_result(result, as_json, lambda: "\n\n".join([*map(_model_text, result["models"]), *page]))
    return result


def _of_run(
    registry: Registry, path: Path, max_tokens: int | None, report: Path | None, as_json: bool
) -> dict[str, Any]:
    from penstock.evaluate.atlas import HEADINGS, atlas, layer_line
    from penstock.evaluate.profiling import profile_figures, record_trace
    from penstock.train.restore import restore

    run = RunDirectory.open(path)
    with run.lock(), stage(run, "profile"):
        trace = record_trace(restore(path, registry), max_tokens=max_tokens)
        trace.save(run.trace("heldout"))
        result = profile_figures(trace)
        write_json(run.path / "profile.json", result)
    traces = {run.config(registry).name: trace}
    page = _page(path.name, traces, atlas(traces), report) if report else []
    output.print_result(
        result,
        as_json,
        lambda: "\n".join(
            [
                output.table(HEADINGS, map(layer_line, result["layers"])),
                f"MaxVio over all {result['tokens']:,} tokens {result['max_violation_global']:.3f}, "
                f"in a batch {result['max_violation_batch']:.3f}",
                f"trace: {run.trace('heldout')}",
                *page,
            ]
        ),
    )
    return result


def _modified(
    registry: Registry,
    path: Path,
    max_tokens: int | None,
    report: Path | None,
    modify: str,
    fraction: str,
    temperature: float | None,
    as_json: bool,
) -> dict[str, Any]:
    from penstock.evaluate import modification
    from penstock.train.restore import restore

    strategies, fractions = modification.strategies_of(modify), modification.fractions_of(fraction)
    run = RunDirectory.open(path)
    network = run.config(registry).simulate
    with run.lock(), stage(run, "modify"):
        result = modification.modification_result(
            restore(path, registry),
            network.topology or choose(registry, "topology", "two-level"),
            network.placement or choose(registry, "placement", "contiguous"),
            strategies,
            fractions,
            max_tokens=max_tokens,
            temperature=temperature or 1.0,
        )
        write_json(run.path / "modified.json", result)
        page = modification.write_modification_page(
            run.config(registry).name, result, report or run.path / "modified.html"
        )
    table = output.table(modification.COLUMNS, map(modification.line, result["rows"]))
    output.print_result(result, as_json, lambda: f"{table}\n\n{modification.HELP}\npage: {page}")
    return result


def _page(title: str, traces: Mapping[str, RoutingTrace], result: Mapping[str, Any], report: Path | None) -> list[str]:
    """Writes the page where one is asked for; the line that says where."""
    from penstock.evaluate.atlas import write_atlas

    return [f"page: {write_atlas(title, traces, result, report)}"] if report else []


def _model_text(model: Mapping[str, Any]) -> str:
    from penstock.evaluate.atlas import HEADINGS, layer_line, verdicts

    dropped = model["dropped_warm_up"]
    head = f"{model['model']}: {model['assignments']:,} assignments"
    head += f", after {dropped:,} warm-up rows that were dropped" if dropped else ""
    return "\n".join([head, "", output.table(HEADINGS, map(layer_line, model["layers"])), "", *verdicts(model)])
