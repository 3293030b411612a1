"""A real Prometheus scrapes the server, and a run that trains: its counters are exact, every chart has data, and every
alert asks for what is there."""

from __future__ import annotations

import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from servers import Running

from penstock.cli.main import run as run_command
from penstock.hooks.contracts.serving import Serving
from penstock.serve.dashboards import files as dashboards
from penstock.serve.dashboards import serving, training
from penstock.serve.dashboards.files import WATCHED
from penstock.serve.dashboards.grafana import RATE, queries_of
from penstock.serve.manifests.deployment import deployment_of
from penstock.serve.manifests.watching import prometheus
from penstock.server.component import PenstockServer

PROGRAM = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed (Debian: prometheus)")

PAGES = [each.PAGE for each in WATCHED]
ALERTS = [alert for each in WATCHED for alert in each.ALERTS]
SELECTOR = re.compile(r"\b(?:penstock_\w+|process_\w+|up)\b(?:\{[^}]*\})?")
TOKENS, TEXTS = 20, 6


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Prometheus:
    client: httpx.Client

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str, at: float | None = None) -> list[float]:
        """The value of each series, now or at a time."""
        when = {} if at is None else {"time": at}
        return [float(each["value"][1]) for each in self.ask("query", query=expression, **when)["result"]]

    def last_up(self, job: str) -> float:
        """When the last scrape of a job succeeded."""
        (samples,) = (each["values"] for each in self.ask("query", query=f'up{{job="{job}"}}[10m]')["result"])
        return max(when for when, value in samples if value == "1")


@dataclass(frozen=True)
class Watched:
    """What was sent to the server while Prometheus watched it, and times at which it, and a run, had been scraped."""

    prometheus: Prometheus
    prompt_tokens: int
    before: dict[str, float]
    moments: tuple[float, ...]


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(client: httpx.Client) -> bool:
    """Whether Prometheus has started."""
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.ConnectError:
        return False


def counters(prometheus: Prometheus) -> dict[str, float]:
    found = prometheus.ask("query", query='{__name__=~".+_total|.+_count"}')["result"]
    return {
        f"{each['metric']['__name__']} {each['metric'].get('finished_reason', '')}": float(each["value"][1])
        for each in found
    }


@pytest.fixture(scope="module")
def scraping(server: Running, trained: Path, workplace: Path) -> Iterator[tuple[Prometheus, int]]:
    """A Prometheus with the configuration of the manifests, but for its addresses and its pace; and the port where it
    expects a run."""
    port, run_port = free_port(), free_port()
    config = prometheus(deployment_of(PenstockServer().process(Serving(trained)), trained))
    config["global"] = {"scrape_interval": "100ms", "evaluation_interval": "1s"}
    of_servers, of_runs = config["scrape_configs"]
    of_servers["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    del of_runs["file_sd_configs"]
    labels = {"config": "tiny", "run": "now"}
    of_runs["static_configs"] = [{"targets": [f"127.0.0.1:{run_port}"], "labels": labels}]
    for path, text in dashboards.files().items():
        (workplace / path).parent.mkdir(parents=True, exist_ok=True)
        (workplace / path).write_text(text)
    (workplace / "prometheus" / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [str(PROGRAM), f"--config.file={workplace}/prometheus/prometheus.yml", "--log.level=error"]
    command += [f"--storage.tsdb.path={workplace}/prometheus/data", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: answers(client))
            yield Prometheus(client), run_port
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def watched(scraping: tuple[Prometheus, int], server: Running, workplace: Path) -> Watched:
    found, run_port = scraping

    until(lambda: found.values(f'up{{job="{serving.JOB}"}} == 1'))
    observed = f"train.observers=[{{use: prometheus, port: {run_port}}}]"
    often = ["train.evaluate_every=25", "train.evaluate_tokens=64", "train.checkpoint_every=50"]
    runs = str(workplace / "watched")
    run_command(
        ["train", str(workplace / "tiny.yaml"), "train.tokens=8192", observed, *often, "--runs", runs, "--json"]
    )
    trained_at = found.last_up(training.JOB)
    before = counters(found)
    prompt = "User: Is"
    tokens = len(server.post("/tokenize", prompt=prompt).json()["tokens"])
    for _ in range(2):
        server.completed(prompt, max_tokens=TOKENS, ignore_eos=True, n=TEXTS // 2)
    made = before.get("penstock_generation_tokens_total ", 0.0) + TEXTS * TOKENS
    until(lambda: found.values("penstock_generation_tokens_total") == [made])
    until(lambda: found.values("penstock_expert_load_gini"))
    return Watched(found, TEXTS * tokens, before, (found.last_up(serving.JOB), trained_at))


def test_counters_are_exact(watched: Watched) -> None:
    after = counters(watched.prometheus)
    for prefix in ("penstock_", "vllm:"):
        grown = {name.removeprefix(prefix): value - watched.before.get(name, 0.0) for name, value in after.items()}
        assert grown["generation_tokens_total "] == TEXTS * TOKENS
        assert grown["prompt_tokens_total "] == watched.prompt_tokens
        assert grown["request_success_total length"] == TEXTS
        assert grown["request_success_total error"] == 0
        assert grown["time_to_first_token_seconds_count "] == TEXTS
        assert grown["inter_token_latency_seconds_count "] == TEXTS * (TOKENS - 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_query_of_every_panel_has_data(watched: Watched, page: Any) -> None:
    """When the server, or a run, had been scraped."""
    queries = {each: re.sub(r"\$\w+", ".*", each.replace(RATE, "30s")) for each in queries_of(page)}
    without = [
        shown
        for shown, asked in queries.items()
        if not any(map(math.isfinite, (v for at in watched.moments for v in watched.prometheus.values(asked, at))))
    ]
    assert without == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_choice_of_every_page_has_values(watched: Watched, page: Any) -> None:
    for choice in page.choices:
        found = watched.prometheus.ask(f"label/{choice.label}/values", **{"match[]": choice.metric})
        assert found != [], choice


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_selector_of_an_alert_exists(watched: Watched, alert: Any) -> None:
    selectors = SELECTOR.findall(alert.expression)
    assert selectors != []
    assert [each for each in selectors if watched.prometheus.ask("series", **{"match[]": each}) == []] == []


def test_a_selector_of_nothing_is_found(watched: Watched) -> None:
    for nothing in ("penstock_requests_total", 'penstock_request_success_total{finished_reason="eror"}'):
        assert watched.prometheus.ask("series", **{"match[]": nothing}) == []
        assert watched.prometheus.values(nothing, watched.moments[0]) == []


def test_prometheus_evaluates_the_rules_and_a_healthy_server_sets_off_no_alert(watched: Watched) -> None:
    groups = watched.prometheus.ask("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert rules.keys() == {alert.name for alert in ALERTS}
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}
    of_server = {alert.name for alert in serving.ALERTS}
    assert {name for name in of_server if rules[name]["state"] == "firing"} == set()
