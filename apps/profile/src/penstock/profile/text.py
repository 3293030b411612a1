"""What `penstock profile` prints of a model's figures."""

from __future__ import annotations

from penstock.cli import output
from penstock.profile.atlas import (
    HEADINGS,
    PREFERENCES,
    count_lines,
    layer_line,
    preference_caption,
    preference_lines,
    verdicts,
)
from penstock.run.records.profile import Profile


def model_text(model: Profile) -> str:
    """Load of the layers, counts of the experts, domain preferences, and the conclusions from them."""
    dropped = model.dropped_warm_up
    head = f"{model.model}: {model.assignments:,} assignments"
    head += f" (without {dropped:,} warm-up rows)" if dropped else ""
    layers = model.layers
    parts = [head, output.table(HEADINGS, map(layer_line, layers))]
    if counts := count_lines(layers):
        parts.append(output.table(("layer", *(f"expert {each}" for each in range(len(counts[0]) - 1))), counts))
    else:
        parts.append(f"Counts of all {len(layers[0].counts or ())} experts: use --json, or --report to draw them.")
    if preferences := preference_lines(layers):
        parts += [output.table(PREFERENCES, preferences), preference_caption(layers)]
    said = list(verdicts(model))
    if model.max_violation_global is not None:
        said.append(
            f"MaxVio over all {model.tokens:,} tokens: {model.max_violation_global:.3f}; "
            f"mean over batches: {model.max_violation_batch:.3f}"
        )
    return "\n\n".join([*parts, "\n".join(said)])
