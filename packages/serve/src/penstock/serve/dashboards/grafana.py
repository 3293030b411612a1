"""Dashboards in Grafana's JSON (schema 38, Grafana 10 and later), as typed dictionaries of the fields that are used.

A `Page` says what is shown. `dashboard` lays it out in Grafana's 24 columns and numbers its panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

SCHEMA = 38
COLUMNS = 24
RATE = "$__rate_interval"
"""Grafana's window for `rate`: at least four scrapes, and as long as a pixel."""
Kind = Literal["timeseries", "stat"]
HEIGHT: dict[Kind, int] = {"timeseries": 8, "stat": 4}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression in PromQL. `legend` names its series, with labels in double braces."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel. `what` is its description, and `unit` one of Grafana's names: s, bytes, percentunit (a share), short."""

    title: str
    what: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = "timeseries"


@dataclass(frozen=True, slots=True)
class Row:
    """Charts of one kind side by side, under a title."""

    title: str
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True)
class Choice:
    """A label by whose values the page is filtered: those that `metric` has. A query selects `label=~"$label"`."""

    label: str
    metric: str


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard. `name` is its identifier and the name of its file."""

    name: str
    title: str
    what: str
    choices: Sequence[Choice]
    rows: Sequence[Row]


def queries_of(page: Page) -> list[str]:
    """Every expression of a page."""
    return [query.expression for row in page.rows for chart in row.charts for query in chart.queries]


def quantiles(metric: str, selector: str, shares: Sequence[float] = (0.5, 0.9, 0.99)) -> list[Query]:
    """Quantiles of a histogram over all servers that `selector` selects.

    >>> quantiles("a_seconds", "", [0.5])[0].expression
    'histogram_quantile(0.5, sum by (le) (rate(a_seconds_bucket{}[$__rate_interval])))'
    """
    each = f"sum by (le) (rate({metric}_bucket{{{selector}}}[{RATE}]))"
    return [Query(f"histogram_quantile({share:g}, {each})", f"p{100 * share:g}") for share in shares]


class Source(TypedDict):
    type: str
    uid: str


class Target(TypedDict):
    refId: str
    datasource: Source
    expr: str
    legendFormat: str
    range: bool


class GridPosition(TypedDict):
    h: int
    w: int
    x: int
    y: int


class Panel(TypedDict, total=False):
    id: int
    type: str
    title: str
    description: str
    collapsed: bool
    panels: list[Any]
    datasource: Source
    gridPos: GridPosition
    targets: list[Target]
    fieldConfig: dict[str, Any]
    options: dict[str, Any]


class Variable(TypedDict, total=False):
    name: str
    label: str
    type: str
    query: Any
    datasource: Source
    includeAll: bool
    allValue: str
    multi: bool
    current: dict[str, Any]
    refresh: int
    sort: int


class Dashboard(TypedDict):
    uid: str
    title: str
    description: str
    tags: list[str]
    schemaVersion: int
    editable: bool
    graphTooltip: int
    refresh: str
    time: dict[str, str]
    templating: dict[str, list[Variable]]
    panels: list[Panel]


SOURCE = Source(type="prometheus", uid="${datasource}")


def dashboard(page: Page) -> Dashboard:
    """The page as Grafana reads it."""
    return Dashboard(
        uid=f"penstock-{page.name}",
        title=page.title,
        description=page.what,
        tags=["penstock"],
        schemaVersion=SCHEMA,
        editable=True,
        graphTooltip=1,  # one crosshair in all charts
        refresh="10s",
        time={"from": "now-1h", "to": "now"},
        templating={"list": [_source(), *map(_variable, page.choices)]},
        panels=_panels(page.rows),
    )


def _source() -> Variable:
    return Variable(name="datasource", label="Data source", type="datasource", query="prometheus", refresh=1)


def _variable(choice: Choice) -> Variable:
    return Variable(
        name=choice.label,
        label=choice.label.capitalize(),
        type="query",
        query=f"label_values({choice.metric}, {choice.label})",
        datasource=SOURCE,
        includeAll=True,
        allValue=".*",
        multi=True,
        current={"text": "All", "value": "$__all"},
        refresh=2,  # whenever the span of time changes
        sort=1,
    )


def _panels(rows: Sequence[Row]) -> list[Panel]:
    panels: list[Panel] = []
    top = 0
    for row in rows:
        place = GridPosition(h=1, w=COLUMNS, x=0, y=top)
        panels.append(Panel(id=0, type="row", title=row.title, collapsed=False, panels=[], gridPos=place))
        width, height = COLUMNS // len(row.charts), HEIGHT[row.charts[0].kind]
        for index, chart in enumerate(row.charts):
            panels.append(_panel(chart, GridPosition(h=height, w=width, x=index * width, y=top + 1)))
        top += 1 + height
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return panels


def _panel(chart: Chart, place: GridPosition) -> Panel:
    series = chart.kind == "timeseries"
    shown = {"custom": {"fillOpacity": 10, "showPoints": "never"}} if series else {}
    return Panel(
        id=0,
        type=chart.kind,
        title=chart.title,
        description=chart.what,
        datasource=SOURCE,
        gridPos=place,
        targets=[_target(letter, query) for letter, query in zip("ABCDEFGH", chart.queries, strict=False)],
        fieldConfig={"defaults": {"unit": chart.unit, **shown}, "overrides": []},
        options=_LEGEND if series else _LAST,
    )


def _target(letter: str, query: Query) -> Target:
    return Target(
        refId=letter, datasource=SOURCE, expr=query.expression, legendFormat=query.legend or "__auto", range=True
    )


_LEGEND = {
    "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_LAST = {
    "colorMode": "value",
    "graphMode": "area",
    "justifyMode": "auto",
    "orientation": "auto",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "textMode": "auto",
}
