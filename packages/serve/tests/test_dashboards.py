"""Dashboards are what Grafana's own types hold, and each alert fires when it should and not before."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from penstock.serve.dashboards.alerts import Alert
from penstock.serve.dashboards.files import WATCHED, files
from penstock.serve.dashboards.grafana import COLUMNS, Page, dashboard, queries_of

PAGES = [each.PAGE for each in WATCHED]
ALERTS: dict[str, Alert] = {alert.name: alert for each in WATCHED for alert in each.ALERTS}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, by its path; what is empty is one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inside:
        yield at, value
    for name, each in inside:
        yield from leaves(each, f"{at}.{name}")


def lost(value: Mapping[str, Any]) -> dict[str, Any]:
    """What Grafana's own types do not keep of a dashboard."""
    register_default_plugins()
    kept = dict(leaves(json.loads(json.dumps(Dashboard.from_json(dict(value)), cls=JSONEncoder))))
    return {at: each for at, each in leaves(value) if kept.get(at) != each and each not in ([], {})}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_grafanas_own_types_keep_every_value(page: Page) -> None:
    written = json.loads(files()[f"grafana/dashboards/{page.name}.json"])
    assert written == dashboard(page)
    assert lost(written) == {}


def test_a_field_that_grafana_does_not_know_is_found() -> None:
    changed: Any = json.loads(json.dumps(dashboard(PAGES[0])))
    changed["panels"][1]["titel"] = "Engine"
    changed["panels"][1]["targets"][0]["expression"] = "up"
    assert lost(changed) == {".panels.1.titel": "Engine", ".panels.1.targets.0.expression": "up"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_panels_are_numbered_and_do_not_overlap(page: Page) -> None:
    panels: Any = dashboard(page)["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert shown == queries_of(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_filtered_by_each_of_its_choices_and_by_nothing_else(page: Page) -> None:
    used = {name for query in queries_of(page) for name in re.findall(r"\$(\w+)", query)} - {"__rate_interval"}
    assert used == {choice.label for choice in page.choices}


@dataclass(frozen=True)
class Case:
    """Samples a minute apart that fire an alert with `labels`, and others that do not."""

    labels: Mapping[str, str]
    fires: Mapping[str, str]
    quiet: Mapping[str, str]


SERVER = {"job": "penstock-serving", "instance": "a:8000"}
RUN = {"job": "penstock-training", "instance": "b:9847", "config": "tiny", "run": "now"}


def series(name: str, labels: Mapping[str, str], **more: str) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in {**labels, **more}.items()) + "}"


def one(name: str, labels: Mapping[str, str], fires: str, quiet: str, **more: str) -> Case:
    """An alert about one series, which keeps its labels."""
    each = series(name, labels, **more)
    return Case({**labels, **more}, {each: fires}, {each: quiet})


def ended(errors: int, lengths: int) -> dict[str, str]:
    name = "penstock_request_success_total"
    return {
        series(name, SERVER, finished_reason="error"): f"0+{errors}x60",
        series(name, SERVER, finished_reason="length"): f"0+{lengths}x60",
    }


def answered(refused: int, taken: int) -> dict[str, str]:
    name = "penstock_http_requests_total"
    return {
        series(name, SERVER, path="/v1/completions", status="429"): f"0+{refused}x60",
        series(name, SERVER, path="/v1/chat/completions", status="200"): f"0+{taken}x60",
        series(name, SERVER, path="/tokenize", status="200"): "0+1000x60",
    }


def first_tokens(within_5: int, within_10: int) -> dict[str, str]:
    name = "penstock_time_to_first_token_seconds_bucket"
    counts = {"1.0": 0, "5.0": within_5, "10.0": within_10, "+Inf": within_10}
    return {series(name, SERVER, le=limit): f"0+{count}x60" for limit, count in counts.items()}


def experts(dead: int) -> dict[str, str]:
    """Of eight, the busiest with half of the assignments."""
    figures = {
        "penstock_dead_experts": dead,
        "penstock_expert_load_max_ratio": 0.5,
        "penstock_expert_load_max_violation": 3,
    }
    return {series(name, RUN, layer="1"): f"{value}+0x60" for name, value in figures.items()}


AT = "40m"
AT_SERVER = {"instance": SERVER["instance"]}
CASES = {
    "ServerDown": one("up", SERVER, "1+0x38 0+0x20", "1+0x39 0+0x20"),
    "EngineDown": one("penstock_engine_ready", SERVER, "1+0x38 0+0x20", "1+0x39 0+0x20"),
    "EngineRestarts": one("penstock_engine_restarts_total", SERVER, "0+0x30 1+1x30", "0+0x30 1+0x30"),
    "TextsFail": Case(AT_SERVER, ended(1, 60), ended(1, 150)),
    "RequestsRefused": Case(AT_SERVER, answered(1, 15), answered(1, 25)),
    "QueueNeverEmpty": one("penstock_num_requests_waiting", SERVER, "1+0x60", "1+0x30 0+0x0 1+0x60"),
    "FirstTokenSlow": Case(AT_SERVER, first_tokens(9, 10), first_tokens(96, 100)),
    "RunDied": one("up", RUN, "1+0x38 0+0x20", "1+0x39 0+0x20"),
    "StepsStalled": one("penstock_last_step_timestamp_seconds", RUN, "0+60x28 1680+0x60", "0+60x60"),
    "CheckpointOld": one("penstock_checkpoint_timestamp_seconds", RUN, "-4900+0x60", "-4700+0x60"),
    "LossRises": one("penstock_loss", RUN, "2+0x30 3.1+0x30", "2+0x30 2.9+0x30"),
    "ExpertsDead": Case(
        {name: RUN[name] for name in ("config", "run", "instance")},
        {series("penstock_dead_experts", RUN, layer="1"): "0+0x8 1+0x60"},
        {series("penstock_dead_experts", RUN, layer="1"): "1+0x20 0+0x0 1+0x60"},
    ),
    "ExpertsUneven": Case(
        AT_SERVER,
        {series("penstock_expert_load_max_violation", SERVER, layer="1"): "4.1+0x60"},
        {
            series("penstock_expert_load_max_violation", SERVER, layer="1"): "3.9+0x60",
            series("penstock_expert_load_max_violation", RUN, layer="1"): "9+0x60",
        },
    ),
    "ExpertsCollapsed": Case({**RUN, "layer": "1"}, experts(dead=5), experts(dead=4)),
}


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()
    assert len(ALERTS) == sum(len(each.ALERTS) for each in WATCHED)


def rendered(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


def promtool_test(alert: Alert, samples: Mapping[str, str], labels: Mapping[str, str] | None) -> dict[str, Any]:
    """A test of promtool: the alert fires with these labels, or does not."""
    expected: list[dict[str, Any]] = []
    if labels is not None:
        told = {"summary": rendered(alert.summary, labels), "description": rendered(alert.action, labels)}
        expected = [{"exp_labels": {**labels, "severity": alert.severity}, "exp_annotations": told}]
    return {
        "name": f"{alert.name} {'quiet' if labels is None else 'fires'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in samples.items()],
        "alert_rule_test": [{"eval_time": AT, "alertname": alert.name, "exp_alerts": expected}],
    }


def promtool(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    rules: list[str] = []
    for path, text in files().items():
        if path.startswith("prometheus/rules/"):
            rules.append(Path(path).name)
            (folder / rules[-1]).write_text(text)
    (folder / "tests.yml").write_text(yaml.safe_dump({"rule_files": rules, "tests": tests}))
    command = [PROMTOOL or "promtool", "test", "rules", str(folder / "tests.yml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_each_alert_fires_and_does_not_fire(tmp_path: Path) -> None:
    tests = [
        promtool_test(ALERTS[name], samples, labels)
        for name, case in CASES.items()
        for samples, labels in ((case.fires, case.labels), (case.quiet, None))
    ]
    done = promtool(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", ["ServerDown", "ExpertsCollapsed"])
def test_an_alert_that_fires_in_the_wrong_case_is_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert promtool(tmp_path, [promtool_test(ALERTS[name], case.quiet, case.labels)]).returncode == 1
    assert promtool(tmp_path, [promtool_test(ALERTS[name], case.fires, None)]).returncode == 1
