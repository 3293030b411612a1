"""The sweep file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from penstock.hooks.config import OfKind, Schema
from penstock.hooks.registry import Choice
from penstock.sweep.objectives import BETTER, is_objective

Settings = dict[str, Any]
"""Dotted keys of a run config and their values."""


def _share_or_tokens(amount: float) -> float:
    if amount >= 1 and (amount == 1 or amount != int(amount)):
        raise ValueError(f"{amount:g} is neither a share, which is below 1, nor a number of tokens")
    return amount


Amount = Annotated[float, Field(gt=0), AfterValidator(_share_or_tokens)]
"""Below 1 a share, else a number of tokens."""

LauncherChoice: TypeAlias = Annotated[Choice, OfKind("launcher")]
StopChoice: TypeAlias = Annotated[Choice, OfKind("stop-rule")]

TaskChoice: TypeAlias = Annotated[Choice, OfKind("task")]

Direction = Literal["minimize", "maximize"]

RESERVED = frozenset({"data"})
"""Folders under `runs` that are no sweep's."""
OVERRIDDEN = {
    "seed": "each run has one of the sweep's `seeds`, which replaces it",
    "name": "each run has the sweep's `name`, which replaces it",
}
"""Settings of a run config that a sweep sets itself."""


class ShortPhase(Schema):
    """The first phase: every cell, on few tokens."""

    tokens: Amount = 0.1
    """Tokens of each run: below 1 a share of `train.tokens`, else their number."""
    seeds: int = Field(default=1, ge=1)
    """How many of the sweep's seeds each cell is trained with, from the first."""
    schedule: Literal["own", "trunk"] = "own"
    """`own`: a whole learning-rate schedule over the phase's tokens. `trunk`: with the schedule `wsd`, the second phase
    goes on from where the rate of the first began to fall, and repeats none of its steps."""


class Phases(Schema):
    """A short phase for every cell, and a final one for the best of them."""

    short: ShortPhase = ShortPhase()
    """The first phase."""
    finalists: int = Field(default=3, ge=1)
    """How many cells are trained to the end: with every seed of the sweep, or as `confirm` says."""


class Rate(Schema):
    """Whose learning rates the cells have."""

    use: Literal["fixed", "width", "lr-find"] = "fixed"
    """`fixed`: those of the cell's config. `width`: those of the cell's config, carried from hidden size `width` to the
    cell's. `lr-find`: those that `penstock train --lr-find` suggests for the cell."""
    width: int | None = Field(default=None, ge=1)
    """The hidden size that the rates of the config suit. null: that of the baseline."""
    seeds: int = Field(default=3, ge=1)
    """Ramps of `lr-find` for each rule of the optimizer, each with its own initial weights and data order."""
    steps: int = Field(default=100, ge=2)
    """Steps of each ramp."""
    also_common: bool = False
    """Whether the cells whose rates differ from their config's also train a short phase at those, so that the report
    ranks them at a common rate too."""


class Budget(Schema):
    """Caps of the whole sweep. A run that would exceed one does not begin; its cell is then "capped"."""

    hours: float | None = Field(default=None, gt=0)
    """Hours of training, summed over runs."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens of training, summed over runs."""
    runs: int | None = Field(default=None, gt=0)
    """Runs."""


class SweepConfig(Schema):
    """A grid over settings of one run config."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep, and of the folder of its runs and report."""
    config: Path
    """The run config that every cell starts from; a relative path is relative to the sweep file's folder."""
    set: Settings = {}
    """Settings shared by every cell, such as {train.tokens: 300_000}."""
    axes: dict[str, dict[str, Settings]] = Field(min_length=1)
    """The axes to compare. Each axis maps the names of its values to their settings; the cells are all combinations."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[0, 1, 2], min_length=1)
    """Seeds; every cell is trained once with each. All runs have the same data split, and runs of one seed the same
    data order and initial random numbers."""
    confirm: int | None = Field(default=None, ge=1)
    """null: a cell that is trained to the end is trained with every seed. Else it is trained with the first seed, and
    this many runs follow, one after the other: each has the next seed of the cell that is best so far in bits per
    byte, so that the winner does not owe it to its seed."""
    baseline: str | None = None
    """The cell that the others are compared with, such as "softmax, switch"; the first cell if empty."""
    flops_tolerance: float = Field(default=0.02, ge=0)
    """Largest allowed relative difference of the cells' active FLOPs per token. Unequal cells are refused, because a
    better cell might only be larger; with `phases` or `rank_at` they are allowed."""
    phases: Phases | None = None
    """Two phases; null trains every cell with every seed to the end."""
    stop: StopChoice | None = None
    """The rule that stops cells at rungs: `paired` with phases where it is not written. null: every cell goes on."""
    rungs: list[Amount] | None = None
    """Where the short phase (the whole training without phases) measures every cell, and `stop` may stop it: below 1 a
    share of its tokens, else a number of tokens. null: 0.25 and 0.5 with phases, none without."""
    heldout_bytes: int | None = Field(default=None, ge=1024)
    """Bytes of held-out text that results are measured on: whole documents from the first on. Fewer than 30 documents
    are cut into pieces of equal bytes, and the last one at this size. null reads all of the text, which takes longer
    than a short phase if there is much."""
    objectives: dict[str, Direction] = Field(default={"bits_per_byte": "minimize"}, min_length=1)
    """The figures of which the report draws Pareto fronts, each with its direction. Rules and the choice of finalists
    go by bits per byte and by those that are exact, such as parameters; measured times decide nothing."""
    launcher: LauncherChoice | None = None
    """Who runs the jobs: workers on this machine (`local`), or those of a cluster. null: `local` with phases; without
    them this process, one run after the other."""
    rate: Rate = Rate()
    """Whose learning rates the cells have."""
    budget: Budget = Budget()
    """Caps of the whole sweep."""
    tasks: list[TaskChoice] = []
    """Tasks of `penstock evaluate` whose scores the report shows, for the first seed of each cell that was trained to
    the end."""
    rank_at: list[Literal["tokens", "flops"]] = []
    """What the report ranks at: equal tokens, equal FLOPs of training, or both, with where they disagree."""

    @model_validator(mode="before")
    @classmethod
    def _of_phases(cls, data: object) -> object:
        """What a sweep has because it has phases."""
        if not isinstance(data, dict) or data.get("phases") is None:
            return data
        stop = {} if data.get("rungs") == [] else {"stop": {"use": "paired"}}  # a rule decides at rungs
        return {"launcher": {"use": "local"}, **stop, **data}

    @field_validator("objectives", mode="before")
    @classmethod
    def _each_has_a_direction(cls, objectives: object) -> object:
        if isinstance(objectives, str | list):
            raise ValueError("an objective has no direction: write {NAME: minimize} or {NAME: maximize} for each")
        return objectives

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        yield from self._misfits_of_the_grid()
        yield from self._misfits_of_rates()
        yield from self._without_a_reader()
        if self.phases and self.phases.short.seeds > len(self.seeds):
            what = f"the short phase has {self.phases.short.seeds} seeds, but the sweep has {len(self.seeds)}"
            yield ("phases", "short", "seeds"), what
        yield from self._misfits_of_confirm()
        for name, direction in self.objectives.items():
            if not is_objective(name):
                yield ("objectives", name), "no figure of a cell has this name"
            elif BETTER.get(name, direction) != direction:
                yield ("objectives", name), f"a cell is better if it is {'less' if direction == 'maximize' else 'more'}"
            elif name.startswith("tasks.") and not self.tasks:
                yield ("objectives", name), "the sweep has no `tasks`, so no cell has scores"

    def _misfits_of_the_grid(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.name in RESERVED:
            yield ("name",), f"runs/{self.name} is the folder of prepared data: choose another name"
        if len(set(self.seeds)) < len(self.seeds):
            yield ("seeds",), f"{self.seeds}: each seed may appear only once"
        for axis, values in self.axes.items():
            if not values:
                yield ("axes", axis), "an axis needs a value"
            for at in [(axis,), *((axis, value) for value in values)]:
                if not at[-1].strip() or not at[-1].isprintable():
                    yield ("axes", *at), "a name needs a letter or digit, and stands in one line of a table"
        names = self.cell_names()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            yield ("axes",), f"two cells are named '{twice[0]}': rename a value of an axis"
        if self.baseline is not None and self.baseline not in names:
            yield ("baseline",), f"'{self.baseline}' is not a cell; the cells are {'; '.join(names)}"
        if self.phases and "finalists" in self.phases.model_fields_set and self.phases.finalists > len(names):
            yield ("phases", "finalists"), f"the sweep has {len(names)} cells"
        values = [(("axes", axis, value), own) for axis, each in self.axes.items() for value, own in each.items()]
        for at, settings in [(("set",), self.set), *values]:
            for key in settings.keys() & OVERRIDDEN.keys():
                yield (*at, key), OVERRIDDEN[key]

    def _misfits_of_confirm(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.confirm is None:
            return
        cells = len(self.cell_names())
        cells = min(cells, self.phases.finalists) if self.phases else cells
        further = cells * (len(self.seeds) - 1)
        if further == 0:
            yield ("confirm",), "a cell is confirmed with further seeds, but the sweep has one"
        elif self.confirm > further:
            yield ("confirm",), f"{cells} cells with {len(self.seeds) - 1} further seeds make {further} further runs"

    def _misfits_of_rates(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        given = self.rate.model_fields_set
        readers = {"width": "width", "seeds": "lr-find", "steps": "lr-find"}
        for name, reader in readers.items():
            if name in given and getattr(self.rate, name) is not None and self.rate.use != reader:
                yield ("rate", name), f"nothing reads it with `use: {self.rate.use}`"
        if self.rate.also_common and (self.rate.use == "fixed" or self.phases is None):
            yield ("rate", "also_common"), "it needs phases, and rates that are not `fixed`"

    def _without_a_reader(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        rungs = self.rungs if self.rungs is not None else self.phases
        if self.stop is not None and self.stop.entry.component.name != "none" and not rungs:
            yield ("stop",), "a rule stops cells at `rungs`, and the sweep has none"
        if "flops_tolerance" in self.model_fields_set and (self.phases or self.rank_at):
            yield ("flops_tolerance",), "nothing reads it with `phases` or `rank_at`, which allow unequal cells"

    def cell_names(self) -> list[str]:
        return [", ".join(names) for names in itertools.product(*self.axes.values())]
