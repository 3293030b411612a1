"""What the benchmarks share: interleaved timing, bars, and the two ways to print.

The speed of one machine drifts by tens of percent within a minute, so nothing is compared across time: each round runs
every case once, in turn, and a figure is the median over rounds. A script exits with 1 where a bar is missed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

Row = Mapping[str, Any]

RESULTS = Path(__file__).with_name("results")
"""Results that `docs/claims.md` is written from, a file a script; only the scripts write them."""
_STORE = "penstock.benchmarks.store"


def peak_megabytes() -> float:
    """Of this process. On Linux `ru_maxrss` is at least that of the parent when it started the process."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--json`, and `--store`, which only `finish` sees."""

    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[_STORE] = value

    stored = "Keep the result for docs/claims.md, which `claims.py` writes."
    command = click.option("--store", is_flag=True, expose_value=False, callback=keep, help=stored)(command)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


runs_option = click.option(
    "--runs", default=None, type=click.Path(path_type=Path), help="Folder of runs, which are kept and reused."
)


def rounds(default: int) -> Callable[[Any], Any]:
    """The option `--rounds`; as many as the script can afford in about two minutes."""
    return click.option("--rounds", default=default, show_default=True, type=click.IntRange(min=1), help="Repeats.")


rounds_option = rounds(15)


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and the limit that it must keep."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'met   ' if self.met else 'MISSED'}  {self.name}: {self.value:.3g} (bar {sign} {self.limit:g})"


def interleaved(
    cases: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each case, over `rounds` rounds after `warmup` that do not count. A `clock` of the processor's
    time (`time.process_time`) tells milliseconds apart where others use the machine."""

    def timed(case: Callable[[], Any]) -> float:
        begun = clock()
        case()
        return clock() - begun

    return medians({name: partial(timed, case) for name, case in cases.items()}, rounds=rounds, warmup=warmup)


def medians(cases: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int = 1) -> dict[str, float]:
    """As `interleaved`, of the seconds that each case measures itself and returns."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name, case in cases.items():
            value = case()
            if number >= warmup:
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def finish(script: str, rows: Sequence[Row], bars: Sequence[Bar], as_json: bool, **facts: Any) -> NoReturn:
    """Prints what was measured and ends the script: exit code 0, or 1 where a bar is missed."""
    facts = {"python": platform.python_version(), "machine": machine(), "date": today(), "commit": commit(), **facts}
    facts["options"] = options(sys.argv[1:])
    listed = [{**asdict(bar), "met": bar.met} for bar in bars]
    result = {"benchmark": script, **facts, "rows": list(rows), "bars": listed}
    if click.get_current_context().meta.get(_STORE):
        store(result)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"{script}: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
        click.echo(_table(rows) + "\n\n" + "\n".join(map(str, bars)))
    sys.exit(0 if all(bar.met for bar in bars) else 1)


def store(result: Row) -> Path:
    """Keeps a result under the name of its script."""
    path = RESULTS / f"{result['benchmark']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def machine() -> str:
    """The class of machine: x86_64, 2 cores."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def options(arguments: Sequence[str]) -> str:
    """The options of a script that decide what it measures; a path is named by its option.

    >>> options(["--seeds", "5", "--data", "/some/where", "--runs", "there", "--json"])
    '--seeds 5 --data DATA'
    """
    listed = [each for each in arguments if each not in ("--json", "--store")]
    pairs = zip(["", *listed], listed, strict=False)
    kept = [each for before, each in pairs if "--runs" not in (before, each)]
    named = zip(["", *kept], kept, strict=False)
    return " ".join(before.lstrip("-").upper() if "/" in each else each for before, each in named)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def commit() -> str:
    """The commit that the script is of, with a + if files have changed since; "unknown" outside a repository."""
    asked = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    said = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
