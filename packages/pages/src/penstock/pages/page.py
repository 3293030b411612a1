"""Writes a template as one self-contained page: inline style, inline charts, no script, no request to anywhere.

The page carries a content security policy that forbids all of those, so a sample or a name that got past escaping
could still load and run nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from penstock.hooks.atomic import write_bytes
from penstock.pages import formats


def write_page(template: Path, out: Path, **values: Any) -> Path:
    """Atomically renders an app's own template to `out`. The template extends `base.html.j2`, or
    `comparison.html.j2` for cards above one table, and may import `cards.html.j2`; they are in this folder."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([template.parent, here]),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formats.number,
        "decimals": formats.decimals,
        "rounded": formats.rounded,
        "count": formats.count,
        "size": formats.size,
        "duration": formats.duration,
        "percent": formats.percent,
        "times": formats.times,
    }
    style = (here / "page.css").read_text(encoding="utf-8")
    html = environment.get_template(template.name).render(style=style, **values)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, html.encode("utf-8", errors="replace"))
    return out


def _readable(value: Any) -> Any:
    """Applied to everything the template prints: text from the run is cleaned here, then escaped by jinja."""
    return formats.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
