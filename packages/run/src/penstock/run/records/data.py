"""Which prepared data a run reads: `data.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class DataRecord(Record):
    """The SHA-256 of every file of the data, by which it is found again, and the folder where it was."""

    files: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    folder: str = ""
