"""The components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def quantizers() -> list[Component]:
    return [
        Component(
            kind="quantizer",
            name="ternary",
            target="penstock.quant158.ternary:TernaryQuantizer",
            config="penstock.quant158.config:TernaryConfig",
            summary="Absmean 1.58-bit weights with straight-through gradients",
            capabilities=frozenset(
                {
                    "compilable",
                    "deterministic",
                    "experts",
                    "identity-gradient",
                    "matrices",
                    "odd",
                    "packable",
                    "scale-equivariant",
                }
            ),
            contract=2,
            reference="https://arxiv.org/abs/2402.17764",
        )
    ]
