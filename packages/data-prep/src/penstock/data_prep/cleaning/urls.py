"""Removes documents whose URL was seen before, whatever their text.

Rules of the canonical form, in the order in which they apply:

1. Spaces and a byte order mark around the URL go, and so does the fragment (`#top`).
2. Scheme and host are written in small letters; `https` is taken for `http`. A host that is not ASCII is written as DNS
   has it (`b\u00fccher.de` is `xn--bcher-kva.de`; UTS 46). The dot behind a host goes. The port goes if it is the
   scheme's own (80 and 443, 21).
3. `%7e` and `%7E` are one; escapes of letters, digits and `-._~` are the characters themselves. What is not ASCII, and
   a space, is escaped.
4. `.` and `..` of the path are resolved, and the slash at its end goes.
5. Parameters that say where a visitor came from (`utm_*`, `gclid`, `fbclid`, ...) go. The others stay in their order,
   for some servers read it. A `?` with nothing behind it goes.

User names, `www.`, `index.html` and the case of paths stay: servers may tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import SplitResult, quote, urlsplit

import idna
import numpy as np
import xxhash

from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError

TRACKING = (
    "utm_*", "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "fbclid", "msclkid", "yclid", "twclid", "ttclid", "igshid",
    "li_fat_id", "mc_cid", "mc_eid", "_ga", "_gl", "_hsenc", "_hsmi", "mkt_tok", "vero_id", "oly_enc_id", "oly_anon_id",
)  # fmt: skip
"""Names of parameters that only tell where a visitor came from; `*` stands for any ending."""

WITHOUT_URL = "documents without a URL that can be read"

_PORTS = {"http": (80, 443), "https": (80, 443), "ftp": (21,)}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_HOST = re.compile("[!-~]+")
_TO_ESCAPE = re.compile(r"[^!-~]+")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Urls:
    """Keeps the first document of each canonical URL.

    `missing` says what a document without a URL, or with one that cannot be read, is: `keep` passes it on, since it
    cannot repeat another; `remove` drops it; `refuse` raises `ProblemError`. `tracking` are the parameters that rule 5
    drops.
    """

    def __init__(
        self,
        *,
        missing: Literal["keep", "remove", "refuse"] = "keep",
        tracking: Sequence[str] = TRACKING,
    ) -> None:
        self._missing = missing
        self._tracking = tuple(tracking)
        self.told: dict[str, int] = {}

    def sketch(self, documents: Sequence[Document]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """uint64 [N, 2]: a 128-bit hash of the canonical URL; zeros for a document without a URL."""
        rows = b"".join(self._digest(document) for document in documents)
        return np.frombuffer(rows, ">u8").astype(np.uint64).reshape(-1, 2)

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        rows = np.concatenate([np.zeros((0, 2), np.uint64), *sketches])
        order = np.lexsort(rows.T)  # stable, so equal rows stay in the order of their places
        begins = np.ones(len(rows), bool)
        begins[1:] = np.any(rows[order[1:]] != rows[order[:-1]], axis=1)
        first_of = np.empty_like(order)
        first_of[order] = order[begins][np.cumsum(begins) - 1]
        absent = (rows[:, 0] | rows[:, 1]) == 0
        self.told = {WITHOUT_URL: int(absent.sum())} if absent.any() else {}
        removed = np.where(absent, self._missing == "remove", first_of != np.arange(len(rows)))
        for place in np.flatnonzero(removed).tolist():
            if absent[place]:
                yield place, Decision("url/missing", f"no URL that can be read: {read(place).url!r:.200}")
            else:
                detail = f"the URL was seen before: {canonical(read(place).url or '', self._tracking)}"
                yield place, Decision("url/repeated", detail, repeats=read(int(first_of[place])).source)

    def _digest(self, document: Document) -> bytes:
        url = canonical(document.url, self._tracking) if document.url else None
        if url is not None:
            return xxhash.xxh3_128_digest(url.encode("utf-8", "surrogatepass"))
        if self._missing == "refuse":
            what = f"the URL cannot be read: {document.url!r:.200}" if document.url else "the document has no URL"
            fix = "name the field of the URL in the corpus, or set `missing` to keep or remove"
            raise ProblemError(Problem("missing-url", what, document.source, fix))
        return bytes(16)


def canonical(url: str, tracking: Sequence[str] = TRACKING) -> str | None:
    """The form that all spellings of a URL share, by the rules above; None if it is no absolute URL with a host.

    >>> canonical("HTTPS://Example.org:443/a/./b/?utm_source=x&id=7#top")
    'http://example.org/a/b?id=7'
    """
    try:
        parts = urlsplit(url.strip().strip("\ufeff").strip())
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not (parts.hostname or "").strip("."):
        return None
    if (host := _host(parts, port)) is None:
        return None
    path = _resolved(_unescaped(parts.path)).rstrip("/")
    kept = [each for each in _unescaped(parts.query).split("&") if each and not _tracks(each, tracking)]
    scheme = "http" if parts.scheme == "https" else parts.scheme
    return f"{scheme}://{host}{path}" + (f"?{'&'.join(kept)}" if kept else "")


def _host(parts: SplitResult, port: int | None) -> str | None:
    """With user and port; None for a host that DNS cannot have."""
    user, at, _ = parts.netloc.rpartition("@")
    host = parts.hostname or ""
    if not host.isascii():
        with suppress(idna.IDNAError):
            host = idna.encode(host, uts46=True).decode()
    host = host.rstrip(".")
    if not _HOST.fullmatch(host):
        return None
    host = f"[{host}]" if ":" in host else host
    own = port is None or port in _PORTS.get(parts.scheme, ())
    return _unescaped(user) + at + host + ("" if own else f":{port}")


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = int(match.group(1), 16)
        return chr(code) if code in _PLAIN else match.group().upper()

    known = _ESCAPE.sub(plain, text)
    if known.isascii() and " " not in known:
        return known
    return _TO_ESCAPE.sub(lambda match: quote(match.group().encode("utf-8", "surrogatepass"), safe=""), known)


def _resolved(path: str) -> str:
    """The path without `.` and `..`; a path cannot lead above its root."""
    steps: list[str] = []
    for step in path.split("/")[1:]:
        if step == "..":
            del steps[-1:]
        elif step != ".":
            steps.append(step)
    return "".join(f"/{step}" for step in steps)


def _tracks(parameter: str, tracking: Sequence[str]) -> bool:
    name = parameter.partition("=")[0].lower()
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in tracking)
