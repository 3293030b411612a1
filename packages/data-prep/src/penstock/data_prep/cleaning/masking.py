"""Masks what could lead to a person: e-mail addresses, IP addresses and telephone numbers.

In doubt, text stays as it is.

- An IPv4 address stands alone, or as the end of a range: `1.2.3.4.5` stays, and so do numbers of versions and
  sections, which a word beside them gives away (`v1.2.3.4`, `Chrome/91.0.0.0`, `section 1.2.3.4`).
- Addresses that belong to no single person (private, loopback, documentation, multicast) stay.
- A telephone number has a `+` and as many digits as the numbering plan of its country allows, which `phonenumbers`
  knows, or the form of North America. Decimals with a sign (`+51.507351`) are no numbers of this kind.
"""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

import phonenumbers

from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError

# Letters of names and hosts. Scripts without spaces between words are left out: what stands before an address there is
# no part of it. `\w` and `\d` are ASCII here for the same reason.
_LETTER = r"A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"
_LABEL = rf"[{_LETTER}0-9](?:[{_LETTER}0-9-]{{0,61}}[{_LETTER}0-9])?"
_EMAIL = (
    rf"(?<![{_LETTER}\w.%+-])(?<![{_LETTER}\w]['\u2019])[{_LETTER}0-9_][{_LETTER}\w.%+'\u2019-]{{0,63}}"
    rf"@(?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,63}}(?![{_LETTER}\w-])"
)
_QUAD = r"\d{1,3}(?:\.\d{1,3}){3}"
_IPV4 = rf"(?<![\w.+-])(?<![A-Za-z]/){_QUAD}(?:[-\u2013]{_QUAD})?(?![\w+-]|\.\w)"
_IPV6 = rf"(?:(?<![\w:.])|(?<=IPv6:))(?=[0-9A-Fa-f]{{0,4}}:)[0-9A-Fa-f:]{{2,39}}(?:{_QUAD})?(?<!\w:)(?![\w:]|\.\w)"
_GAP = r"[ \u00a0\u2007\u2009\u202f./\-\u2010\u2011\u2013]"
_PHONE = (
    r"(?<![\w+./-])(?:"
    rf"\+[1-9]\d{{0,14}}(?:{_GAP}{{0,2}}\(\d{{1,4}}\)\d{{0,12}})?(?:{_GAP}{{1,2}}\d{{1,12}}){{0,7}}"
    rf"|(?:1{_GAP})?(?:\([2-9]\d{{2}}\){_GAP}?|[2-9]\d{{2}}{_GAP})[2-9]\d{{2}}{_GAP}\d{{4}}"
    r")(?![\w-]|\.\d)"
)
_FIND = re.compile(f"(?P<email>{_EMAIL})|(?P<ipv6>{_IPV6})|(?P<phone>{_PHONE})|(?P<ipv4>{_IPV4})", re.ASCII)
_VERSIONED = "|".join(
    (
        "v", "ver", "versions?", "release", "build", "firmware", "driver", "revision", "rev", "sdk", "kernel", "linux",
        "sections?", "sec", "chapter", "clause", "paragraph", "article", "appendix", "annex", "table", "figure", "oid",
        "rule", "step", "item", "reader", "player", "acrobat", "flash", "firefox", "chrome", "chromium", "safari",
        "opera", "edge", "java", "jdk", "jre", "python", "android", "ios", "windows", "office", "mysql", "oracle",
        "apache", "nginx", "php", "ubuntu", "debian", "wordpress", "drupal", "plugin", "package", "library", "api",
    )
)  # fmt: skip
"""Words before numbers that are versions, sections or steps."""
_VERSION_BEFORE = re.compile(
    rf"(?:\b(?:{_VERSIONED})|\u00a7)(?:\s(?:is|was|to|from|number|no\.?))?[\s.:=#]{{0,3}}$", re.I
)
_VERSION_BEHIND = re.compile(r"[\s,]{0,2}(?:firmware|release|build|version|driver|patch|update)\b", re.I)
_BESIDE = 24
"""Characters before and behind an address in which a word is looked for that makes it a version."""
_FILES = frozenset(
    (
        "bmp", "css", "csv", "eot", "gif", "htm", "html", "ico", "jpeg", "jpg", "js", "json", "jsx", "pdf", "php",
        "png", "svg", "tif", "tiff", "ttf", "txt", "wav", "webp", "woff", "xml", "yaml", "yml",
    )
)  # fmt: skip
"""Endings of file names, such as that of `icon@2x.png`, of which no top-level domain is one."""

_NOBODYS = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
]  # fmt: skip
_GLOBAL, _DOCUMENTED = IPv6Network("2000::/3"), IPv6Network("2001:db8::/32")


class Masking:
    """Replaces e-mail addresses, public IP addresses and telephone numbers; None leaves a sort alone.

    Raises `ProblemError` if a replacement would itself be masked by another.
    """

    def __init__(
        self, *, email: str | None = "<EMAIL>", ip: str | None = "<IP>", phone: str | None = "<PHONE>"
    ) -> None:
        self._replacements = {"email": email, "ipv4": ip, "ipv6": ip, "phone": phone}
        for name, replacement in (("email", email), ("ip", ip), ("phone", phone)):
            if replacement is not None and self._once(replacement, Counter()) != replacement:
                what = f"the replacement {replacement!r} is masked itself"
                raise ProblemError(Problem("bad-value", what, name, "use a word in brackets, such as <EMAIL>"))

    def judge(self, document: Document) -> Decision | None:
        masked, counts = document.text, Counter[str]()
        # What was masked may have hidden its neighbour, as in 8.8.8.8-9.9.9.9-name@example.org.
        while (text := self._once(masked, counts)) != masked:
            masked = text
        if masked == document.text:
            return None
        return Decision(
            "masking", ", ".join(f"{number} {sort}" for sort, number in sorted(counts.items())), text=masked
        )

    def _once(self, text: str, counts: Counter[str]) -> str:
        def replace(match: re.Match[str]) -> str:
            sort, found = str(match.lastgroup), match.group()
            replacement = self._replacements[sort]
            before = text[max(0, match.start() - _BESIDE) : match.start()]
            behind = text[match.end() : match.end() + _BESIDE]
            if replacement is None or replacement == found or not _is(sort, found, before, behind):
                return found
            counts[sort] += 1
            return replacement

        return _FIND.sub(replace, text)


def _is(sort: str, found: str, before: str, behind: str) -> bool:
    """Whether what looks like an address is one."""
    try:
        match sort:
            case "email":
                return found.rpartition(".")[2].lower() not in _FILES
            case "phone":
                return _is_number(found)
            case "ipv4":
                if _VERSION_BEFORE.search(before) or _VERSION_BEHIND.match(behind):
                    return False
                return all(_is_someones(IPv4Address(each)) for each in re.split("[-\u2013]", found))
            case _:
                six = IPv6Address(found)
                mapped = six.ipv4_mapped
                return _is_someones(mapped) if mapped else six in _GLOBAL and six not in _DOCUMENTED
    except AddressValueError:
        return False


def _is_someones(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOBODYS)


def _is_number(found: str) -> bool:
    """Whether a telephone number has a length of its country's. With a single dot and nothing else between digits, it
    is a decimal."""
    if not found.startswith("+"):
        return True
    if re.fullmatch(r"\+\d+\.\d+", found, re.ASCII):
        return False
    try:
        reason = phonenumbers.is_possible_number_with_reason(phonenumbers.parse(found))
    except phonenumbers.NumberParseException:
        return False
    return reason == phonenumbers.ValidationResult.IS_POSSIBLE
