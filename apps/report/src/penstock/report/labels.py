"""Names of the runs on a page: their own, or what differs between runs of one name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.pages import formats
from penstock.report.data import Run

MOST_SETTINGS = 3
"""Most settings in a label; runs that need more are numbered."""
MOST_TRIED = 12
"""Differing settings that are tried for a label: 12 give 298 combinations of up to three."""


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; runs that share a name are labelled by the fewest settings that distinguish them.

    The name is left out if all runs have the same one. Runs with the same settings are numbered.
    """
    names = [run.name for run in runs]
    found = list(names)
    for name in dict.fromkeys(names):
        same = [index for index, each in enumerate(names) if each == name]
        if len(same) > 1:
            own = distinguishing([runs[index].config for index in same])
            for index, words in zip(same, own, strict=True):
                found[index] = words if len(same) == len(names) and words else ": ".join(filter(None, (name, words)))
    return _numbered(found, names)


def _numbered(found: Sequence[str], names: Sequence[str]) -> list[str]:
    """Labels that are still equal, with a number each."""
    seen: dict[str, int] = {}
    unique = []
    for label, name in zip(found, names, strict=True):
        seen[label] = seen.get(label, 0) + 1
        text = label or name
        unique.append(text if found.count(label) == 1 else f"{text} ({seen[label]})")
    return unique


def distinguishing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest settings that distinguish the configs, as words; if none do, those that distinguish most of them.

    >>> distinguishing([{"seed": 0, "lr": 0.1}, {"seed": 1, "lr": 0.1}])
    ['seed 0', 'seed 1']
    """
    rows = [(path, [plain(value) for value in values]) for path, values in differences(configs)]
    rows = sorted(rows, key=lambda row: -len(set(row[1])))[:MOST_TRIED]
    chosen: tuple[tuple[str, list[str]], ...] = ()
    most = 1
    for size in range(1, min(MOST_SETTINGS, len(rows)) + 1):
        for some in itertools.combinations(rows, size):
            apart = len(set(zip(*(values for _, values in some), strict=True)))
            if apart > most:
                chosen, most = some, apart
        if most == len(configs):
            break
    leaves = _leaf_names([path for path, _ in chosen])
    return [
        ", ".join(_words(leaf, values[index]) for leaf, (_, values) in zip(leaves, chosen, strict=True))
        for index in range(len(configs))
    ]


def plain(value: str) -> str:
    """A component without its distribution: `penstock-routers:softmax-topk` is `softmax-topk`."""
    distribution, colon, name = value.partition(":")
    return name if colon and distribution.startswith("penstock-") else value


def _words(leaf: str, value: str) -> str:
    if leaf == "use":
        return value
    return f"no {leaf}" if value == formats.DASH else f"{leaf} {value}"


def _leaf_names(paths: Sequence[str]) -> list[str]:
    """The last word of each path that is not a number, with the word before it if two would be equal."""
    parts = [[word for word in path.split(".") if not word.isdigit()] or [path] for path in paths]
    leaves = [words[-1] for words in parts]
    return [
        leaf if leaf == "use" or leaves.count(leaf) == 1 else ".".join(words[-2:])
        for leaf, words in zip(leaves, parts, strict=True)
    ]


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all configs, as dotted paths with each config's value.

    >>> differences([{"seed": 0, "model": {"k": 2}}, {"seed": 0, "model": {"k": 4}}])
    [('model.k', ['2', '4'])]
    """
    flat = [dict(_leaves(config)) for config in configs]
    paths = dict.fromkeys(path for settings in flat for path in settings if path != "name")
    rows = [(path, [settings.get(path, formats.DASH) for settings in flat]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict | list) or not value:
        yield path, value if isinstance(value, str) else json.dumps(value)
    for key, below in items:
        yield from _leaves(below, f"{path}.{key}" if path else str(key))
