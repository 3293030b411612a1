"""The components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

_EVERY = frozenset(
    {
        "any-width",
        "compilable",
        "deterministic",
        "experts",
        "identity-gradient",
        "matrices",
        "odd",
        "packable",
        "scale-equivariant",
    }
)


@hookimpl
def quantizers() -> list[Component]:
    return [
        Component(
            kind="quantizer",
            name="ternary",
            target="penstock.quant158.ternary:TernaryQuantizer",
            config="penstock.quant158.config:TernaryConfig",
            summary="Absmean 1.58-bit weights with straight-through gradients",
            capabilities=_EVERY,
            contract=2,
            reference="https://arxiv.org/abs/2402.17764",
        ),
        Component(
            kind="quantizer",
            name="ternary-learned",
            target="penstock.quant158.learned:LearnedTernaryQuantizer",
            config="penstock.quant158.config:LearnedTernaryConfig",
            summary="1.58-bit weights with a learned threshold a row",
            capabilities=_EVERY - {"identity-gradient"},
            contract=2,
            reference="https://arxiv.org/abs/2502.02631",
        ),
        *(_integer(bits) for bits in (8, 4)),
        _half("bf16", "Weights of 16 bits with the range of fp32", _EVERY),
        _half("fp16", "Weights of 16 bits with 11 bits of precision, up to 65,504", _EVERY - {"scale-equivariant"}),
    ]


@hookimpl
def exporters() -> list[Component]:
    return [
        Component(
            kind="exporter",
            name="penstock",
            target="penstock.quant158.exporter:ArtifactExporter",
            config="penstock.quant158.config:ArtifactConfig",
            summary="One *.penstock file: packed weights, config and tokenizer, exactly the trained model",
            contract=2,
        )
    ]


def _integer(bits: int) -> Component:
    return Component(
        kind="quantizer",
        name=f"int{bits}",
        target=f"penstock.quant158.integers:Int{bits}Quantizer",
        config="penstock.quant158.config:IntegerConfig",
        summary=f"Whole numbers of {bits} bits with a scale a row, for embeddings and heads",
        capabilities=_EVERY | {"embeddings", "heads", "idempotent"},
        contract=2,
    )


def _half(name: str, summary: str, capabilities: frozenset[str]) -> Component:
    return Component(
        kind="quantizer",
        name=name,
        target=f"penstock.quant158.halves:{name.capitalize()}Quantizer",
        config="penstock.quant158.config:HalfConfig",
        summary=summary,
        capabilities=capabilities | {"embeddings", "heads", "idempotent"},
        contract=2,
    )
