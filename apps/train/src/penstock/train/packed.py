"""Lets a model multiply with an artifact's ternary weights as they are packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from penstock.hooks.contracts import AdaptableSite, ParameterRole, ProductSite, QuantizesInput, Sited
from penstock.quant158 import native
from penstock.quant158.artifact import Artifact
from penstock.quant158.product import PackedProduct, has_product
from penstock.run.config import RunConfig
from penstock.train.compose import Composition

Parts: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""The tensors of an artifact that are one parameter: for each the matrix of its layout, and the shape."""

ROLES = (ParameterRole.MATRIX, ParameterRole.EXPERT)


def can_multiply_packed(config: RunConfig, device: torch.device) -> bool:
    """The library computes on the processor, and what it is compared with is fp32."""
    return native.usable() and device.type == "cpu" and config.train.dtype == "fp32"


def multiply_packed(composition: Composition, artifact: Artifact, stored: Mapping[str, Parts]) -> set[str]:
    """Gives the sites of ternary parameters their products; returns the parameters, which have no memory any more."""
    sites = composition.model.weight_sites() if isinstance(composition.model, Sited) else {}
    made: dict[tuple[str, int | None], PackedProduct] = {}
    replaced: set[str] = set()
    for name, site in sites.items():
        role, bits = site.role, _input_bits(composition, site.role)
        if not (role in ROLES and isinstance(site, ProductSite) and _all_packed(artifact, stored[name], bits)):
            continue
        if isinstance(site, AdaptableSite) and site.adapted:
            continue
        products: dict[str, PackedProduct] = {}
        for tensor, (matrix, shape) in stored[name].items():
            place = (artifact.header.aliases.get(tensor, tensor), bits)
            if place not in made:
                made[place] = PackedProduct(artifact.arrays(tensor), shape, bits)
            products[matrix] = made[place]
        site.multiply_by(products)
        replaced.add(name)
    return replaced


def _input_bits(composition: Composition, role: ParameterRole) -> int | None:
    quantizer = composition.storage.formats.get(role)
    return quantizer.input_bits if isinstance(quantizer, QuantizesInput) else None


def _all_packed(artifact: Artifact, parts: Parts, bits: int | None) -> bool:
    formats = [(artifact.tensor(each).format, shape) for each, (_, shape) in parts.items()]
    return all(has_product(each, shape, bits) for each, shape in formats)
