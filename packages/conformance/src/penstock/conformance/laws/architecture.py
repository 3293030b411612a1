# pyright: basic
"""Laws of architectures: `LanguageModel`, built as a run builds it, with top-k routers and without a quantizer.

`Schema.example` gives sizes that a processor builds in milliseconds. Parameters are redrawn before most laws, since
those that start at zero would hide what depends on them.
"""

from __future__ import annotations

from penstock.conformance.laws.models import construction, inputs, passes, state, training, weights

CAPABILITIES = {
    "cached": "`new_cache(batch, capacity)` makes a cache with which a text may be read piece by piece",
    "causal": "the logits of a position depend on no later token",
    "compilable": "torch.compile takes a pass whole",
    "documents": "documents of one row are kept apart (`Inputs.document_BS`)",
    "empty-batches": "a batch without texts passes, forward and backward",
    "huggingface-layout": "config.json and the names of tensors are those of a class of transformers",
    "mixed-precision": "with `compute_dtype` bf16 the model computes in bf16, parameters and gradients staying fp32",
    "noise-free": "training computes the same logits as evaluation: there is no dropout and no jitter",
    "padding": "texts of unequal length are padded on either side (`Inputs.real_BS`)",
    "token-ids": "routers are given the token ids that they ask for",
    "weight-sites": "`weight_sites` are where sharing and quantizers of contract 2 change weights",
}

LAWS = (*construction.LAWS, *passes.LAWS, *inputs.LAWS, *training.LAWS, *state.LAWS, *weights.LAWS)
