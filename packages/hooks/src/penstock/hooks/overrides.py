"""`key.sub=value` on the command line: changes a config before validation and records itself as the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.hooks.document import ConfigDocument, Location, Value, dotted, parse_value
from penstock.hooks.problems import Problem, ProblemError


def apply_overrides(document: ConfigDocument, overrides: Sequence[str]) -> ConfigDocument:
    """Applies `key.sub=value` in order; raises `ProblemError` with every override that cannot be applied.

    Values are YAML. `key.0.sub` reaches into lists. A component written as its bare name becomes `{use: name}` when an
    override sets one of its settings.
    """
    value: Value = document.value
    sources = dict(document.sources)
    problems: list[Problem] = []
    for position, override in enumerate(overrides, start=1):
        where = f"command line, override {position}"
        try:
            value = _applied(value, sources, override, where)
        except ProblemError as error:
            reasons = [problem.what for problem in error.problems]
            problems += [Problem("bad-override", f"'{override}': {reason}", where) for reason in reasons]
        except ValueError as error:
            problems.append(Problem("bad-override", str(error), where))
    if problems:
        raise ProblemError(problems)
    assert isinstance(value, dict)
    return ConfigDocument(value, sources, document.name)


def _applied(value: Value, sources: dict[Location, str], override: str, where: str) -> Value:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"'{override}' is not key.sub=value")
    new, inside = parse_value(text, where)
    return _Replacement(new, inside, sources, override, where).within(value, parts, ())


@dataclass(frozen=True, slots=True)
class _Replacement:
    """One override and the sources that it updates."""

    new: Value
    inside: dict[Location, str]
    sources: dict[Location, str]
    override: str
    where: str

    def within(self, value: Value, parts: Sequence[str], at: Location) -> Value:
        """A copy of `value`, which is at `at`, with the item at `parts` replaced; `value` itself is not changed."""
        if not parts:
            self._note(at)
            return self.new
        part, *rest = parts
        if isinstance(value, list):
            index = int(part) if part.isdecimal() else len(value)
            if index >= len(value):
                raise ValueError(f"'{self.override}': '{dotted(at)}' is a list and has no item '{part}'")
            return [*value[:index], self.within(value[index], rest, (*at, index)), *value[index + 1 :]]
        if isinstance(value, str):
            self.sources[(*at, "use")] = self.sources.get(at, self.where)
            value = {"use": value}
        if value is None:
            self.sources[at] = self.where
            value = {}
        if not isinstance(value, dict):
            raise ValueError(f"'{self.override}': '{dotted(at)}' is a plain value and has nothing below it")
        return {**value, part: self.within(value.get(part), rest, (*at, part))}

    def _note(self, at: Location) -> None:
        """Makes the override the source of everything at and below `at`."""
        for location in [location for location in self.sources if location[: len(at)] == at]:
            del self.sources[location]
        self.sources.update({(*at, *location): self.where for location in self.inside})
