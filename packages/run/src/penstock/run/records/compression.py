"""The ledger of size against quality: `compression.json` in the folder of a compression.

A row is a form of the model, from fp32 to the last step of the plan. Each row has a file for every seed, and what the
row says of bytes and quality is measured on these files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import ABSENT, Record
from penstock.run.records.sweep import Difference

LEDGER = "compression.json"
BASELINE = "fp32"
"""The name of the first row, in full precision and with nothing shared."""


@dataclass(frozen=True, slots=True)
class FileBytes(Record):
    """Every byte of an artifact, once. `codes` are the weights of each format; `other` are enclosed files beside the
    tokenizer: the locks of code and data."""

    codes: dict[str, int]
    scales: int
    header: int
    hashes: int
    padding: int
    other: int
    tokenizer: int

    @property
    def file(self) -> int:
        """The size of the file."""
        return self.model + self.tokenizer

    @property
    def model(self) -> int:
        """All but the tokenizer, which is the same in every row: what ratios are taken of."""
        return sum(self.codes.values()) + self.scales + self.header + self.hashes + self.padding + self.other


@dataclass(frozen=True, slots=True)
class CompressedFile(Record):
    """A row's file of one seed. `key` is a hash of what the file was made from, `sha256` of the file itself; `text` is
    what the quality was measured on. The file of one seed is decoded: `decoded_by` says by what, or what a model that
    does not generate predicts instead; the others have neither."""

    row: str
    seed: int
    path: str
    key: str
    sha256: str
    parameters: int
    bytes: FileBytes
    metric: str
    higher_is_better: bool
    quality: float
    text: str
    run: str
    seconds: float
    decoded_by: str = ""
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Mean(Record):
    """A mean over seeds with the half width of its interval, None if there are too few seeds for one."""

    mean: float
    half_width: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class LedgerRow(Record):
    """One form of the model. `bytes` are those of the largest of its files; `difference` is paired by seed with the
    first row, whose own is None. `change` says what the row has that the row before lacks."""

    name: str
    trained: bool
    change: str
    parameters: int
    bytes: FileBytes
    quality: Mean
    difference: Difference | None
    decoded_by: str
    tokens_per_second: float | None = None

    @property
    def bits(self) -> float:
        """Bits a stored parameter, with everything that the file holds beside the tokenizer."""
        return 8 * self.bytes.model / self.parameters


@dataclass(frozen=True, slots=True)
class Compression(Record):
    """A ledger, finished or in progress. `wanted` are the seeds of the whole ledger."""

    plan: str
    run: str
    metric: str
    higher_is_better: bool
    wanted: list[int]
    rows: list[LedgerRow]
    files: list[CompressedFile]
    machine: str | None = field(default=None, metadata=ABSENT)

    @property
    def fp32_bytes(self) -> int:
        """4 bytes for each parameter of the first row: what a ratio against fp32 is taken of."""
        return 4 * self.rows[0].parameters

    @property
    def bf16_bytes(self) -> int:
        """2 bytes for each parameter of the first row."""
        return 2 * self.rows[0].parameters
