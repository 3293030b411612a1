# pyright: basic
"""Laws of architectures: `LanguageModel`, built as a run builds it, with top-k routers and without a quantizer.

`Schema.example` gives sizes that a processor builds in milliseconds. Parameters are redrawn before most laws, since
those that start at zero would hide what depends on them.
"""

from __future__ import annotations

from penstock.conformance.laws.models import construction, inputs, passes, state, training, weights

CAPABILITIES = {
    "cached": "`new_cache(batch, capacity)` makes a cache for reading a text in pieces",
    "causal": "the logits of a position depend on no later token",
    "compilable": "torch.compile captures a forward pass as one graph",
    "documents": "documents packed into one row are kept apart (`Inputs.document_BS`)",
    "empty-batches": "an empty batch works, forward and backward",
    "huggingface-layout": "config.json and tensor names match a transformers class",
    "mixed-precision": "with `compute_dtype` bf16 the model computes in bf16; parameters and gradients stay fp32",
    "noise-free": "training computes the same logits as evaluation: no dropout and no jitter",
    "padding": "texts of unequal length may be padded on either side (`Inputs.real_BS`)",
    "token-ids": "routers get the token ids that they ask for",
    "weight-sites": "`weight_sites` lets sharing and quantizers of contract 2 change weights",
}

LAWS = (*construction.LAWS, *passes.LAWS, *inputs.LAWS, *training.LAWS, *state.LAWS, *weights.LAWS)
