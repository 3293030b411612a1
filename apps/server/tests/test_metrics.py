"""Counters are exact, times have been measured, and what is told of experts is bounded."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import Running, serving


def scraped(server: Running) -> dict[str, float]:
    """Samples by name and labels."""
    response = server.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


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
        assert grown(f"{prefix}generation_tokens_total") == 3 * 2 * 20
        assert grown(f"{prefix}prompt_tokens_total") == 2 * sum(lengths)
        assert grown(f"{prefix}request_success_total{{finished_reason=length}}") == 6
        assert grown(f"{prefix}time_to_first_token_seconds_count") == 6
        assert grown(f"{prefix}inter_token_latency_seconds_count") == 6 * 19
        assert grown(f"{prefix}e2e_request_latency_seconds_count") == 6
        assert 0 < grown(f"{prefix}time_to_first_token_seconds_sum") < grown(f"{prefix}e2e_request_latency_seconds_sum")
        assert after[f"{prefix}num_requests_running"] == after[f"{prefix}num_requests_waiting"] == 0
    cached = sum(each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in made)
    assert grown("penstock_prefix_cache_hits_total") >= cached
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
