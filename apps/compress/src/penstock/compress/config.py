"""The file of a compression plan; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.run.records.compression import BASELINE

# Names become folders.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._, -]*$"


class Step(Schema):
    """One row of the ledger: what it changes, and whether the model has to be trained for it."""

    name: str = Field(pattern=NAME)
    """Name of the step, and of the folder of its files."""
    train: bool = True
    """True trains the model from the beginning, with every seed, for as many tokens as the run. False takes the weights
    of the row before, which only a change of formats allows."""
    model: dict[str, Any] = {}
    """What changes in the run's `model`, beside all changes of earlier steps. A mapping is merged with what is there,
    unless it names its component with `use`. Components of a list, such as `sharing`, come after those that are there,
    or take the place of the one of their name; an empty list empties it."""
    export: dict[str, Any] = {}
    """What changes in the settings of the exporter `penstock`, which writes the file of the row."""


class CompressionPlan(Schema):
    """Steps from a model in full precision to its smallest form."""

    name: str = Field(pattern=NAME)
    """Name of the plan, and of the folder of its ledger."""
    baseline: dict[str, Any] = {"sharing": [], "quantizer": None}
    """What changes in the run's `model` before the first step, for the row that all others are compared with: full
    precision, and nothing shared."""
    steps: list[Step] = Field(min_length=1)
    """The steps, each on top of those before it."""

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if "use" in self.baseline:
            yield ("baseline", "use"), "a plan changes the settings of the run's architecture, not the architecture"
        taken = {BASELINE.lower()}
        for index, step in enumerate(self.steps):
            if step.name.lower() in taken:
                yield ("steps", index, "name"), f"the row '{step.name}' exists already: name this one differently"
            taken.add(step.name.lower())
            yield from (((*("steps", index), *at), what) for at, what in _of_step(step))


def _of_step(step: Step) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if "use" in step.model:
        yield ("model", "use"), "a step changes the settings of the run's architecture, not the architecture"
    if "use" in step.export:
        yield ("export", "use"), "the exporter is `penstock`: write its settings alone"
    if step.train and not step.model:
        yield ("train",), "a step that changes nothing of the model needs no training: write `train: false`"
    if not step.train:
        for name in sorted(step.model.keys() - {"quantizer"}):
            yield ("model", name), "only `quantizer` may change without training: write `train: true`"
