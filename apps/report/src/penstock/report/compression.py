"""The ledger of a compression as a table and a page: bytes against quality, with intervals, beside the rivals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from penstock.cli import output
from penstock.hooks.problems import Problem, ProblemError
from penstock.pages import drawing, formats
from penstock.pages.card import Card
from penstock.pages.page import write_page
from penstock.report.rivals import RIVALS
from penstock.run.records.compression import LEDGER, Compression, LedgerRow
from penstock.run.records.record import read_record

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
TEMPLATE = Path(__file__).with_name("compression.html.j2")
COLUMNS = (
    "row",
    "trained",
    "parameters",
    "bytes",
    "bits a parameter",
    "against fp32",
    "against bf16",
    "quality",
    "lost",
    "seeds",
    "tokens/s",
    "decoded by",
)
ACCOUNT = ("row", "weights", "scales", "header", "hashes", "padding", "locks", "sum", "tokenizer", "file")
STEPS = ("row", "what it adds to the row before")
RIVAL_COLUMNS = ("rival", "against fp32", "against bf16", "quality", "source")
NAMED = 16
"""Most points of a picture with a name."""
LETTER, LINE = 6.5, 13
"""Pixels of a letter, and of a line of names."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """A compression with the name that the page gives it."""

    label: str
    folder: Path
    record: Compression

    @property
    def basis(self) -> tuple[str, tuple[str, ...]]:
        """What quality was measured by and on: only rows that agree in both compare."""
        return self.record.metric, tuple(sorted({file.text for file in self.record.files}))


def is_compression(path: Path) -> bool:
    return (path / LEDGER).is_file()


def read_compression(folder: Path) -> Compression:
    """Raises `ProblemError` if the folder has no ledger, or one that cannot be."""
    path = folder / LEDGER
    record = read_record(Compression, path)
    if record is None:
        what, fix = "no ledger of a compression", "give the folder that `penstock compress` wrote"
        raise ProblemError(Problem("missing-file", what, str(path), fix))
    if not record.rows or any(row.parameters < 1 or row.bytes.model < 1 for row in record.rows):
        what, fix = "a ledger without rows, or with a row of no parameters or bytes", "run `penstock compress` again"
        raise ProblemError(Problem("damaged-file", what, str(path), fix))
    return record


def write_compressions(folders: Sequence[Path], out: Path) -> Path:
    """Atomically writes the page about the ledgers in some folders to `out`."""
    ledgers = [Ledger(label, folder, read_compression(folder)) for label, folder in _labelled(folders)]
    return write_page(
        TEMPLATE,
        out,
        title=ledgers[0].label if len(ledgers) == 1 else f"{len(ledgers)} compressions",
        cards=list(_cards(ledgers)),
        ledgers=[(each.label, _lead(each.record), tables(each.record)) for each in ledgers],
        rivals=(RIVAL_COLUMNS, rival_rows()),
        caption=CAPTION,
    )


def _labelled(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The plan of each ledger; of plans that are called alike, the folder too."""
    plans = [read_compression(folder).plan for folder in folders]
    for plan, folder in zip(plans, folders, strict=True):
        yield plan if plans.count(plan) == 1 else f"{plan} ({folder.resolve().name})", folder


# ------------------------------------------------------------------------------------------------------------- tables

CAPTION = (
    "Bytes are those of each row's file without the tokenizer, measured. Ratios are of 4 bytes a parameter of the "
    "first row (fp32) and of 2 (bf16). Quality is a mean over seeds, `lost` the mean of the differences to the first "
    "row with the same seed, each with Student's 95 % interval; fewer than three seeds have none. Rows that are not "
    "trained have the weights of the row before."
)


def ledger_text(record: Compression) -> str:
    """What the command prints."""
    shown = [output.table(columns, lines) for columns, lines in (*tables(record), (RIVAL_COLUMNS, rival_rows()))]
    return "\n\n".join([_lead(record), *shown, CAPTION])


def tables(record: Compression) -> list[Table]:
    """The ledger, the bytes of each file, and the steps."""
    steps = [
        (row.name, row.change or "the run's model, in full precision and with nothing shared") for row in record.rows
    ]
    return [(COLUMNS, rows(record)), (ACCOUNT, account(record)), (STEPS, steps)]


def _lead(record: Compression) -> str:
    """What the ratios are of, and how much of the ledger there is."""
    done, wanted = {file.seed for file in record.files}, len(record.wanted)
    direction = "higher" if record.higher_is_better else "lower"
    text = (
        f"{record.rows[0].parameters:,} parameters: {formats.size(record.fp32_bytes)} in fp32, "
        f"{formats.size(record.bf16_bytes)} in bf16. Quality is {record.metric}, {direction} is better; "
        f"{len(done)} of {wanted} seeds."
    )
    return f"{text} Measured on {record.machine}." if record.machine else text


def rows(record: Compression) -> list[tuple[str, ...]]:
    """A line under `COLUMNS` for each row."""
    return [_line(record, row) for row in record.rows]


def _line(record: Compression, row: LedgerRow) -> tuple[str, ...]:
    difference, size = row.difference, row.bytes.model
    return (
        row.name,
        "yes" if row.trained else "no",
        f"{row.parameters:,}",
        f"{size:,}",
        f"{row.bits:.3f}",
        formats.times(record.fp32_bytes / size),
        formats.times(record.bf16_bytes / size),
        _with_interval(row.quality.mean, row.quality.half_width),
        "" if difference is None else _with_interval(_lost(record, difference.mean), difference.half_width, "+"),
        str(row.quality.seeds),
        formats.DASH if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        row.decoded_by,
    )


def _lost(record: Compression, difference: float) -> float:
    """How much worse, whichever direction is better."""
    return -difference if record.higher_is_better else difference


def _with_interval(value: float, half: float | None, sign: str = "") -> str:
    """A value with the digits that its interval leaves.

    >>> _with_interval(0.02134, 0.0104, "+"), _with_interval(1.5, None)
    ('+0.021 \xb1 0.010', '1.5000')
    """
    digits = formats.digits_for(half) if half else 4
    shown = f"{value:{sign}.{digits}f}"
    return shown if half is None else f"{shown} \xb1 {half:.{digits}f}"


def account(record: Compression) -> list[tuple[str, ...]]:
    """A line under `ACCOUNT` for each row: every byte of its file, once."""
    lines: list[tuple[str, ...]] = []
    for row in record.rows:
        size = row.bytes
        weights = " + ".join(f"{count:,} {name}" for name, count in size.codes.items() if count)
        parts = (size.scales, size.header, size.hashes, size.padding, size.other, size.model, size.tokenizer, size.file)
        lines.append((row.name, weights, *(f"{part:,}" for part in parts)))
    return lines


def rival_rows() -> list[tuple[str, ...]]:
    """A line under `RIVAL_COLUMNS` for each rival."""
    return [
        (each.name, formats.times(each.against_fp32), formats.times(each.against_bf16), each.quality, each.source)
        for each in RIVALS
    ]


# ------------------------------------------------------------------------------------------------------------ picture


@dataclass(frozen=True, slots=True)
class Point:
    """A row in the picture. `best` says that no other row is both smaller and better."""

    name: str
    series: int
    bytes: int
    mean: float
    half_width: float
    best: bool


def _cards(ledgers: Sequence[Ledger]) -> Iterator[Card]:
    """A picture for each basis on which rows compare."""
    bases = list(dict.fromkeys(each.basis for each in ledgers))
    for number, basis in enumerate(bases, 1):
        shown = [each for each in ledgers if each.basis == basis]
        record = shown[0].record
        direction = "higher is better" if record.higher_is_better else "lower is better"
        text = (
            "Each point is a row, with the 95 % interval over seeds. Filled points are those that no other row beats "
            "in both bytes and quality; the line joins them."
        )
        if len(bases) > 1:
            text += " Ledgers that were measured on other text have a picture of their own."
        yield Card("Bytes against quality", f"{record.metric}, {direction}", pareto_chart(shown, number), text)


def points(ledgers: Sequence[Ledger]) -> list[Point]:
    """All rows of some ledgers; a row that several plans have in common is shown once."""
    higher = ledgers[0].record.higher_is_better
    found: dict[tuple[int, float], tuple[str, int, LedgerRow]] = {}
    for series, ledger in enumerate(ledgers):
        for row in ledger.record.rows:
            name = row.name if len(ledgers) == 1 else f"{ledger.label}: {row.name}"
            found.setdefault((row.bytes.model, row.quality.mean), (name, series, row))
    return [
        Point(name, series, size, mean, row.quality.half_width or 0.0, not _beaten(size, mean, found, higher))
        for (size, mean), (name, series, row) in found.items()
    ]


def _beaten(size: int, mean: float, all_of_them: Mapping[tuple[int, float], object], higher: bool) -> bool:
    sign = -1 if higher else 1
    return any(
        other <= size and sign * value <= sign * mean and (other, value) != (size, mean) for other, value in all_of_them
    )


def pareto_chart(ledgers: Sequence[Ledger], number: int) -> drawing.Chart:
    """Quality over bytes, on a logarithmic axis; one colour a ledger."""
    drawn = points(ledgers)
    front = sorted((point.bytes, point.mean) for point in drawn if point.best)

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.set_xscale("log")
        axes.plot(*zip(*front, strict=True), color=drawing.MUTED, linewidth=1, zorder=2)
        for point in drawn:
            color = drawing.SERIES[point.series % len(drawing.SERIES)]
            fill = color if point.best else drawing.CARD
            axes.errorbar(
                point.bytes,
                point.mean,
                yerr=point.half_width,
                color=color,
                marker="o",
                markersize=7,
                capsize=4,
                zorder=5,
                markerfacecolor=fill,
            )
        drawing.frame(axes, size, "bytes of the file without the tokenizer")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5 if size[0] < 400 else 9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.size(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12, y=0.15)
        if len(drawn) <= NAMED:
            _name(axes, drawn)

    labels = [each.label for each in ledgers]
    legend = tuple(drawing.Key(label, index % len(drawing.SERIES) + 1, "dot") for index, label in enumerate(labels, 1))
    return drawing.draw(plot, f"compression-{number}", legend if len(ledgers) > 1 else (), drawing.FULL)


def _name(axes: Axes, drawn: Sequence[Point]) -> None:
    """The name of each point above its interval and above names in its way; call it last, with the final limits."""
    axes.autoscale_view()
    taken: list[tuple[float, float, float]] = []
    for point in sorted(drawn, key=lambda each: each.mean + each.half_width):
        top = point.mean + point.half_width
        x, y = axes.transData.transform((point.bytes, top))
        half = LETTER * len(point.name) / 2
        height = y + 5
        for left, right, floor in sorted(taken, key=lambda each: each[2]):
            if left < x + half and x - half < right and abs(floor - height) < LINE:
                height = floor + LINE
        taken.append((x - half, x + half, height))
        axes.annotate(
            point.name,
            (point.bytes, top),
            (0, height - y),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=drawing.INK,
            fontsize=10.5,
            annotation_clip=False,
            zorder=6,
        )
