"""The components of penstock-moe-core."""

from penstock.hooks import Component, hookimpl


@hookimpl
def architectures() -> list[Component]:
    return [
        Component(
            kind="architecture",
            name="glm-moe",
            target="penstock.moe_core.glm.model:glm_moe",
            config="penstock.moe_core.glm.config:GlmMoeConfig",
            summary="GLM-4.x mixture of experts: grouped-query attention, QK-norm, partial RoPE, shared experts",
            capabilities=frozenset(
                {
                    "cached",
                    "causal",
                    "documents",
                    "empty-batches",
                    "huggingface-layout",
                    "mixed-precision",
                    "noise-free",
                    "padding",
                    "token-ids",
                    "weight-sites",
                }
            ),
            contract=2,
            reference="GLM-4.5, arXiv 2508.06471",
        ),
        Component(
            kind="architecture",
            name="gpt",
            target="penstock.moe_core.gpt.model:gpt",
            config="penstock.moe_core.gpt.config:GptConfig",
            summary="GPT-2: a dense decoder with learned positions, LayerNorm and a GELU MLP",
            capabilities=frozenset(
                {
                    "cached",
                    "causal",
                    "compilable",
                    "documents",
                    "empty-batches",
                    "huggingface-layout",
                    "mixed-precision",
                    "noise-free",
                    "padding",
                    "weight-sites",
                }
            ),
            contract=2,
            reference="Language Models are Unsupervised Multitask Learners, Radford et al. 2019",
        ),
        Component(
            kind="architecture",
            name="frozen-base",
            target="penstock.moe_core.frozen_base.model:frozen_base",
            config="penstock.moe_core.frozen_base.config:FrozenBaseConfig",
            summary="A frozen model with trainable routed experts next to or in place of its MLPs",
            capabilities=frozenset(
                {
                    "cached",
                    "causal",
                    "documents",
                    "empty-batches",
                    "mixed-precision",
                    "noise-free",
                    "padding",
                    "token-ids",
                    "weight-sites",
                }
            ),
            contract=2,
            reference="Sparse upcycling, arXiv 2212.05055",
        ),
        Component(
            kind="architecture",
            name="bert",
            target="penstock.moe_core.bert.model:bert",
            config="penstock.moe_core.bert.config:BertConfig",
            summary="BERT encoder with a head for hidden tokens, classification, tags or spans",
            capabilities=frozenset(
                {
                    "compilable",
                    "empty-batches",
                    "huggingface-layout",
                    "mixed-precision",
                    "noise-free",
                    "padding",
                    "weight-sites",
                }
            ),
            contract=2,
            reference="BERT, arXiv 1810.04805",
        ),
    ]
