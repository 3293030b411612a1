"""The tables that the summary and the page of a sweep share, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.evaluate.paired import CONFIDENCE
from penstock.pages.formats import DASH, count, duration, listed, number, percent
from penstock.run.records.sweep import CellFigures, SweepFigures
from penstock.sweep.agreement import Agreement
from penstock.sweep.analysis import Analysis
from penstock.sweep.compare import basis, reference_text
from penstock.sweep.compare import interval as difference_text
from penstock.sweep.fronts import QUALITY, Front
from penstock.sweep.heldout import FEWEST_PIECES
from penstock.sweep.labels import PHASES, counted, figure_of, interval, label, shown
from penstock.sweep.objectives import MEASURED_TIMES
from penstock.sweep.rankings import Ranking, RateRanking
from penstock.sweep.tables import reproduce_lines

OPTIONAL = (
    "parameters active_parameters embedding_share flops_per_token lr tokens_per_second latency_128 latency_512 "
    "peak_memory max_violation"
)
"""Figures of a cell with a column where some cell has them."""


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table and the sentences below it. The first column is text, the others are figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str


def summary(figures: SweepFigures, wanted: int) -> str:
    """How much of the grid is measured, and on what."""
    states = [cell.state for cell in figures.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    parts = [f"{len(figures.runs)} of {counted(wanted, 'run')}.", reference_text(figures), basis(figures.runs)]
    if figures.phases:
        names = "; ".join(
            f"{PHASES[phase.name]}: {counted(len(phase.cells), 'cell')}, {count(phase.tokens)} tokens, "
            f"{counted(len(phase.seeds), 'seed')}{_confirmed(figures, phase.name)}"
            for phase in figures.phases
        )
        parts.append(f"{names[0].upper()}{names[1:]}. Cells: {counts}.")
    if figures.spent:
        parts.append(f"{duration(3600 * figures.spent.hours)} of training, {count(figures.spent.tokens)} tokens.")
    return " ".join(filter(None, [*parts, *_why_missing(figures)]))


def _why_missing(figures: SweepFigures) -> list[str]:
    """A sentence for each cell and reason, with the seeds that it is about."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for run in figures.missing:
        if run.why != "not run yet":
            seeds.setdefault((run.cell, run.why), []).append(run.seed)
    return [
        f"{cell} with {'seed' if len(own) == 1 else 'seeds'} {listed(own)} {why}." for (cell, why), own in seeds.items()
    ]


def _confirmed(figures: SweepFigures, phase: str) -> str:
    """How many further seeds were given to the best cells."""
    runs = [each.rule for each in figures.decisions if each.phase == phase].count("confirm")
    return f", and {counted(runs, 'more run')} of the best" if runs else ""


def cells_table(analysis: Analysis) -> Table:
    """A row for each cell, with its state, quality and whatever else was measured."""
    figures = analysis.figures
    plain = {run.cell: run.why for run in reversed(figures.missing)}
    names = [name for name in OPTIONAL.split() if any(getattr(cell, name) is not None for cell in figures.cells)]
    names += dict.fromkeys(f"bytes.{each}" for cell in figures.cells for each in cell.bytes)
    names += dict.fromkeys(f"tasks.{each}" for cell in figures.cells for each in cell.tasks)
    known = {each.cell for each in figures.cells}
    columns = ("cell", "state", "seeds", "tokens", "bits per byte", "against", "verdict", "on the front")
    rows = [(*_cell_words(analysis, cell), *(figure_of(cell, name) for name in names)) for cell in figures.cells]
    empty = (DASH,) * (len(columns) - 2 + len(names))
    rows += [(cell, why, *empty) for cell, why in plain.items() if cell not in known]
    caption = (
        f"{_pieces_text(analysis.pieces)} `against` is the mean difference from the baseline with the same seed, or "
        "from the cell that stands in for it. Cells of unlike tokens do not compare. `on the front`: how likely no "
        "other cell of the phase is better in every objective "
        f"({', '.join(map(label, figures.objectives or [QUALITY]))})."
    )
    return Table("Cells", (*columns, *map(label, names)), rows, caption)


def _pieces_text(pieces: int) -> str:
    """What the intervals of a sweep are over, and why there are none if its text is short.

    >>> _pieces_text(4)
    'Bits per byte: mean over seeds. 4 pieces of held-out text give no interval; it takes 30.'
    """
    if not pieces:
        return "Bits per byte: mean over seeds."
    if pieces < FEWEST_PIECES:
        text = f"{counted(pieces, 'piece')} of held-out text {'gives' if pieces == 1 else 'give'} no interval"
        return f"Bits per byte: mean over seeds. {text}; it takes {FEWEST_PIECES}."
    return (
        f"Bits per byte: mean over seeds, with the {CONFIDENCE:.0%} interval over {count(pieces)} pieces of held-out "
        "text, which are documents or, if these are few, parts of them, and over seeds from two seeds on."
    )


def _cell_words(analysis: Analysis, cell: CellFigures) -> tuple[str, ...]:
    standing = next((each for each in analysis.standings.get(cell.phase, ()) if each.cell == cell.cell), None)
    member = analysis.front_of(cell.cell)
    quality = DASH if cell.bits_per_byte is None else f"{cell.bits_per_byte:.3f}"
    if standing:
        quality = interval(standing.bits_per_byte, standing.low, standing.high)
    front = DASH
    if member:
        front = ("yes" if member.on_front else "no") if member.membership is None else percent(member.membership)
    state = f"{cell.state}: {cell.reason}" if cell.reason else cell.state
    return (
        cell.cell,
        state,
        str(cell.seeds),
        count(cell.tokens),
        quality,
        difference_text(cell.difference),
        DASH if cell.verdict in ("", state) else cell.verdict,
        front,
    )


def effects_table(analysis: Analysis) -> Table:
    rows = [
        (f"{each.axis}: {each.value}", str(each.cells), interval(each.bits_per_byte, each.low, each.high))
        for each in analysis.effects.levels
    ]
    return Table("Effect of each axis", ("value", "cells", "bits per byte"), rows, effects_caption(analysis))


def effects_caption(analysis: Analysis) -> str:
    effects = analysis.effects
    if not effects.levels:
        return ""
    one = len(effects.seeds) == 1
    text = (
        f"Mean over the cells with this value after {count(effects.tokens)} tokens, the furthest that all of them "
        f"came, with the {'seed' if one else 'seeds'} that all of them have ({listed(effects.seeds)})."
    )
    if any(each.low is not None for each in effects.levels):
        over = "documents; one seed says nothing about other seeds" if one else "documents and seeds"
        text += f" The {CONFIDENCE:.0%} interval is that of the difference from the mean of all cells, over {over}."
    if effects.left_out:
        text += (
            f" Without a result: {', '.join(effects.left_out)}; values that lack a cell are means over other partners "
            "than the rest."
        )
    return text


def front_table(front: Front) -> Table:
    """The cells on a front and how sure each place is."""
    rows = [
        (member.cell, *map(shown, front.objectives, member.values), "yes" if member.on_front else "no", _sure(member))
        for member in sorted(front.members, key=lambda member: (not member.on_front, -(member.membership or 0.0)))
        if member.on_front or (member.membership or 0.0) >= 0.05
    ]
    title = f"Pareto front, {PHASES[front.phase]}: {' and '.join(map(label, front.objectives))}"
    return Table(
        title, ("cell", *map(label, front.objectives), "on the front", "membership"), rows, front_caption(front)
    )


def _sure(member: object) -> str:
    share = getattr(member, "membership", None)
    return DASH if share is None else percent(share)


def front_caption(front: Front) -> str:
    on = sum(member.on_front for member in front.members)
    text = f"{on} of {counted(len(front.members), 'cell')} {'is' if on == 1 else 'are'} on the front."
    if len(compared := front.compared) > 1:
        reference = [
            shown(*each) for each in zip(front.objectives, front.reference, strict=True) if each[0] in compared
        ]
        text += (
            f" It covers {percent(front.hypervolume)} of the box up to the reference point ({', '.join(reference)}), a "
            "tenth of the range beyond the worst cell."
        )
    if any(member.membership is not None for member in front.members):
        text += (
            " An interval is that of a cell alone; cells share documents, so membership is surer than overlapping "
            "intervals look."
        )
    return text + _certainty_text(front)


def _certainty_text(front: Front) -> str:
    if not any(name in MEASURED_TIMES for name in front.objectives):
        return ""
    return " Times and memory are measured once, and membership takes them as certain; cells with one model share them."


def ranks_table(ranking: Ranking) -> Table:
    """Ranks at equal tokens and at equal FLOPs side by side."""
    rows = [
        (row.cell, str(row.tokens_rank), f"{row.at_tokens:.3f}", str(row.flops_rank), f"{row.at_flops:.3f}",
         count(row.flops_tokens))
        for row in ranking.rows
    ]  # fmt: skip
    how = (
        "Quality at equal FLOPs is scaled from the end of each run along log(tokens), with the slope of the cells that "
        "were trained on few and on many tokens."
        if ranking.method == "scaled"
        else "Quality at equal FLOPs is read from the curve of the cell before its learning rate has fallen, which is "
        "unfair to cells that compute more per token."
    )
    verdict = _flips_text(ranking.flips, "at equal tokens")
    left = f" Without a rung early enough: {', '.join(ranking.left_out)}." if ranking.left_out else ""
    columns = ("cell", "rank at equal tokens", "bits per byte", "rank at equal FLOPs", "bits per byte", "tokens")
    title = f"Equal tokens and equal FLOPs, {PHASES[ranking.phase]}"
    return Table(title, columns, rows, f"{verdict} {agreement_text(ranking.agreement)} {how}{left}")


def rates_table(ranking: RateRanking) -> Table:
    """Ranks at each cell's own learning rate and at the common one side by side."""
    rows = [
        (row.cell, shown("lr", row.own_rate), str(row.own_rank), f"{row.own:.3f}", shown("lr", row.common_rate),
         str(row.common_rank), f"{row.common:.3f}")
        for row in ranking.rows
    ]  # fmt: skip
    columns = ("cell", "own rate", "rank", "bits per byte", "common rate", "rank", "bits per byte")
    caption = (
        f"{_flips_text(ranking.flips, 'at its own rate')} {agreement_text(ranking.agreement)} Of the short phase after "
        f"{count(ranking.tokens)} tokens, the furthest that every cell came at both. Rates are those of the layers' "
        "matrices."
    )
    return Table("Own and common learning rate", columns, rows, caption)


def _flips_text(flips: Sequence[tuple[str, str]], where: str) -> str:
    if not flips:
        return "The rankings agree in every pair."
    named = "; ".join(f"{one} before {other}" for one, other in flips[:6])
    more = f" and {len(flips) - 6} more" if len(flips) > 6 else ""
    return f"The rankings disagree in {counted(len(flips), 'pair')}. Only {where} is {named}{more}."


def agreement_text(agreement: Agreement) -> str:
    """
    >>> agreement_text(Agreement(3, 1.0, 1.0))
    "Kendall's tau 1.00, decision accuracy 100\\xa0% over 3 pairs of 3 cells."
    """
    pairs = agreement.cells * (agreement.cells - 1) // 2
    accuracy = DASH if agreement.accuracy is None else percent(agreement.accuracy)
    return (
        f"Kendall's tau {number(agreement.tau)}, decision accuracy {accuracy} over {counted(pairs, 'pair')} of "
        f"{counted(agreement.cells, 'cell')}."
    )


def phases_table(analysis: Analysis) -> Table:
    rows = [
        (
            f"{PHASES[each.first]} against {PHASES[each.second]}",
            str(each.agreement.cells),
            number(each.agreement.tau),
            DASH if each.agreement.accuracy is None else percent(each.agreement.accuracy),
        )
        for each in analysis.compared
    ]
    caption = (
        "Decision accuracy is the share of pairs of cells whose winner both name; unrelated rankings have 50 % and a "
        "tau of 0. Cells that a rule stopped are in no pair, and finalists were chosen because they were close."
    )
    return Table(
        "Does the short phase rank as the other?",
        ("phases", "cells", "Kendall's tau", "decision accuracy"),
        rows,
        caption,
    )


def decisions_table(figures: SweepFigures) -> Table:
    rows = [
        (
            f"{each.rule}, seed {each.seed}" if each.seed is not None else each.rule,
            PHASES[each.phase],
            count(each.tokens),
            each.went_on[0] if len(each.went_on) == 1 else str(len(each.went_on)),
            "; ".join(f"{cell}: {reason}" for cell, reason in each.stopped.items()) or DASH,
        )
        for each in figures.decisions
    ]
    return Table("Decisions", ("rule", "phase", "tokens", "went on", "stopped"), rows, "")


def commands_table(figures: SweepFigures) -> Table:
    """A line for each run behind the figures of a cell."""
    rows = [(cell.cell, line) for cell in figures.cells for line in reproduce_lines(figures, cell)]
    return Table("Reproduce a row", ("cell", "command"), rows, "Trains the runs behind the figures of a cell.")
