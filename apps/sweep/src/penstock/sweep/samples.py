"""The results of a sweep as cells that can be compared: of one phase, after equal tokens.

R replicates resample the held-out documents and the seeds; their draw is fixed, so the same results give the same
report. N cells.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.run.records.sweep import CellFigures, RungFigures, SweepFigures
from penstock.sweep.documents import Documents
from penstock.sweep.heldout import FEWEST_PIECES
from penstock.sweep.pareto import Values, resampled_quality

PHASES = ("short", "common", "all", "final")
"""In the order in which a report shows them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A cell's rungs in one phase: tokens, and bits per byte, the mean over seeds."""

    cell: str
    phase: str
    tokens: tuple[int, ...]
    bits_per_byte: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Cells of one phase after equal tokens, with R replicates of their quality; None if fewer than `FEWEST_PIECES`
    pieces of held-out text were measured. `pieces` are 0 if they are not known, or not the same for all cells."""

    phase: str
    cells: list[CellFigures]
    seeds: list[int]
    quality_N: Values
    replicates_RN: Values | None
    pieces: int = 0


def results_of(figures: SweepFigures) -> list[RungFigures]:
    """All results; those of a sweep of an earlier version, which has no rungs, are its runs. Their tokens then count as
    equal: they differ by part of a batch."""
    if figures.rungs:
        return list(figures.rungs)
    tokens = max((run.tokens for run in figures.runs), default=0)
    lacking = {"cell_key": "", "steps": 0, "perplexity": np.nan, "loss": np.nan, "tokenizer": "", "phase": "all"}
    return [
        RungFigures(
            **lacking,
            cell=run.cell,
            seed=run.seed,
            tokens=tokens,
            bits_per_byte=run.bits_per_byte,
            text=run.text or "",
            text_bytes=run.text_bytes or 0,
            seconds=run.seconds,
            machine=run.machine,
        )
        for run in figures.runs
    ]


def end_of(figures: SweepFigures, results: Sequence[RungFigures], phase: str) -> int:
    """The tokens of a run of the phase; without phases, the most that any cell saw."""
    known = [each.tokens for each in figures.phases if each.name == phase]
    return known[0] if known else max(each.tokens for each in results if each.phase == phase)


def curves_of(figures: SweepFigures, results: Sequence[RungFigures], phase: str) -> list[Curve]:
    """A mean takes only the rungs that all seeds of the cell have passed: at others the seeds would differ."""
    curves: list[Curve] = []
    for cell in figures.cells:
        by_tokens: dict[int, dict[int, float]] = {}
        for each in results:
            if each.phase == phase and each.cell == cell.cell:
                by_tokens.setdefault(each.tokens, {})[each.seed] = each.bits_per_byte
        seeds = max(map(len, by_tokens.values()), default=0)
        whole = sorted((tokens, statistics.fmean(at.values())) for tokens, at in by_tokens.items() if len(at) == seeds)
        if whole:
            tokens, bits = zip(*whole, strict=True)
            curves.append(Curve(cell.cell, phase, tokens, bits))
    return curves


def sample_at(
    figures: SweepFigures, results: Sequence[RungFigures], documents: Documents, phase: str, tokens: int
) -> Sample:
    at = [each for each in results if each.phase == phase and each.tokens == tokens]
    cells = [cell for cell in figures.cells if any(each.cell == cell.cell for each in at)]
    ordered = [[each for each in at if each.cell == cell.cell] for cell in cells]
    found = documents.of([each for own in ordered for each in own])
    return Sample(
        phase,
        cells,
        [len(own) for own in ordered],
        np.array([statistics.fmean(each.bits_per_byte for each in own) for own in ordered]),
        resampled_quality(*found) if found and len(found[1]) >= FEWEST_PIECES else None,
        len(found[1]) if found else 0,
    )
