"""Renders runs as one self-contained page: inline style, inline charts, no script, no request to anywhere.

The page carries a content security policy that forbids all of those, so a sample or a name that got past escaping
could still load and run nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from penstock.evaluate.report import formats
from penstock.evaluate.report.compare import compare
from penstock.evaluate.report.data import Run, read_run
from penstock.evaluate.report.view import view
from penstock.hooks.problems import Problem, ProblemError


def render_report(run_directories: Sequence[Path], out: Path) -> Path:
    """Writes the report about the runs to `out`, whole or not at all, and returns `out`.

    One run gets a page; several get a comparison on top. The same runs give the same bytes. Raises `ProblemError`
    where a directory is no run; a stage that was not run, or a damaged file, is said on the page instead.
    """
    if not run_directories:
        raise ProblemError(Problem("no-runs", "a report needs at least one run directory", "report"))
    runs = [read_run(Path(directory)) for directory in run_directories]
    views = [
        view(run, label, f"run-{index}") for index, (run, label) in enumerate(zip(runs, labels(runs), strict=True), 1)
    ]
    comparison = compare(views) if len(views) > 1 else None
    return write_page("runs.html.j2", out, views=views, comparison=comparison)


def write_page(template: str, out: Path, **values: Any) -> Path:
    """Renders one of this folder's templates, which extends `base.html.j2`, to `out`, whole or not at all."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formats.number,
        "decimals": formats.decimals,
        "count": formats.count,
        "size": formats.size,
        "duration": formats.duration,
        "percent": formats.percent,
        "times": formats.times,
    }
    style = (here / "page.css").read_text(encoding="utf-8")
    _write(out, environment.get_template(template).render(style=style, **values))
    return out


def _readable(value: Any) -> Any:
    """Applied to whatever the template prints: text from the run is cleaned here, and escaped by jinja after."""
    return formats.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _write(out: Path, html: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(html.encode("utf-8", errors="replace"))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with the directory's name where two runs share one, and a number where that is shared too."""
    names = [run.name for run in runs]
    unique = [
        name if names.count(name) == 1 else f"{name} / {run.path.resolve().name}"
        for name, run in zip(names, runs, strict=True)
    ]
    return [name if unique.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(unique, start=1)]
