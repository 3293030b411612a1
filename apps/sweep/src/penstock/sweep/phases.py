"""The phases of a sweep: how many tokens each run has, where it is measured, and what its config adds to the cell's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.hooks.contracts.stopping import StopRule
from penstock.hooks.problems import Problem, ProblemError
from penstock.sweep.grid import Cell, Sweep, override

RUNGS = (0.25, 0.5)
"""Default rungs of a short phase: the rule sees each cell twice before the phase ends."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`amount` and `rungs` are shares below 1, else tokens; an `amount` of None is all of `train.tokens`. `stops`: a
    rule may stop cells at the rungs."""

    name: str
    amount: float | None
    seeds: tuple[int, ...]
    rungs: tuple[float, ...]
    schedule: str = "own"
    stops: bool = False

    def tokens(self, cell: Cell) -> int:
        """Tokens of one run."""
        whole = cell.config.train.tokens
        return whole if self.amount is None else min(whole, _of(self.amount, whole))

    def rung_tokens(self, cell: Cell) -> list[int]:
        """Tokens after which a run is measured; the last are those of the whole run."""
        whole = self.tokens(cell)
        return [*sorted(_of(rung, whole) for rung in self.rungs), whole]

    def overrides(self, cell: Cell) -> list[str]:
        """What the config of a run adds to the cell's."""
        whole = self.tokens(cell)
        return [] if whole == cell.config.train.tokens else [override("train.tokens", whole)]


def _of(amount: float, whole: int) -> int:
    return math.ceil(amount * whole) if amount < 1 else math.ceil(amount)


def phases_of(sweep: Sweep) -> list[Phase]:
    """The phases in the order in which they run. No rule stops cells at the common rate, where all are compared. Raises
    `ProblemError` for rungs that lie behind the end of a run, and for a short phase that is not shorter than it."""
    settings = sweep.settings
    seeds, given = tuple(settings.seeds), settings.rungs
    to_the_end = seeds if settings.confirm is None else seeds[:1]
    rungs = tuple(given) if given is not None else RUNGS if settings.phases else ()
    if settings.phases is None:
        phases = [Phase("all", None, to_the_end, rungs, stops=True)]
    else:
        short = settings.phases.short
        few = seeds[: short.seeds]
        phases = [
            Phase("short", short.tokens, few, rungs, schedule=short.schedule, stops=True),
            Phase("final", None, to_the_end, ()),
        ]
        if settings.rate.also_common:
            phases.append(Phase("common", short.tokens, few, rungs))
    if settings.phases is not None:
        _require_shorter(phases[0], sweep)
    _require_rungs_inside(phases, sweep)
    if settings.phases is not None and settings.phases.short.schedule == "trunk":
        _require_trunks(sweep)
    return phases


def require_time_for(rule: StopRule, phases: Sequence[Phase], sweep: Sweep) -> None:
    """A rule that judges over some tokens sees as many between the first rung and the last; else it never stops a
    cell. Raises `ProblemError`."""
    needed = getattr(rule, "judges_over", 0)
    for phase in (phase for phase in phases if phase.stops):
        rungs = phase.rung_tokens(sweep.baseline)[:-1]
        seen = rungs[-1] - rungs[0] if rungs else 0
        if seen < needed:
            what = f"the rule judges over {needed:,} tokens, but from the first rung to the last there are {seen:,}"
            fix = "give it fewer tokens, or place the rungs further apart"
            raise ProblemError(Problem("bad-value", what, sweep.where("stop"), fix))


def _require_shorter(phase: Phase, sweep: Sweep) -> None:
    """A short phase of all tokens would train everything twice."""
    for cell in sweep.cells:
        if phase.tokens(cell) >= (whole := cell.config.train.tokens):
            what = f"the short phase is not shorter than the {whole:,} tokens of cell '{cell.name}'"
            fix = "give it fewer tokens, or leave `phases` out"
            where = sweep.where("phases", "short", "tokens")
            raise ProblemError(Problem("bad-value", what, where, fix))


def _require_trunks(sweep: Sweep) -> None:
    """A longer run continues a shorter one if both have one warm-up, and then a constant rate up to their decay."""
    problems: list[Problem] = []
    for cell in sweep.cells:
        schedule = cell.config.train.schedule
        if getattr(schedule.settings, "warmup_tokens", None) is None:
            name = schedule.entry.component.name
            what = f"schedule '{name}' of cell '{cell.name}' has no trunk that the final phase could continue"
            fix = "set train.schedule to {use: wsd, warmup_tokens: N}, or phases.short.schedule to own"
            problems.append(Problem("no-trunk", what, sweep.where("phases", "short", "schedule"), fix))
    if problems:
        raise ProblemError(problems[:1])


def _require_rungs_inside(phases: Sequence[Phase], sweep: Sweep) -> None:
    """Each rung lies before the end of the run, and no two are one."""
    problems: list[Problem] = []
    for phase, cell in ((phase, cell) for phase in phases for cell in sweep.cells):
        tokens = phase.rung_tokens(cell)
        if any(one >= other for one, other in itertools.pairwise(tokens)):
            what = f"rungs of cell '{cell.name}' are at {', '.join(f'{each:,}' for each in tokens[:-1])} tokens"
            fix = f"give each a place of its own before the end of the phase, {tokens[-1]:,} tokens"
            problems.append(Problem("bad-value", what, sweep.where("rungs"), fix))
    if problems:
        raise ProblemError(problems[:1])
