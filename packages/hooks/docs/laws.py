"""Writes `capabilities-and-laws.md` from the kit: `python packages/hooks/docs/laws.py`."""

from __future__ import annotations

from pathlib import Path

from penstock.conformance import Law, capabilities, laws_of
from penstock.hooks import KINDS

PAGE = Path(__file__).with_name("capabilities-and-laws.md")
INTRODUCTION = """\
# Capabilities and laws

Written by `laws.py` from the kit itself. A law says what every component of its kind does, and what to do if a
component does not. A law with a **capability** holds for exactly the components that declare it: declaring the
capability and breaking the law is an error, and so is keeping the law without declaring it. `penstock plugins check
NAME` runs them all.
"""


def page() -> str:
    """The text of the page: the laws of every component, then those of each kind that has more."""
    general = laws_of("command")
    parts = [INTRODUCTION, "## Every component\n", *map(_entry, general)]
    for kind in KINDS:
        own = [law for law in laws_of(kind) if law not in general]
        if not own:
            continue
        parts.append(f"## {kind}\n")
        promised = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in capabilities(kind).items())
        if promised:
            parts.append(f"| capability | promises |\n|---|---|\n{promised}")
        parts += map(_entry, own)
    return "\n".join(parts)


def _entry(law: Law) -> str:
    capability = f" *Capability `{law.capability}`.*" if law.capability else ""
    return f"**`{law.id}`** {law.statement}{capability}\n: {law.remedy}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
