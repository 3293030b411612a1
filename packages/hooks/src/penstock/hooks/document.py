"""YAML with the source position of every value: text to `ConfigDocument`, and a value back to text.

Scalars follow the core schema of YAML 1.2, because PyYAML's own (1.1) reads `1e-3` as text and `no` as False. Two
deviations: digits may be grouped (`2_000_000`), and a duplicate key is an error, while PyYAML silently keeps the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import yaml

from penstock.hooks.problems import Problem, ProblemError

_MOST_VALUES = 200_000
"""Read in a second. Nine lines of nine aliases each stand for 400 million values."""
_MOST_LEVELS = 100
_MOST_DIGITS = 1000

Location: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class ConfigDocument:
    """A parsed config: its value, and for each path into it the place where it was written."""

    value: dict[str, Any]
    sources: dict[Location, str]
    name: str = "config"

    def where(self, location: Location) -> str:
        """The closest known source, then the dotted path: "run.yaml:7:3: model.router.kk"."""
        source = self.sources.get(self.written(location))
        return ": ".join(part for part in (source, dotted(location)) if part) or self.name

    def written(self, location: Location) -> Location:
        """The longest beginning of `location` whose source is known."""
        lengths = range(len(location), 0, -1)
        return next((location[:length] for length in lengths if location[:length] in self.sources), ())

    def at(self, location: Location) -> Any:
        """The value at `location`, or None if nothing is there."""
        value: Value = self.value
        for part in location:
            value = below(value, part)
        return value


def dotted(location: Location) -> str:
    """A location as it is written in overrides and messages.

    >>> dotted(("model", "balance", 0, "rate"))
    'model.balance.0.rate'
    """
    return ".".join(str(part) for part in location)


def below(value: Value, part: str | int) -> Value:
    """The item `part` of a mapping or list, or None if it has no such item."""
    if isinstance(value, dict):
        return value.get(str(part))
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return value[part]
    return None


def parse_config(text: str, name: str = "config") -> ConfigDocument:
    """Parses YAML text; raises `ProblemError` with the syntax error, or with every duplicate key and bad value.

    >>> parse_config("rate: 1e-3\\nshuffle: no").value
    {'rate': 0.001, 'shuffle': 'no'}
    """
    value, sources = parse_value(text, name)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ProblemError(Problem("bad-yaml", "a config is a mapping of keys to values", sources[()]))
    return ConfigDocument(value, sources, name)


def parse_value(text: str, name: str) -> tuple[Value, dict[Location, str]]:
    """Any YAML value, and the place "NAME:LINE:COLUMN" of every value inside it."""
    try:
        return _parse(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else _place(name, mark)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ProblemError(Problem("bad-yaml", f"not valid YAML ({what})", where)) from error
    except yaml.YAMLError as error:
        raise ProblemError(Problem("bad-yaml", f"not valid YAML ({error})", name)) from error


def _parse(text: str, name: str) -> tuple[Value, dict[Location, str]]:
    node = _Loader(text).get_single_node()
    if node is None:
        return None, {(): name}
    reading = _Reading(name)
    value = reading.value(node, ())
    if reading.problems:
        raise ProblemError(reading.problems)
    return value, reading.sources


def dump_config(value: Mapping[str, Any]) -> str:
    """YAML text that `parse_config` reads back as the same value, in the same order.

    >>> dump_config({"name": "1e-3", "rate": 0.001})
    "name: '1e-3'\\nrate: 0.001\\n"
    """
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass(slots=True)
class _Reading:
    """Turns nodes into values, and notes where each one was written and what is wrong with it."""

    name: str
    sources: dict[Location, str] = field(default_factory=lambda: dict[Location, str]())
    problems: list[Problem] = field(default_factory=lambda: list[Problem]())
    around: list[yaml.Node] = field(default_factory=lambda: list[yaml.Node]())

    def value(self, node: yaml.Node, at: Location) -> Value:
        where = self.sources.setdefault(at, _place(self.name, node.start_mark))
        if len(self.sources) > _MOST_VALUES:
            what = f"has more than {_MOST_VALUES} values, aliases (*name) written out"
            raise ProblemError(Problem("bad-yaml", what, where, "write a smaller file, with fewer aliases"))
        if len(self.around) >= _MOST_LEVELS:
            raise ProblemError(Problem("bad-yaml", f"is nested more than {_MOST_LEVELS} levels deep", where))
        if any(node is outer for outer in self.around):
            return self._bad("an alias refers to a value that contains it", where)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            return self._bad(f"unknown tag '{node.tag}'", where)
        self.around.append(node)
        value = self._mapping(node, at) if isinstance(node, yaml.MappingNode) else self._sequence(node, at)
        self.around.pop()
        return value

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Value:
        if node.tag == f"{_TAG}str":
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                return self._bad("the text has half a surrogate pair, which no file can hold", where)
            return node.value
        scalar = _SCALARS.get(node.tag)
        if scalar is None:
            return self._bad(f"unknown tag '{node.tag}'", where)
        try:
            if scalar.pattern.match(node.value):
                return scalar.read(node.value)
        except ValueError as error:
            return self._bad(str(error), where)
        return self._bad(f"'{node.value}' is not of type {node.tag.removeprefix(_TAG)}", where)

    def _sequence(self, node: yaml.Node, at: Location) -> Value:
        return [self.value(item, (*at, position)) for position, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, at: Location) -> Value:
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            where = _place(self.name, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._bad("a key must be plain text", where)
                continue
            key = key_node.value
            if key in result:
                first = self.sources[(*at, key)]
                self.problems.append(
                    Problem("duplicate-key", f"duplicate key '{key}'", where, f"the first is at {first}")
                )
                continue
            self.sources[(*at, key)] = where
            result[key] = self.value(value_node, (*at, key))
        return result

    def _bad(self, what: str, where: str) -> None:
        self.problems.append(Problem("bad-yaml", what, where))


def _place(name: str, mark: yaml.Mark) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > _MOST_DIGITS:  # Python limits only decimal ones, and then cannot print the others
        raise ValueError(f"an integer of {len(digits)} digits is too large, use at most {_MOST_DIGITS}")
    return int(digits, 0) if digits.startswith(("0x", "0o")) else int(digits)


def _number(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


@dataclass(frozen=True, slots=True)
class _Scalar:
    pattern: re.Pattern[str]
    read: Callable[[str], Value]


_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, _Scalar] = {  # the first pattern that matches decides
    f"{_TAG}null": _Scalar(re.compile(r"(?:~|null|Null|NULL|)\Z"), lambda text: None),
    f"{_TAG}bool": _Scalar(re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), lambda text: text.lower() == "true"),
    f"{_TAG}int": _Scalar(re.compile(r"(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), _integer),
    f"{_TAG}float": _Scalar(
        re.compile(
            r"(?:[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        _number,
    ),
}


class _Loader(yaml.SafeLoader):
    """Stops at `_MOST_LEVELS` itself, because the scanner takes quadratic time for levels and the parser recurses."""

    yaml_implicit_resolvers = {None: [(tag, each.pattern) for tag, each in _SCALARS.items()]}

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        self._require_levels(cast("int", self.flow_level))
        cast("Any", super()).fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._require_levels(len(cast("list[int]", self.indents)))
        return cast("Any", super()).add_indent(column)

    def _require_levels(self, level: int) -> None:
        if level >= _MOST_LEVELS:
            what = f"it is nested more than {_MOST_LEVELS} levels deep"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=cast("Any", self).get_mark())


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: object) -> bool:
        return True  # equal values are written out, so that each has its own line

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # other styles fold these line breaks of Unicode into spaces
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return yaml.ScalarNode(f"{_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
