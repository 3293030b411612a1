"""`penstock plugins check`: checks a component against every law of its kind."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.conformance import Report, Status, Waiver, check, laws_of
from penstock.hooks.component import KINDS
from penstock.hooks.config import ConfigDocument, apply_overrides, validate_settings
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Entry, Registry
from penstock.hooks.schema import schema_of

WIDTH = max(len(status) for status in Status)
COLORS = {Status.PASSED: "green", Status.FAILED: "red", Status.WAIVED: "yellow", Status.NOT_REACHED: "red"}

kind_option = click.option(
    "--kind", type=click.Choice(sorted(KINDS)), help="Component kind, if several kinds have NAME."
)


@click.command("check")
@click.argument("name")
@kind_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Check with this setting (repeatable).")
@click.option(
    "--waive",
    "waived",
    nargs=3,
    multiple=True,
    metavar="LAW UNTIL REASON",
    help="Excuse the component from a law until a date (2027-01-31), with a reason (repeatable).",
)
@output.json_option
@click.pass_obj
def check_plugin(
    registry: Registry,
    name: str,
    kind: str | None,
    overrides: tuple[str, ...],
    waived: tuple[tuple[str, str, str], ...],
    as_json: bool,
) -> list[dict[str, Any]]:
    """Check a component against every law of its kind. Exits with code 1 if one is broken.

    NAME is a component's name, `distribution:name` or `kind/name`. If several kinds have NAME, all are checked.
    """
    entries = entries_named(registry, name, kind)
    waivers = [_waiver(entries, *each) for each in waived]
    reports = [run_check(entry, registry, overrides, waivers) for entry in entries]
    result = [report.as_dict() for report in reports]
    output.print_result(result, as_json, lambda: "\n\n".join(map(as_text, reports)))
    if not all(report.passed for report in reports):
        raise SystemExit(ExitCode.FAILED)
    return result


def entries_named(registry: Registry, name: str, kind: str | None = None) -> list[Entry]:
    """The components behind a name, at most one per kind; raises `ProblemError` if no component has the name, or if
    several distributions offer the short name for one kind."""
    before, slash, after = name.partition("/")
    if slash and before in KINDS:
        return [registry.get(before, after)]
    if kind is not None:
        return [registry.get(kind, name)]
    short = name.rpartition(":")[2]
    having = [each for each in KINDS if short in registry.names(each)]
    entries: list[Entry] = []
    missing: ProblemError | None = None
    for each in having:
        try:
            entries.append(registry.get(each, name))
        except ProblemError as error:  # a distribution may offer the name for one kind but not for another
            if ":" not in name:
                raise
            missing = error
    if not entries:
        raise missing or _unknown(registry, name)
    return entries


def run_check(
    entry: Entry, registry: Registry, overrides: Sequence[str] = (), waivers: Sequence[Waiver] = ()
) -> Report:
    """The kit's report. A note on stderr announces the check, because some kinds take a while."""
    output.note(f"{entry.component.kind} {entry.id}: {len(laws_of(entry.component.kind))} laws")
    known = {law.id for law in laws_of(entry.component.kind)}
    own = [waiver for waiver in waivers if waiver.law in known]
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(entry, registry, overrides, Path(folder))
        return check(entry, settings=settings, registry=registry, waivers=own)


def as_text(report: Report) -> str:
    """Every law with its status, the observation if there is one, and the remedy if the law is broken."""
    lines = [f"{report.kind} {report.component}, contract {report.contract}"]
    for result in report.results:
        lines.append(f"  {_colored(result.status)}  {result.law}: {result.statement}")
        if result.seen:
            lines.append(f"{'':{WIDTH + 4}}{result.seen}")
        if result.remedy and result.status is Status.FAILED:
            lines.append(f"{'':{WIDTH + 4}}remedy: {result.remedy}")
    return "\n".join([*lines, "", report.verdict])


def _colored(status: Status) -> str:
    return click.style(f"{status:{WIDTH}}", fg=COLORS.get(status))


def _settings(entry: Entry, registry: Registry, overrides: Sequence[str], folder: Path) -> Mapping[str, Any] | None:
    """The example of the component's schema with the overrides applied; None, meaning the example, if there are no
    overrides. Raises `ProblemError` for invalid settings, and for a component whose schema has no example although its
    settings have no defaults: nothing is known to be wrong with it."""
    example = dict(schema_of(entry).example(folder))
    settings = apply_overrides(ConfigDocument(example, {(): "example"}, "--set"), overrides).value
    try:
        validate_settings(entry, settings, registry, "--set")
    except ProblemError as error:
        if overrides or example:
            raise
        needed = "; ".join(str(problem).removeprefix("--set: ") for problem in error.problems)
        what = f"{entry.component.kind} '{entry.component.name}' needs settings to be checked ({needed})"
        fix = "pass them with --set, or return working ones from `example` of its schema"
        raise ProblemError(Problem("needs-settings", what, fix=fix)) from error
    return settings if overrides else None


def _waiver(entries: Sequence[Entry], law: str, until: str, reason: str) -> Waiver:
    known = {each.id for entry in entries for each in laws_of(entry.component.kind)}
    if law not in known:
        what = f"unknown law '{law}' for {', '.join(entry.component.kind for entry in entries)}"
        raise ProblemError(Problem("unknown-law", what, "--waive", f"known: {', '.join(sorted(known))}"))
    try:
        return Waiver(law, reason, date.fromisoformat(until))
    except ValueError as error:
        fix = "write LAW 2027-01-31 'why it is broken'"
        raise ProblemError(Problem("bad-waiver", str(error), "--waive", fix)) from error


def _unknown(registry: Registry, name: str) -> ProblemError:
    """The registry's problem for a name that no kind has: which package provides it, or which name was meant."""
    try:
        registry.find(list(KINDS), name)
    except ProblemError as error:
        problem = error.problems[0]
        if (Path(name) / "pyproject.toml").is_file():
            what, fix = f"unknown component '{name}'", f"install its package with `uv pip install --editable {name}`"
            return ProblemError(Problem(problem.code, what, problem.where, fix), error.exit_code)
        what = f"unknown component '{name}'" if problem.code == "unknown-component" else problem.what
        return ProblemError(Problem(problem.code, what, problem.where, problem.fix), error.exit_code)
    raise AssertionError("a name that no kind has was found")
