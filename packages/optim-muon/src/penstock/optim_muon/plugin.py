"""The components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def optimizers() -> list[Component]:
    return [
        Component(
            kind="optimizer",
            name="muon",
            target="penstock.optim_muon.muon:MuonAdamW",
            config="penstock.optim_muon.config:MuonConfig",
            summary="Muon for matrices and stacked experts, AdamW for the rest",
            capabilities=frozenset({"bf16-parameters", "sharded"}),
            contract=2,
            reference="arXiv 2502.16982",
        ),
        Component(
            kind="optimizer",
            name="adamw",
            target="penstock.optim_muon.adamw:adamw",
            config="penstock.optim_muon.config:AdamWConfig",
            summary="AdamW for all parameters; no weight decay for norms, biases and embeddings",
            capabilities=frozenset({"bf16-parameters", "sharded"}),
            reference="arXiv 1711.05101",
        ),
    ]


@hookimpl
def schedules() -> list[Component]:
    return [
        Component(
            kind="schedule",
            name="constant",
            target="penstock.optim_muon.schedules:Constant",
            config="penstock.optim_muon.config:ConstantConfig",
            summary="Constant after an optional warm-up",
        ),
        Component(
            kind="schedule",
            name="cosine",
            target="penstock.optim_muon.schedules:Cosine",
            config="penstock.optim_muon.config:CosineConfig",
            summary="Linear warm-up, then cosine decay",
            reference="arXiv 1608.03983",
        ),
        Component(
            kind="schedule",
            name="wsd",
            target="penstock.optim_muon.schedules:WarmupStableDecay",
            config="penstock.optim_muon.config:WarmupStableDecayConfig",
            summary="Linear warm-up, constant, linear decay",
            contract=2,
            reference="arXiv 2404.06395",
        ),
    ]
