"""Entry points of installed distributions, read one distribution at a time.

`importlib.metadata.entry_points` reads those of all distributions as one list: a single distribution whose
`entry_points.txt` is malformed or not UTF-8 raises for everybody, and an empty `.dist-info` folder that an
uninstallation left behind hides the sound distribution of the same name.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from operator import attrgetter

ENTRY_POINTS = "entry_points.txt"


@dataclass(frozen=True, slots=True)
class Offer:
    """What one distribution offers in a group of entry points."""

    distribution: str
    version: str
    points: tuple[EntryPoint, ...]
    error: str = ""
    """Why its `entry_points.txt` cannot be read as a whole; the points are those of the group's own section."""


def offers(group: str) -> Iterator[Offer]:
    """Every distribution that offers something in the group, and every one whose entry points cannot be read."""
    by_name: dict[str, list[Distribution]] = {}
    for each in importlib.metadata.distributions():
        by_name.setdefault(_name_of_folder(each), []).append(each)
    for same in by_name.values():
        # Python imports the first on `sys.path`; a folder without metadata is what an uninstallation left behind
        imported = same if len(same) == 1 else list(filter(_headers, same))[:1]
        yield from (offer for each in imported or same if (offer := _offer(each, group)))


def _name_of_folder(distribution: Distribution) -> str:
    """The name by which `importlib.metadata` itself finds a distribution again, taken from its folder: reading the
    metadata of every installed distribution would take longer than the rest of discovery."""
    try:
        return attrgetter("_normalized_name")(distribution)
    except Exception:  # no such name in the folder, and metadata that cannot be read: it shares its name with no other
        return str(id(distribution))


def _imported(name: str) -> Distribution | None:
    """The first distribution of a name on `sys.path`, which is the one that Python imports. A folder without metadata
    is what is left of one."""
    return next((each for each in importlib.metadata.distributions(name=name) if _headers(each)), None)


def _offer(distribution: Distribution, group: str) -> Offer | None:
    error = ""
    try:
        points: Iterable[EntryPoint] = distribution.entry_points
    except Exception as raised:  # the parser of the standard library raises whatever a bad line leads to
        text = _read(distribution, ENTRY_POINTS)
        points, error = _section(text, group), _fault(text, raised)
    own = tuple(point for point in points if point.group == group)
    if not own and not error:
        return None
    headers = _headers(distribution)
    return Offer(canonical(headers.get("name", "unknown")), headers.get("version", "unknown"), own, error)


def _section(text: str, group: str) -> Iterator[EntryPoint]:
    """The well-formed lines of one section of an `entry_points.txt`."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == group and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(name.strip(), value.strip(), group)


def _fault(text: str, error: Exception) -> str:
    lines = map(str.strip, text.splitlines())
    bad = [line for line in lines if line and "=" not in line and not line.startswith(("#", "["))]
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return f"the line '{bad[0]}' is not NAME = VALUE" if bad else str(error)


def load(point: EntryPoint) -> object:
    """The module of an entry point; raises ValueError if its value is not the path of one."""
    if not re.fullmatch(r"[\w.]+(\s*:\s*[\w.]+)?\s*(\[.*\])?", point.value):
        raise ValueError(f"its entry point '{point.value}' is not the path of a module")
    return point.load()


def _read(distribution: Distribution, name: str) -> str:
    """A file of a distribution's metadata, empty if it does not exist; other encodings than UTF-8 are read as Latin-1,
    in which every byte is a character."""
    try:
        return distribution.read_text(name) or ""
    except UnicodeDecodeError as error:
        return error.object.decode("latin-1")


def _headers(distribution: Distribution) -> dict[str, str]:
    """Name and version, from the first lines of the metadata. Parsing all of it, README included, takes ten times as
    long and would dominate discovery."""
    text = _read(distribution, "METADATA") or _read(distribution, "PKG-INFO")
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if key.lower() in ("name", "version"):
            found[key.lower()] = value.strip()
        if not colon or len(found) == 2:
            break
    return found


def versions() -> dict[str, str]:
    """The version of every installed distribution, by lower-case name."""
    headers = map(_headers, importlib.metadata.distributions())
    found = {(each["name"].lower(), each["version"]) for each in headers if len(each) == 2}
    return dict(sorted(found))


def named(name: str) -> str | None:
    """The name and version of the distribution of a name, or None if none is installed."""
    distribution = _imported(name)
    headers = _headers(distribution) if distribution else {}
    return f"{headers.get('name', name)} {headers.get('version', '')}".strip() if headers else None


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503).

    >>> canonical("Penstock_Moe.Core")
    'penstock-moe-core'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
