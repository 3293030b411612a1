"""What a walk through a sweep found, as one record: `sweep.json`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from penstock.run.config import load_run_config
from penstock.run.records.sweep import (
    Balance,
    CellFigures,
    CellShape,
    MeasuredRun,
    MissingRun,
    PhaseFigures,
    RungFigures,
    RungResult,
    SweepFigures,
    SweptRun,
)
from penstock.sweep.compare import compare, stand_in
from penstock.sweep.controller import Controller
from penstock.sweep.grid import Cell
from penstock.sweep.rates import rate_of
from penstock.sweep.trials import Trial

COMPARED = ("all", "final")
"""Phases whose runs the tables compare."""
GONE = ("stopped", "failed", "capped")
"""States of a cell that will have no further run to the end."""


def figures_of(walk: Controller, shapes: dict[str, CellShape]) -> SweepFigures:
    """Everything that is known so far, with a reason for every run that has no figures."""
    sweep = walk.sweep
    compared = [trial for trial in walk.trials if trial.phase.name in COMPARED]
    found = [(trial, _run(walk, trial, shapes[trial.cell.name])) for trial in compared]
    rows = [row for _, row in found if row is not None]
    results = {(trial.phase.name, trial.cell.name, trial.seed): _results(trial) for trial in walk.trials}
    baseline = sweep.baseline.name
    reference = stand_in(rows, baseline) if walk.states[baseline].name in GONE else baseline
    means = {cell.cell: cell for cell in compare(rows, baseline, reference)}
    measured = _measured(walk, shapes)
    return SweepFigures(
        baseline=baseline,
        compared_with=None if reference == baseline else reference,
        cells=[
            replace(_cell(walk, cell, means.get(cell.name), shapes[cell.name], results), **measured.get(cell.name, {}))
            for cell in sweep.cells
        ],
        runs=rows,
        missing=[
            _missing(walk, trial)
            for trial in [*(trial for trial, row in found if row is None), *walk.left_out]
            if trial.phase.name in COMPARED
        ],
        config=str(sweep.config_file),
        objectives={name: str(direction) for name, direction in sweep.settings.objectives.items()},
        rank_at=list(sweep.settings.rank_at),
        phases=[_phase(walk, number) for number in range(len(walk.phases))],
        decisions=walk.decisions,
        rungs=[_without_documents(result) for each in results.values() for result in each],
        spent=walk.ledger.spent(),
    )


def _run(walk: Controller, trial: Trial, shape: CellShape) -> SweptRun | None:
    """The figures of a run that came to its end, from the cell's files: its directory may be gone."""
    result = trial.files.result(trial.phase.tokens(trial.cell))
    if result is None:
        return None
    run, tokens = trial.files.run(walk.files.folder), result.steps * trial.cell.config.tokens_per_step
    return SweptRun(
        **(trial.files.balance(walk.files.folder) or Balance()).to_json(),
        bits_per_byte=result.bits_per_byte,
        tokens=tokens,
        seconds=result.seconds,
        active_parameters=shape.active_parameters,
        flops=shape.flops_per_token * tokens,
        text=result.text,
        text_bytes=result.text_bytes,
        machine=result.machine,
        cell=trial.cell.name,
        seed=trial.seed,
        run="" if run is None else str(run),
    )


def _results(trial: Trial) -> list[RungResult]:
    """In the order of the rungs, under the name that the cell has now."""
    found = (trial.files.result(tokens) for tokens in trial.phase.rung_tokens(trial.cell))
    return [replace(result, cell=trial.cell.name, phase=trial.phase.name) for result in found if result is not None]


def _without_documents(result: RungResult) -> RungFigures:
    return RungFigures(**{each.name: getattr(result, each.name) for each in fields(RungFigures)})


def _missing(walk: Controller, trial: Trial) -> MissingRun:
    state = walk.why.get(trial.files.folder, walk.states[trial.cell.name])
    why = "not run yet" if state.name in ("pending", "finished") else f"{state.name}: {state.reason}"
    return MissingRun(trial.cell.name, trial.seed, why)


def _phase(walk: Controller, number: int) -> PhaseFigures:
    phase, baseline = walk.phases[number], walk.sweep.baseline
    entered = [cell.name for cell in walk.entered.get(phase.name, [])]
    tokens = phase.rung_tokens(baseline)
    return PhaseFigures(phase.name, tokens[-1], list(phase.seeds), entered, tokens, phase.schedule)


def _cell(
    walk: Controller,
    cell: Cell,
    means: CellFigures | None,
    shape: CellShape,
    results: dict[tuple[str, str, int], list[RungResult]],
) -> CellFigures:
    """The means of the cell's compared runs, or else of its last results, with what is known of it without any."""
    state = walk.states[cell.name]
    own = [each for (phase, name, _), each in results.items() if name == cell.name and phase != "common"]
    wholes = {phase.name: phase.tokens(cell) for phase in walk.phases if phase.name in COMPARED}
    ends = [each[-1] for each in own if each and each[-1].tokens == wholes.get(each[-1].phase)]
    last = ends if means else _last_results(own)
    why = f"{state.name}: {state.reason}" if state.reason else state.name
    if means is None:
        means = CellFigures(
            cell=cell.name,
            seeds=len(last),
            bits_per_byte=statistics.fmean(result.bits_per_byte for result in last) if last else None,
            max_violation=None,
            max_violation_worst=None,
            dead_experts=None,
            nanoseconds_per_token=_nanoseconds_per_token(last),
            picoseconds_per_flop=None,
            active_parameters=shape.active_parameters,
            difference=None,
            verdict=why,
        )
    elif state.name == "failed":
        means = replace(means, verdict=why)
    phase = next(each for each in walk.phases if each.name == (last[0].phase if last else walk.phases[0].name))
    return replace(
        means,
        state=state.name,
        reason=state.reason,
        key=cell.key,
        phase=phase.name,
        tokens=last[0].tokens if last else None,
        run_tokens=phase.tokens(cell) if last else None,
        settings=cell.settings,
        overrides=[*cell.overrides, *(walk.rates.of(cell) or ())],
        parameters=shape.parameters,
        embedding_share=shape.embedding_share,
        flops_per_token=shape.flops_per_token,
        bytes=shape.bytes,
        lr=rate_of(_optimizer(walk, cell)),
        common_lr=rate_of(cell.config.train.optimizer.settings) if walk.sweep.settings.rate.also_common else None,
    )


def _optimizer(walk: Controller, cell: Cell) -> Any:
    """The settings of the optimizer that the cell's runs have."""
    own = walk.rates.of(cell)
    if not own:
        return cell.config.train.optimizer.settings
    config = load_run_config(walk.sweep.config_file, [*cell.overrides, *own], walk.registry)[0]
    return config.train.optimizer.settings


def _measured(walk: Controller, shapes: dict[str, CellShape]) -> dict[str, dict[str, Any]]:
    """What was measured alone of each cell, under the names that `CellFigures` has. Cells with one model share the best
    of their measurements: what these differ in is the other work of the machine, which only slows a model down."""
    found: dict[str, tuple[Cell, MeasuredRun]] = {}
    for trial in walk.trials:
        if trial.phase.name in COMPARED and (measured := trial.files.measured()) is not None:
            found.setdefault(trial.cell.name, (trial.cell, measured))

    def alike(one: str, other: str) -> bool:
        (cell, own), (cell_of, its) = found[one], found[other]
        return own.machine == its.machine and shapes[one] == shapes[other] and one_model(cell, cell_of)

    return {
        name: {"tasks": own.tasks, **best_of([each for other, (_, each) in found.items() if alike(name, other)])}
        for name, (_, own) in found.items()
    }


def one_model(one: Cell, other: Cell) -> bool:
    """Whether both cells compute the same, with other weights."""
    return one.config.model == other.config.model and one.config.train.dtype == other.config.train.dtype


def best_of(measured: Sequence[MeasuredRun]) -> dict[str, Any]:
    """The shortest times and the least memory."""
    return {
        "latency_128": min(each.latency_128 for each in measured),
        "latency_512": min(each.latency_512 for each in measured),
        "tokens_per_second": max(each.tokens_per_second for each in measured),
        "peak_memory": min(each.peak_memory for each in measured),
    }


def _last_results(of_trials: Sequence[Sequence[RungResult]]) -> list[RungResult]:
    """Of the last phase with a result, those that all its seeds reached."""
    if not (found := [each for each in of_trials if each]):
        return []
    phase = found[-1][-1].phase
    of_phase = [each for each in found if each[-1].phase == phase]
    shared = min(len(each) for each in of_phase)
    return [each[shared - 1] for each in of_phase]


def _nanoseconds_per_token(results: Sequence[RungResult]) -> float | None:
    tokens = sum(result.tokens for result in results)
    return 1e9 * sum(result.seconds for result in results) / tokens if tokens else None
