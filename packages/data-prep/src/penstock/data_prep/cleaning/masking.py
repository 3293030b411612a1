"""Masks what could lead to a person: e-mail addresses, IP addresses and telephone numbers.

In doubt, text stays as it is. An IPv4 address stands alone: `1.2.3.4.5` and version numbers (`v1.2.3.4`,
`Chrome/91.0.0.0`, `version 8.1.2.3`) are not masked. Addresses that belong to no single person (private, loopback,
documentation, multicast) stay. A telephone number has a `+` and a country code, or the form of North America.
"""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError

_EMAIL = (
    r"(?<![\w.%+-])[A-Za-z0-9_][\w.%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,63}\b"
)
_IPV4 = r"(?<![\w.+-])(?<![A-Za-z]/)\d{1,3}(?:\.\d{1,3}){3}(?![\w+-]|\.\w)"
_IPV6 = r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:\d{1,3}(?:\.\d{1,3}){3})?(?<!\w:)(?![\w:]|\.\w)"
_PHONE = (
    r"(?<![\w+./-])(?:"
    r"\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{2,4}){2,5}"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])[2-9]\d{2}[ .-]\d{4}"
    r")(?![\w-]|\.\d)"
)
_FIND = re.compile(f"(?P<email>{_EMAIL})|(?P<ipv6>{_IPV6})|(?P<phone>{_PHONE})|(?P<ipv4>{_IPV4})", re.ASCII)
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|build|firmware|driver|revision|rev|sdk)[\s.:=#]{0,3})$", re.I
)
_BEFORE = 16
"""Characters before an address in which the word "version" is looked for."""

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
            before = text[max(0, match.start() - _BEFORE) : match.start()]
            if replacement is None or replacement == found or not _is(sort, found, before):
                return found
            counts[sort] += 1
            return replacement

        return _FIND.sub(replace, text)


def _is(sort: str, found: str, before: str) -> bool:
    """Whether what looks like an address is one."""
    try:
        if sort == "ipv4":
            address = IPv4Address(found)
            return not _VERSION.search(before) and not any(address in network for network in _NOBODYS)
        if sort == "ipv6":
            six = IPv6Address(found)
            return six in _GLOBAL and six not in _DOCUMENTED
    except AddressValueError:
        return False
    return sort != "phone" or 8 <= sum(map(str.isdigit, found)) <= 15
