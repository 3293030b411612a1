"""What others reach, with the source of each figure."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class Rival(Record):
    """A published way to make a model smaller: how many times smaller than fp32, at which quality, and who says so."""

    name: str
    against_fp32: float
    quality: str
    source: str

    @property
    def against_bf16(self) -> float:
        """bf16 has half of the bytes."""
        return self.against_fp32 / 2


RIVALS = (
    Rival(
        "ALBERT-base",
        9.0,
        "2.2 points below BERT-base on average of five tasks (80.1 and 82.3), with 12 M parameters to 108 M, in fp32",
        "Lan et al. 2020, arXiv:1909.11942, table 2",
    ),
    Rival(
        "TernaryBERT",
        14.9,
        "comparable to full precision on GLUE and SQuAD, with distillation",
        "Zhang et al. 2020, arXiv:2009.12812, abstract",
    ),
    Rival(
        "Q4_K of llama.cpp",
        32 / 4.5,
        "4.5 bits a weight, without training; quality depends on the model",
        "llama.cpp, ggml-common.h: 144 bytes for 256 weights",
    ),
)
