"""A public suite of attacks on a sandbox. An attack escapes when its effect is seen outside, not when its program ends
well. All are harmless by construction: they touch bait that was laid out for them, and what they use has an end.

These modules import the standard library alone, so that the suite can be run within a sandbox too, on an executor that
has no isolation of its own."""
