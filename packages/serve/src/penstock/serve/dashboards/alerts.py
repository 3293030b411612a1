"""Alerts in the rule files of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires once `expression` has had a value for `lasting`, a duration such as "5m". `summary` says what is wrong, and
    `action` what to do. Both may name labels, as in `{{ $labels.instance }}`."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str
    action: str


def rule_file(name: str, alerts: Sequence[Alert]) -> dict[str, Any]:
    """The alerts as one group of a rule file.

    >>> rule_file("a", [Alert("Down", "up == 0", "1m", "critical", "it is down", "start it")])["groups"][0]["name"]
    'penstock-a'
    """
    return {"groups": [{"name": f"penstock-{name}", "rules": [_rule(alert) for alert in alerts]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.action},
    }
