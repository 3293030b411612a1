"""Reads a run directory into frozen values. A missing file is None; a damaged one is None and a `Problem`.

The page must be written even for a run that was killed half way, so nothing here stops at the first bad file: what
could not be read, and every figure that cannot be, is kept in `Run.problems`; the page and the command show it.

Shape suffixes: S steps, L mixture-of-experts layers, E experts, C columns (bins of steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.config import parse_config
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.drawing import Column
from penstock.report.plausible import impossible, plausible
from penstock.run.records.evaluation import Evaluation
from penstock.run.records.origin import Environment, PluginLock
from penstock.run.records.profile import Profile
from penstock.run.records.record import as_json, read_record
from penstock.run.records.simulation import Simulation
from penstock.run.records.training import FormatSize, Status
from penstock.traces.trace import RoutingTrace

ROWS = 20_000
"""Most training rows parsed: a chart shows 500 bins, and the rows of a million steps are 0.6 GB of JSON."""
COLUMNS = 200
"""Bins of steps in a heat map."""
SHOWN_LAYERS = 8
"""Largest number of heat maps drawn."""

NEVER_NEGATIVE = (
    "elapsed",
    "gradient_norm",
    "heldout/bits_per_byte",
    "heldout/loss",
    "learning_rate",
    "load/",
    "seconds/",
    "tokens",
)
"""Beginnings of the names of columns that cannot be negative. A plugin's losses and balance figures can."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Columns of `metrics.jsonl`, sorted by step; NaN where a row lacks a key.

    `stride` above 1 means that only every stride-th training row was parsed (and the last).
    """

    train: Mapping[str, Column]
    heldout: Mapping[str, Column]
    stride: int = 1

    def series(self, name: str) -> tuple[Column, Column] | None:
        """Steps and values of one column, training or held-out; None if it has no finite number."""
        table = self.heldout if name.startswith("heldout/") else self.train
        if name not in table or not np.isfinite(table[name]).any():
            return None
        return table["step"], table[name]


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """Expert load while training, binned in time: load divided by the layer's mean load.

    `ratio_LEC` holds the shown layers only, NaN where a bin has no assignments; `last_LE` holds all layers over the
    last tenth of the recorded rows. `data` is the fingerprint of the prepared data, empty if it is not recorded.
    """

    layers: tuple[int, ...]
    shown: tuple[int, ...]
    ratio_LEC: Column
    last_LE: Column
    first_step: int
    last_step: int
    data: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a report shows about one run."""

    path: Path
    name: str
    config: Mapping[str, Any]
    config_text: str
    overrides: str
    status: Status | None
    environment: Environment | None
    plugins: PluginLock | None
    metrics: Metrics | None
    load: LoadHistory | None
    evaluation: Evaluation | None
    profile: Profile | None
    simulation: Simulation | None
    sizes: list[FormatSize] | None
    stages: dict[str, float] | None
    problems: tuple[Problem, ...]

    @property
    def dense(self) -> bool:
        """Whether the model is known to have no mixture-of-experts layer."""
        if self.load is not None:
            return not self.load.layers
        if self.profile is not None:
            return not self.profile.layers
        roles = self.status.parameters.by_role if self.status and self.status.parameters else {}
        return bool(roles) and not any("expert" in role and size for role, size in roles.items())


def read_run(path: Path) -> Run:
    """Reads one run directory; raises `ProblemError` if it is not one."""
    if not path.is_dir():
        raise ProblemError(
            Problem(
                "missing-file", "run directory not found", str(path), "check the path, or run `penstock train CONFIG`"
            )
        )
    known = ("config.resolved.yaml", "status.json", "metrics.jsonl", "evaluation.json")
    if not any((path / name).exists() for name in known):
        raise ProblemError(
            Problem(
                "not-a-run",
                f"not a run directory: it has none of {', '.join(known)}",
                str(path),
                "give a run directory such as runs/NAME/TIME-HASH",
            )
        )
    problems: list[Problem] = []
    config_text, config = _read_config(path / "config.resolved.yaml", problems)
    profile = _read(path / "profile.json", Profile, problems)
    return Run(
        path=path,
        name=str(config.get("name") or path.resolve().name),
        config=config,
        config_text=config_text,
        overrides=_read_text(path / "overrides.txt", problems).strip(),
        status=_read(path / "status.json", Status, problems),
        environment=_read(path / "environment.json", Environment, problems),
        plugins=_read(path / "plugins.lock.json", PluginLock, problems),
        metrics=_read_metrics(path / "metrics.jsonl", problems),
        load=_read_load(path / "trace" / "train.npz", problems),
        evaluation=_read(path / "evaluation.json", Evaluation, problems),
        profile=_with_counts(profile, path / "trace" / "heldout.npz", problems),
        simulation=_read(path / "simulation.json", Simulation, problems),
        sizes=_read(path / "sizes.json", list[FormatSize], problems),
        stages=_read(path / "stages.json", dict[str, float], problems),
        problems=tuple(problems),
    )


def _read_text(path: Path, problems: list[Problem]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem("unreadable-file", f"cannot be read as text ({error})", str(path)))
        return ""


def _read_config(path: Path, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    text = _read_text(path, problems)
    try:
        return text, parse_config(text, str(path)).value
    except ProblemError as error:
        problems.extend(error.problems)
        return text, {}


def _read(path: Path, kind: type[T], problems: list[Problem]) -> T | None:
    try:
        found = read_record(kind, path)
        if not _fits_64_bits(as_json(found)):
            raise ProblemError(Problem("damaged-file", "an integer has more than 64 bits", str(path), "write it again"))
    except ProblemError as error:
        problems.extend(error.problems)
        return None
    return None if found is None else plausible(found, str(path), problems)


def _fits_64_bits(value: Any) -> bool:
    """Whether a page can compute with every integer in it, which it does in floats and int64."""
    if isinstance(value, Mapping | list):
        return all(map(_fits_64_bits, value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _read_metrics(path: Path, problems: list[Problem]) -> Metrics | None:
    if not path.is_file():
        return None
    stride = _stride(path)
    train: dict[float, dict[str, Any]] = {}
    heldout: dict[float, dict[str, Any]] = {}
    bad = 0
    for row in _parsed(_sampled(path, stride)):
        step = row.get("step") if row is not None else None
        if row is None or not _is_number(step) or not math.isfinite(step):
            bad += 1
            continue
        # A run resumed from a checkpoint repeats some steps: the later row counts.
        if any(key.startswith("heldout/") for key in row):
            heldout[float(step)] = row
        if "loss" in row or not any(key.startswith("heldout/") for key in row):
            train[float(step)] = row
    if bad:
        problems.append(Problem("damaged-file", f"{bad} unreadable rows were skipped", str(path)))
    if not train and not heldout:
        return None
    trained, evaluated = (_possible(_columns(rows), path, problems) for rows in (train, heldout))
    return Metrics(trained, evaluated, stride)


def _possible(table: dict[str, Column], path: Path, problems: list[Problem]) -> dict[str, Column]:
    """The columns, with NaN for values below 0 of figures that are never negative."""
    for name, column in table.items():
        wrong = column < 0
        if not name.startswith(NEVER_NEGATIVE) or not wrong.any():
            continue
        first, rows = int(np.flatnonzero(wrong)[0]), int(wrong.sum())
        what = f"{impossible(float(column[first]))}, so it is left out" + (f", as are {rows - 1} more" * (rows > 1))
        where = f"{path}: {name} of step {table['step'][first]:g}"
        problems.append(Problem("impossible-value", what, where, "train the run again"))
        table[name] = np.where(wrong, math.nan, column)
    return table


def _stride(path: Path) -> int:
    """The stride over training rows, from the size of the file and of its first rows."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    rows = path.stat().st_size * head.count(b"\n") / max(1, len(head))
    return max(1, math.ceil(rows / ROWS))


def _sampled(path: Path, stride: int) -> Iterable[bytes]:
    """Every stride-th line, every held-out line, and the last complete line; a line cut off mid-write is dropped."""
    skipped = b""
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if not line.endswith((b"\n", b"}")):
                break
            wanted = index % stride == 0 or b'"heldout/' in line
            skipped = b"" if wanted else line
            if wanted:
                yield line
    if skipped:
        yield skipped


def _parsed(lines: Iterable[bytes]) -> Iterable[dict[str, Any] | None]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        yield row if isinstance(row, dict) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2.0**63) < value < 2.0**63


def _columns(rows: Mapping[float, Mapping[str, Any]]) -> dict[str, Column]:
    ordered = [rows[step] for step in sorted(rows)]
    names = dict.fromkeys(key for row in ordered for key, value in row.items() if _is_number(value))
    return {
        name: np.array([value if _is_number(value := row.get(name)) else math.nan for row in ordered], dtype=np.float64)
        for name in names
    }


def _load_trace(path: Path, problems: list[Problem]) -> RoutingTrace | None:
    if not path.is_file():
        return None
    try:
        return RoutingTrace.load(path)
    except ProblemError as error:
        problems.extend(error.problems)
        return None


def _read_load(path: Path, problems: list[Problem]) -> LoadHistory | None:
    trace = _load_trace(path, problems)
    return None if trace is None or not len(trace.counts_SLE) else binned(trace)


def binned(trace: RoutingTrace, columns: int = COLUMNS, shown: int = SHOWN_LAYERS) -> LoadHistory:
    """Bins the rows of a trace into at most `columns` of equal width, for `shown` layers chosen evenly."""
    rows, layers = trace.counts_SLE.shape[:2]
    steps = trace.header.get("steps")
    first, last = (steps[0], steps[-1]) if isinstance(steps, list) and len(steps) == rows else (1, rows)
    rank = np.unique(np.linspace(0, layers - 1, min(shown, layers)).round().astype(int))
    edges = np.linspace(0, rows, min(columns, rows) + 1).astype(int)[:-1]
    counts_CLE = np.add.reduceat(trace.counts_SLE[:, rank], edges, axis=0)
    names = layer_names(trace, layers)
    return LoadHistory(
        layers=names,
        shown=tuple(names[row] for row in rank),
        ratio_LEC=relative(counts_CLE).transpose(1, 2, 0),
        last_LE=relative(trace.counts_SLE[-max(1, rows // 10) :].sum(axis=0)),
        first_step=int(first),
        last_step=int(last),
        data=str(trace.header.get("data") or ""),
    )


def layer_names(trace: RoutingTrace, layers: int) -> tuple[int, ...]:
    """The model's index of each layer in the trace; 0, 1, ... if the header does not say."""
    names = trace.header.get("layers")
    return tuple(names) if isinstance(names, list) and len(names) == layers else tuple(range(layers))


def relative(counts: NDArray[np.integer[Any]] | Sequence[int]) -> Column:
    """Counts [..., E] divided by their mean over experts; NaN if all are zero."""
    array = np.asarray(counts, dtype=np.float64)
    mean = array.mean(axis=-1, keepdims=True) if array.size else array
    return np.divide(array, mean, out=np.full_like(array, math.nan), where=mean > 0)


def _with_counts(profile: Profile | None, path: Path, problems: list[Problem]) -> Profile | None:
    """The profile, with layer counts taken from the trace if it has none itself."""
    if profile is None or all(layer.counts for layer in profile.layers):
        return profile
    trace = _load_trace(path, problems)
    if trace is None:
        return profile
    counts = dict(zip(layer_names(trace, trace.counts_SLE.shape[1]), trace.counts_LE.tolist(), strict=True))
    layers = [replace(layer, counts=layer.counts or counts.get(layer.layer)) for layer in profile.layers]
    return replace(profile, layers=layers)
