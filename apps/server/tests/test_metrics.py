"""Counters are exact, times have been measured, and what is told of experts is bounded."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import Running, serving

from penstock.server.engine.client import EngineClient
from penstock.server.engine.process import EngineOptions
from penstock.server.metrics import ANSWERS, ENDS, GENERATING, ServerMetrics
from penstock.traces.load import gini, max_violation

NAMED = "{model_name=tiny}"


def scraped(server: Running) -> dict[str, float]:
    """Samples by name and labels."""
    response = server.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(response.text)


def parsed(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def unused() -> ServerMetrics:
    """The metrics of a server whose engine is not started."""
    return ServerMetrics(EngineClient(EngineOptions("none", 4, 64, 16, 1, {})), "tiny")


@pytest.fixture(scope="module")
def alone(trained, workplace):
    with serving(trained, workplace, "--slots", "4", "--name", "tiny") as running:
        yield running


def test_counters_are_exact(alone: Running, eventually):
    before = scraped(alone)
    prompts = ["User: Is", "Assistant: Zw\u00f6lf", "mill"]
    lengths = [len(alone.post("/tokenize", prompt=prompt).json()["tokens"]) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda each: alone.completed(each, max_tokens=20, ignore_eos=True, n=2), prompts))
    alone.post("/v1/completions", prompt="a", nonsense=1)
    after = scraped(alone)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    for prefix in ("penstock_", "vllm:"):
        assert grown(f"{prefix}generation_tokens_total{NAMED}") == 3 * 2 * 20
        assert grown(f"{prefix}prompt_tokens_total{NAMED}") == 2 * sum(lengths)
        assert grown(f"{prefix}request_success_total{{finished_reason=length}}{NAMED}") == 6
        assert grown(f"{prefix}time_to_first_token_seconds_count{NAMED}") == 6
        assert grown(f"{prefix}inter_token_latency_seconds_count{NAMED}") == 6 * 19
        assert grown(f"{prefix}e2e_request_latency_seconds_count{NAMED}") == 6
        first, whole = (f"{prefix}{name}_seconds_sum{NAMED}" for name in ("time_to_first_token", "e2e_request_latency"))
        assert 0 < grown(first) < grown(whole)
        assert after[f"{prefix}num_requests_running{NAMED}"] == after[f"{prefix}num_requests_waiting{NAMED}"] == 0
    cached = sum(each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in made)
    assert grown(f"penstock_prefix_cache_hits_total{NAMED}") >= cached
    assert grown("penstock_http_requests_total{path=/v1/completions}{status=200}") == 3
    assert grown("penstock_http_requests_total{path=/v1/completions}{status=400}") == 1


def test_the_load_of_experts_is_told_by_layer(alone: Running, eventually):
    alone.completed("User:", max_tokens=100, ignore_eos=True)
    eventually(lambda: any(name.startswith("penstock_expert_load_gini") for name in scraped(alone)))
    found = scraped(alone)
    experts = {name: value for name, value in found.items() if name.startswith("penstock_expert_")}
    layers = {each for name in experts for each in re.findall(r"layer=(\d+)", name)}
    assert layers == {"1"}  # the first is dense
    assert len(experts) <= 3 * len(layers) + 50
    violation, balancedness = (
        experts[f"penstock_expert_load_{name}{{layer=1}}"] for name in ("max_violation", "balancedness")
    )
    assert violation >= 0
    assert balancedness == pytest.approx(1 / (1 + violation))
    assert 0 <= experts["penstock_expert_load_gini{layer=1}"] < 1
    assert 0.25 <= experts["penstock_expert_load_top_share"] <= 1  # four experts


def test_both_processes_tell_their_memory(alone: Running):
    found = scraped(alone)
    for process, name in ((alone.process.pid, ""), (alone.engine(), "penstock_engine_")):
        pages = int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(process)]))
        assert found[f"{name}process_resident_memory_bytes"] == pytest.approx(1024 * pages, rel=0.1)


def test_what_alerts_ask_for_is_there_before_the_first_request():
    """A counter that appears with its first error has not grown, so that an alert would miss the error."""
    found = parsed(unused().text().decode())
    assert all(found[f"penstock_request_success_total{{finished_reason={reason}}}{NAMED}"] == 0 for reason in ENDS)
    assert all(
        found[f"penstock_http_requests_total{{path={path}}}{{status={status}}}"] == 0
        for path in GENERATING
        for status in ANSWERS
    )
    assert not any(name.startswith("penstock_engine_process") for name in found)  # it is not started


@pytest.mark.parametrize(("layers", "experts"), [(1, 4), (61, 256)])
def test_the_load_of_experts_has_three_series_a_layer_however_many_experts(layers: int, experts: int):
    metrics = unused()
    counts_LE = np.random.default_rng(0).integers(0, 50, (2, layers, experts))
    for each in counts_LE:
        metrics.loads.add({layer + 1: each[layer].tolist() for layer in range(layers)})
    found = {
        name: value for name, value in parsed(metrics.text().decode()).items() if name.startswith("penstock_expert")
    }
    assert len(found) <= 3 * layers + 50
    total_LE = counts_LE.sum(0)
    for layer, count_E in enumerate(total_LE, 1):
        assert found[f"penstock_expert_load_max_violation{{layer={layer}}}"] == pytest.approx(
            float(max_violation(count_E))
        )
        assert found[f"penstock_expert_load_balancedness{{layer={layer}}}"] == pytest.approx(
            count_E.mean() / count_E.max()
        )
        assert found[f"penstock_expert_load_gini{{layer={layer}}}"] == pytest.approx(float(gini(count_E)))
    share = (total_LE.max(-1) / total_LE.sum(-1)).max()
    assert found["penstock_expert_load_top_share"] == pytest.approx(share)
