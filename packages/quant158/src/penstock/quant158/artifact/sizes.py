"""What the bytes of an artifact are: each format's codes and scales, and apart from them everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock.quant158.artifact.formats import layouts_of
from penstock.quant158.artifact.header import SHA256_DIGITS
from penstock.quant158.artifact.reader import PREFIX, Artifact
from penstock.quant158.values import VALUES


@dataclass(frozen=True, slots=True)
class FormatSize:
    """The tensors of one format. `scales` is 0 where there are none: the values of fp32, fp16 and bf16 are `codes`."""

    format: str
    weights: int
    codes: int
    scales: int

    @property
    def bits(self) -> float:
        """Bits a weight, codes and scales."""
        return 8 * (self.codes + self.scales) / self.weights


@dataclass(frozen=True, slots=True)
class ArtifactSize:
    """Every byte of an artifact, once. `header` is without the hashes of the parts in it. `decoded` is what the tensors
    would take without entropy coding; not a part of the file."""

    formats: tuple[FormatSize, ...]
    decoded: int
    files: Mapping[str, int]
    header: int
    hashes: int
    padding: int

    @property
    def ternary_bits(self) -> float | None:
        """Bits a ternary weight, codes and scales; None without ternary weights."""
        ternary = [each for each in self.formats if each.format.startswith("ternary")]
        weights = sum(each.weights for each in ternary)
        return 8 * sum(each.codes + each.scales for each in ternary) / weights if weights else None

    @property
    def weights(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(each.codes + each.scales for each in self.formats)

    def to_json(self) -> dict[str, Any]:
        formats = [{**asdict(each), "bits_per_weight": round(each.bits, 4)} for each in self.formats]
        rest = {"files": dict(self.files), "header": self.header, "hashes": self.hashes, "padding": self.padding}
        return {
            "formats": formats,
            "bits_per_ternary_weight": self.ternary_bits,
            "weights": self.weights,
            "weights_decoded": self.decoded,
            **rest,
        }


def size_of(artifact: Artifact) -> ArtifactSize:
    """The bytes of an artifact; their sum is the size of its file."""
    header, found = artifact.header, dict[str, FormatSize]()
    for tensor in header.tensors.values():
        codes = tensor.parts["values" if tensor.format in VALUES else "codes"].bytes
        before = found.get(tensor.format, FormatSize(tensor.format, 0, 0, 0))
        found[tensor.format] = FormatSize(
            tensor.format,
            before.weights + math.prod(tensor.shape),
            before.codes + codes,
            before.scales + tensor.bytes - codes,
        )
    parts = [part for _, part in header.parts()]
    hashes = SHA256_DIGITS * len(parts)
    used = PREFIX.size + artifact.header_bytes + sum(part.bytes for part in parts)
    return ArtifactSize(
        formats=tuple(sorted(found.values(), key=lambda each: -(each.codes + each.scales))),
        decoded=sum(
            layout.bytes for each in header.tensors.values() for layout in layouts_of(each.format, each.shape).values()
        ),
        files={name: part.bytes for name, part in header.files.items()},
        header=PREFIX.size + artifact.header_bytes - hashes,
        hashes=hashes,
        padding=artifact.file_bytes - used,
    )
