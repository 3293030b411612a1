"""Every dashboard and rule file by its path."""

from __future__ import annotations

import json
from typing import Any

import yaml

from penstock.serve.dashboards import experts, serving, training
from penstock.serve.dashboards.alerts import rule_file
from penstock.serve.dashboards.grafana import dashboard

WATCHED = (serving, training, experts)
"""Each has a `PAGE` and `ALERTS`."""


def files() -> dict[str, str]:
    """Dashboards in Grafana's JSON and rule files of Prometheus, by path."""
    written: dict[str, str] = {}
    for each in WATCHED:
        name = each.PAGE.name
        written[f"grafana/dashboards/{name}.json"] = json.dumps(dashboard(each.PAGE), indent=2) + "\n"
        written[f"prometheus/rules/{name}.yml"] = as_yaml(rule_file(name, each.ALERTS))
    return written


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True)
