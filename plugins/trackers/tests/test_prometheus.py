"""What is scraped of a run is what the run logs, while it trains and no longer."""

from __future__ import annotations

import email
import json
import math
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from tracked_run import CONFIG

from penstock.cli.main import run as run_command
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import StepRecord

pytestmark = pytest.mark.skipif(find_spec("prometheus_client") is None, reason="prometheus_client is not installed")
REGISTRY = Registry.discover()
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(text)
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for one in families for each in one.samples}


def address_of(run_directory: Path, file: Path | None = None) -> str:
    [found] = json.loads((file or run_directory / "prometheus.json").read_text())
    assert found["labels"] == {"config": run_directory.parent.name, "run": run_directory.name}
    [address] = found["targets"]
    return address


def scraped(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def observer_of(run_directory: Path, **settings: Any) -> Any:
    choice = {"use": "prometheus", "port": 0, **settings}
    return REGISTRY.build("observer", choice, run_directory=run_directory, header={})


@pytest.fixture
def observer(run_directory: Path) -> Iterator[Any]:
    observer = observer_of(run_directory)
    observer.on_resume(0)
    yield observer
    observer.on_end()


def record(step: int, **metrics: float) -> StepRecord:
    counts_LE = np.array([[6, 2, 0, 0], [2, 2, 2, 2]], dtype=np.int64)
    return StepRecord(step, 100 * step, metrics, counts_LE, (1, 2))


def test_a_step_is_exposed_under_names_with_units(observer: Any, run_directory: Path) -> None:
    parts = {"seconds/forward": 0.5, "seconds/backward": 1.5}
    observer.on_step(record(1, loss=3.0, gradient_norm=0.25, learning_rate=0.01, tokens_per_second=50.0, **parts))
    observer.on_step(record(2, loss=2.5, gradient_norm=math.inf, **parts, **{"balance/switch-loss": 1.25}))
    observer.on_evaluation(2, {"loss": 2.75})
    found = scraped(address_of(run_directory))
    expected = {
        ("penstock_steps_total", ()): 2,
        ("penstock_step", ()): 2,
        ("penstock_trained_tokens_total", ()): 200,
        ("penstock_step_seconds_total", (("part", "forward"),)): 1,
        ("penstock_step_seconds_total", (("part", "backward"),)): 3,
        ("penstock_loss", ()): 2.5,
        ("penstock_gradient_norm", ()): math.inf,
        ("penstock_learning_rate", ()): 0.01,
        ("penstock_tokens_per_second", ()): 50,
        ("penstock_logged", (("metric", "balance/switch-loss"),)): 1.25,
        ("penstock_heldout", (("metric", "loss"),)): 2.75,
        ("penstock_heldout_step", ()): 2,
        ("penstock_expert_load_max_violation", (("layer", "1"),)): 2,
        ("penstock_expert_load_max_violation", (("layer", "2"),)): 0,
        ("penstock_expert_load_max_ratio", (("layer", "1"),)): 0.75,
        ("penstock_expert_load_max_ratio", (("layer", "2"),)): 0.25,
        ("penstock_dead_experts", (("layer", "1"),)): 2,
        ("penstock_dead_experts", (("layer", "2"),)): 0,
        ("penstock_run_info", (("config", run_directory.parent.name), ("run", run_directory.name))): 1,
    }
    assert {key: found[key] for key in expected} == expected
    assert time.time() - found["penstock_last_step_timestamp_seconds", ()] < 60
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_the_checkpoint_is_the_one_that_is_complete(observer: Any, run_directory: Path) -> None:
    observer.on_checkpoint(10)  # which begins to be written
    assert ("penstock_checkpoint_step", ()) not in scraped(address_of(run_directory))
    (run_directory / "checkpoints").mkdir()
    (run_directory / "checkpoints" / "latest").write_text("step-00000010\n")
    found = scraped(address_of(run_directory))
    assert found["penstock_checkpoint_step", ()] == 10
    assert 0 <= time.time() - found["penstock_checkpoint_timestamp_seconds", ()] < 60


def test_a_resumed_run_counts_its_own_steps_and_says_where_the_run_is(run_directory: Path) -> None:
    """A counter of the whole run would fall to 3 here, and Prometheus would take it for three new steps."""
    for first, last in ((1, 4), (3, 3)):
        observer = observer_of(run_directory)
        observer.on_resume(first - 1)
        assert scraped(address_of(run_directory))["penstock_step", ()] == first - 1
        for step in range(first, last + 1):
            observer.on_step(record(step, tokens=100.0 * step))
        found = scraped(address_of(run_directory))
        assert (found["penstock_step", ()], found["penstock_tokens", ()]) == (last, 100 * last)
        assert found["penstock_steps_total", ()] == last - first + 1
        assert found["penstock_trained_tokens_total", ()] == (
            400 if first == 1 else 0
        )  # of the first one it was not told
        observer.on_end()


def test_nothing_has_a_value_before_its_first(observer: Any, run_directory: Path) -> None:
    """A loss of 0 would be the least of the hour, and an alert; the same of a last step in 1970."""
    found = scraped(address_of(run_directory))
    assert {name for name, _ in found if name.startswith("penstock")} == {
        *("penstock_run_info", "penstock_step", "penstock_steps_total", "penstock_trained_tokens_total"),
        "penstock_last_step_timestamp_seconds",
        *("penstock_steps_created", "penstock_trained_tokens_created"),
    }
    assert time.time() - found["penstock_last_step_timestamp_seconds", ()] < 60


def test_nothing_is_served_after_the_end(run_directory: Path) -> None:
    observer = observer_of(run_directory)
    observer.on_resume(0)
    address = address_of(run_directory)
    observer.on_end()
    observer.on_end()  # as a run that fails while it ends does
    with pytest.raises(urllib.error.URLError):
        scraped(address)
    assert list(run_directory.iterdir()) == []


def test_a_port_in_use_is_refused_when_it_is_built(run_directory: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ProblemError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"):
            observer_of(run_directory, port=port)


def test_two_runs_of_a_machine_are_found_in_one_folder_and_told_apart(run_directory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    runs = [run_directory, run_directory.with_name("20260101T000001Z-0123abcd")]
    observers = [observer_of(each, discovery=str(folder)) for each in runs]
    for step, each in enumerate(observers, 1):
        each.on_step(record(step))
    found = [address_of(run, file) for run, file in zip(runs, sorted(folder.iterdir()), strict=True)]
    assert [scraped(address)["penstock_step", ()] for address in found] == [1, 2]
    for each in observers:
        each.on_end()
    assert list(folder.iterdir()) == []


def test_a_missing_library_is_a_problem_that_names_its_extra(run_directory: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    with pytest.raises(ProblemError, match=r'`uv add "penstock-trackers\[prometheus\]"`'):
        observer_of(run_directory)


def test_a_real_run_is_scraped_while_it_trains(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("trackers: [jsonl, LIBRARY]", "observers: [{use: prometheus, port: 0}], evaluate_tokens: 128")
    Path("tiny.yaml").write_text(text.replace("CORPUS", str(Path(email.__file__).parent)))
    seen: list[Samples] = []

    def scrape_once() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.02)
            for run in tmp_path.glob("runs/tiny/2*/"):
                if (run / "checkpoints/latest").exists() and "heldout" in (run / "metrics.jsonl").read_text():
                    seen.append(scraped(address_of(run)))
                    return

    thread = Thread(target=scrape_once)
    thread.start()
    run = Path(run_command(["train", "tiny.yaml", "train.tokens=8192", "train.evaluate_every=2", "--json"])["run_dir"])
    thread.join()
    [found] = seen
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found["penstock_loss", ()] in {row.get("loss") for row in rows}
    assert found["penstock_gradient_norm", ()] in {row.get("gradient_norm") for row in rows}
    assert found["penstock_heldout", (("metric", "loss"),)] in {row.get("heldout/loss") for row in rows}
    step = round(found["penstock_steps_total", ()])
    assert step == found["penstock_step", ()]
    assert found["penstock_trained_tokens_total", ()] == found["penstock_tokens", ()] == 128 * step
    assert {labels[0][1] for name, labels in found if name == "penstock_step_seconds_total"} == {
        *("data", "balance", "forward", "backward", "optimizer")
    }
    assert ("penstock_expert_load_max_violation", (("layer", "1"),)) in found
    assert not (run / "prometheus.json").exists()
