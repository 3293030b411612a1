"""From files to rows: means over seeds, and differences paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from penstock.compress.plan import Plan, PlannedRow
from penstock.evaluate.paired import half_width, paired
from penstock.run.records.compression import BASELINE, CompressedFile, Compression, LedgerRow, Mean


def ledger_of(plan: Plan, run: str, seeds: Sequence[int], files: Sequence[CompressedFile], machine: str) -> Compression:
    """The ledger of the files that there are; rows without any are left out. There is at least one file."""
    first = files[0]
    by_row = {row.name: [file for file in files if file.row == row.name] for row in plan.rows}
    baseline = {file.seed: file for file in by_row[BASELINE]}
    return Compression(
        plan=plan.name,
        run=run,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        wanted=list(seeds),
        rows=[_row(row, by_row[row.name], baseline) for row in plan.rows if by_row[row.name]],
        files=list(files),
        machine=machine or None,
    )


def _row(row: PlannedRow, files: Sequence[CompressedFile], baseline: dict[int, CompressedFile]) -> LedgerRow:
    values = [file.quality for file in files]
    pairs = [
        (file.quality, baseline[file.seed].quality)
        for file in files
        if file.seed in baseline and file.text == baseline[file.seed].text
    ]
    timed = next((file for file in files if file.decoded_by), files[0])
    return LedgerRow(
        name=row.name,
        trained=row.trained,
        change=row.change,
        parameters=files[0].parameters,
        bytes=max((file.bytes for file in files), key=lambda each: each.model),
        quality=Mean(statistics.fmean(values), half_width(values), len(values)),
        difference=None if row.name == BASELINE else paired(pairs),
        decoded_by=timed.decoded_by,
        tokens_per_second=timed.tokens_per_second,
    )
