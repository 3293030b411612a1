# pyright: basic
"""Laws of architectures: `LanguageModel`, built as a run builds it, with top-k routers and without a quantizer.

`Schema.example` gives sizes that a processor builds in milliseconds. Parameters are redrawn before most laws, since
those that start at zero would hide what depends on them.
"""

from __future__ import annotations

from penstock.conformance.laws.models import construction, inputs, passes, slots, state, training, weights

LAWS = (*construction.LAWS, *passes.LAWS, *slots.LAWS, *inputs.LAWS, *training.LAWS, *state.LAWS, *weights.LAWS)
