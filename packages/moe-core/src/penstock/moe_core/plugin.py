"""What penstock-moe-core offers."""

from penstock.hooks import Component, hookimpl


@hookimpl
def architectures() -> list[Component]:
    return [
        Component(
            kind="architecture",
            name="glm-moe",
            target="penstock.moe_core.model:glm_moe",
            config="penstock.moe_core.config:GlmMoeConfig",
            summary="GLM-4.x mixture of experts: grouped-query attention, QK-norm, partial RoPE, shared experts",
            capabilities=frozenset(
                {"cached", "causal", "empty-batches", "huggingface-layout", "mixed-precision", "noise-free"}
            ),
            reference="GLM-4.5, arXiv 2508.06471",
        )
    ]
