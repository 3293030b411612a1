"""From a trained model to an artifact: each weight as the forward pass computes with it, packed where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import (
    AdaptableSite,
    Decodable,
    PackableSite,
    PackedFormat,
    Progress,
    Sited,
    StoragePlan,
    TrainedModel,
    WeightSite,
)
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.quant158.artifact import Content, Identity, write_artifact
from penstock.quant158.artifact.formats import PACKED
from penstock.quant158.artifact.reader import SUFFIX, begins_like_artifact
from penstock.quant158.values import FP32


class ArtifactExporter:
    """Writes a run's model as one file: see `docs/artifact.md`."""

    suffix = SUFFIX

    def __init__(self, compress: Literal["lzma"] | None = None) -> None:
        self.compress: Literal["lzma"] | None = compress

    @torch.no_grad()
    def export(self, trained: TrainedModel, path: Path, progress: Progress | None = None) -> list[Path]:
        """Writes `path`, whole or not at all. Raises `ProblemError` for weights that are not finite, by name, and for a
        file there that is no artifact."""
        if path.exists() and not begins_like_artifact(path):
            kind = "folder" if path.is_dir() else "file"
            what, fix = f"the {kind} is no artifact, so it is not replaced", "choose another file, or move it away"
            raise ProblemError(Problem("file-not-ours", what, str(path), fix))
        contents, aliases = contents_of(trained)
        write_artifact(
            path,
            contents,
            penstock=version("penstock-quant158"),
            run=trained.config,
            checkpoint=Identity(trained.step, trained.tokens, trained.sha256),
            architecture=trained.architecture,
            decoder=_description(trained.model),
            aliases=aliases,
            files={name: file.read_bytes() for name, file in trained.files.items()},
            compress=self.compress,
            progress=progress,
        )
        return [path]


def contents_of(trained: TrainedModel) -> tuple[list[Content], dict[str, str]]:
    """The tensors to write, and the aliases. A shared parameter is stored once if all of its uses quantize the same
    weight; with transforms of sharing before the quantizer they do not."""
    sites: Mapping[str, WeightSite] = (
        cast(Any, trained.model).weight_sites() if isinstance(trained.model, Sited) else {}
    )
    parameters = {name: _Used.of(name, each, sites.get(name), trained.storage) for name, each in trained.state.items()}
    first = {name: group[0] for group in trained.sharing.groups for name in group}
    contents: list[Content] = []
    aliases: dict[str, str] = {}
    for name, parameter in parameters.items():
        original = parameters[first.get(name, name)]
        if original is not parameter and parameter.equals(original):
            aliases |= dict(zip(parameter.tensors, original.tensors, strict=True))
        else:
            contents += [parameter.content(matrix) for matrix in parameter.tensors]
    return contents, aliases


@dataclass(frozen=True, slots=True)
class _Used:
    """A parameter or buffer and its use. `tensors` are what is stored of it: itself, or each matrix of its layout."""

    value: Tensor
    site: WeightSite | None
    quantizer: PackedFormat | None
    tensors: Mapping[str, str]
    """Matrices of the layout by the name of their tensor."""

    @classmethod
    def of(cls, name: str, value: Tensor, site: WeightSite | None, storage: StoragePlan) -> _Used:
        if site is None:
            return cls(value, None, None, {name: ""})
        quantizer = storage.formats.get(site.role)
        packs = isinstance(quantizer, PackedFormat) and quantizer.format in PACKED and isinstance(site, PackableSite)
        matrices = site.layout.shapes(tuple(value.shape))
        one = len(matrices) == 1
        tensors = {name if one else f"{name}:{matrix}": matrix for matrix in matrices}
        return cls(value, site, cast(PackedFormat, quantizer) if packs else None, tensors)

    def stored(self) -> Tensor:
        """What the forward pass computes with, before the part that a single use of a shared weight adds."""
        if self.site is None:
            return self.value.detach()
        return (self.site.shared() if isinstance(self.site, AdaptableSite) else self.site.effective()).detach()

    def equals(self, other: _Used) -> bool:
        return self.quantizer is other.quantizer and torch.equal(self.stored(), other.stored())

    def content(self, tensor: str) -> Content:
        matrix = self.tensors[tensor]
        if self.site is None:
            return Content(tensor, FP32, tuple(self.value.shape), partial(self._plain, tensor, matrix))
        shape = self.site.layout.shapes(tuple(self.value.shape))[matrix]
        if self.quantizer is None:
            return Content(tensor, FP32, shape, partial(self._plain, tensor, matrix))
        return Content(tensor, self.quantizer.format, shape, partial(self._packed, self.quantizer, tensor, matrix))

    def _plain(self, tensor: str, matrix: str) -> dict[str, NDArray[Any]]:
        value = self.stored()
        if not value.is_floating_point() or value.dtype == torch.float64:
            what, fix = f"'{tensor}' is {value.dtype}, which fp32 does not hold", "use another exporter"
            raise ProblemError(Problem("not-exportable", what, "", fix))
        if not bool(value.isfinite().all()):
            what, fix = f"'{tensor}' has NaN or infinite values", "use a checkpoint from before the run diverged"
            raise ProblemError(Problem("not-finite", what, "", fix))
        part = value if self.site is None else self.site.layout.matrices(value)[matrix]
        return {"values": part.float().cpu().numpy()}

    def _packed(self, quantizer: PackedFormat, tensor: str, matrix: str) -> Mapping[str, NDArray[Any]]:
        weight, module = cast(PackableSite, self.site).to_pack()[matrix]
        arrays = quantizer.pack(weight, module, name=tensor)
        if not np.array_equal(quantizer.unpack(arrays, tuple(weight.shape)), _forward(module, weight)):
            what = f"'{tensor}', packed and unpacked, is not the weight of the forward pass"
            raise failed("bad-weights", what, type(quantizer).__name__, "report it to the quantizer's authors")
        return arrays


def _forward(module: nn.Module, weight: Tensor) -> NDArray[Any]:
    return module(weight).detach().float().cpu().numpy()


def _description(model: Any) -> dict[str, Any]:
    if isinstance(model, Decodable):
        return model.decoder_description()
    return {"unsupported": "the architecture does not describe itself to the decoder"}
