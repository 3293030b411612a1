"""What Prometheus scrapes: requests, tokens, times, and how evenly experts are used.

Names are `penstock_...`. Those that vLLM has too are also told under its names and with its label `model_name`, so that
its dashboards work here. Load of experts is told by layer and not by expert: three figures a layer, whatever the number
of experts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.server.engine.client import EngineClient
from penstock.traces.load import gini, max_violation

OURS, VLLM = "penstock_", "vllm:"
WINDOW = 60.0
"""Seconds of tokens that the load of experts is of."""
FIRST_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NEXT_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
ENDS = ("stop", "length", "abort", "error")
"""Why a text may end: as was asked, where its client went, or where the engine failed."""
GENERATING = ("/v1/completions", "/v1/chat/completions")
ANSWERS = ("200", "400", "429", "500", "503", "504")
"""The statuses of these paths that are counted from the start. A counter that appears with its first error shows no
growth, so that an alert would miss the error."""
Counts = NDArray[np.int64]


class TextMetrics:
    """What is measured of one text, from its request on."""

    def __init__(self, metrics: ServerMetrics, prompt_tokens: int) -> None:
        self._metrics, self._prompt_tokens = metrics, prompt_tokens
        self._begun = self._last = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0

    def token(self, cached: int) -> None:
        """A token has come; `cached` tokens of the prompt had been read before."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
            self._metrics.first_token.observe(now - self._begun)
            self._metrics.prompt_tokens.inc(self._prompt_tokens)
            self._metrics.cache_queries.inc(self._prompt_tokens)
            self._metrics.cache_hits.inc(cached)
        else:
            self._metrics.next_token.observe(now - self._last)
        self._metrics.new_tokens.inc()
        self._tokens += 1
        self._last = now

    def ended(self, reason: str) -> None:
        """The text ended: "stop", "length", "abort" where its client went, or "error"."""
        metrics = self._metrics
        metrics.ended.labels(reason).inc()
        if reason in ("stop", "length") and self._first is not None:
            metrics.whole.observe(self._last - self._begun)
            metrics.prompt_length.observe(self._prompt_tokens)
            metrics.new_length.observe(self._tokens)
            if self._tokens > 1:
                metrics.each_token.observe((self._last - self._first) / (self._tokens - 1))


class ServerMetrics:
    """The metrics of one server, whose model is `model_name` in the interface. `/metrics` is `text`."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self.loads = ExpertLoads()
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts", registry=None)
        self.new_tokens = Counter("generation_tokens", "Tokens that were generated", registry=None)
        self.cache_queries = Counter(
            "prefix_cache_queries", "Tokens of prompts, which the cache was asked for", registry=None
        )
        self.cache_hits = Counter("prefix_cache_hits", "Tokens of prompts that had been read before", registry=None)
        self.ended = Counter("request_success", "Texts that ended, by reason", ["finished_reason"], registry=None)
        self.first_token = Histogram(
            "time_to_first_token_seconds", "From the request to its first token", buckets=FIRST_TOKEN, registry=None
        )
        self.next_token = Histogram(
            "inter_token_latency_seconds", "From one token of a text to the next", buckets=NEXT_TOKEN, registry=None
        )
        self.each_token = Histogram(
            "request_time_per_output_token_seconds", "Mean time of a text's tokens", buckets=NEXT_TOKEN, registry=None
        )
        self.whole = Histogram(
            "e2e_request_latency_seconds", "From the request to its end", buckets=WHOLE, registry=None
        )
        self.prompt_length = Histogram("request_prompt_tokens", "Tokens of a prompt", buckets=TOKENS, registry=None)
        self.new_length = Histogram("request_generation_tokens", "New tokens of a text", buckets=TOKENS, registry=None)
        self.answers = Counter("http_requests", "Answers, by path and status", ["path", "status"], registry=None)
        running = Gauge("num_requests_running", "Texts in slots", registry=None)
        running.set_function(lambda: engine.counts.running)
        waiting = Gauge("num_requests_waiting", "Texts that wait for a slot", registry=None)
        waiting.set_function(lambda: engine.counts.waiting)
        usage = Gauge("kv_cache_usage_perc", "Share of the cache that running texts fill, 0 to 1", registry=None)
        usage.set_function(lambda: engine.usage)
        restarts = Counter("engine_restarts", "How often the engine was started again", registry=None)
        ready = Gauge("engine_ready", "1 if the engine answers", registry=None)
        ready.set_function(lambda: float(engine.ready.is_set()))
        self.restarts = restarts
        shared = [self.prompt_tokens, self.new_tokens, self.cache_queries, self.cache_hits, self.ended]
        shared += [self.first_token, self.next_token, self.each_token, self.whole, self.prompt_length, self.new_length]
        shared += [running, waiting, usage]
        for reason in ENDS:
            self.ended.labels(reason)
        for path, status in product(GENERATING, ANSWERS):
            self.answers.labels(path, status)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Named(shared, (OURS, VLLM), {"model_name": model_name}))
        self._registry.register(_Named([self.answers, restarts, ready, self.loads], (OURS,)))
        ProcessCollector(registry=self._registry)
        ProcessCollector("penstock_engine", lambda: engine.pid or "none", registry=self._registry)

    def begun(self, prompt_tokens: int) -> TextMetrics:
        return TextMetrics(self, prompt_tokens)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)


class ExpertLoads(Collector):
    """Tokens of each expert in the last `WINDOW` seconds, and what they say of a layer."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, dict[int, Counts]]] = deque()
        self._total: dict[int, Counts] = {}

    def add(self, loads: Mapping[int, Sequence[int]]) -> None:
        """Counts [E] by layer, since the last call."""
        counts = {layer: np.array(each, np.int64) for layer, each in loads.items()}
        self._told.append((time.monotonic(), counts))
        for layer, count_E in counts.items():
            self._total[layer] = self._total.get(layer, 0) + count_E
        self._forget()

    def _forget(self) -> None:
        while self._told and self._told[0][0] < time.monotonic() - WINDOW:
            _, counts = self._told.popleft()
            for layer, count_E in counts.items():
                self._total[layer] = self._total[layer] - count_E

    def collect(self) -> Iterator[Metric]:
        self._forget()
        counts = {layer: count_E for layer, count_E in sorted(self._total.items()) if count_E.any()}
        figures = {
            "expert_load_max_violation": ("(max - mean) / mean of the tokens of a layer's experts", _violation),
            "expert_load_balancedness": ("mean / max of the tokens of a layer's experts", _balancedness),
            "expert_load_gini": ("Gini coefficient of the tokens of a layer's experts", _gini),
        }
        for name, (what, figure) in figures.items():
            family = GaugeMetricFamily(name, f"{what}, {WINDOW:.0f} seconds", labels=["layer"])
            for layer, count_E in counts.items():
                family.add_metric([str(layer)], figure(count_E))
            yield family
        shares = [float(count_E.max() / count_E.sum()) for count_E in counts.values()]
        top = GaugeMetricFamily("expert_load_top_share", "Largest share of a layer's tokens that one expert has")
        if shares:
            top.add_metric([], max(shares))
        yield top


def _violation(count_E: Counts) -> float:
    return float(max_violation(count_E))


def _balancedness(count_E: Counts) -> float:
    return float(count_E.mean() / count_E.max())


def _gini(count_E: Counts) -> float:
    return float(gini(count_E))


class _Named(Collector):
    """Metrics under one name or several, each with a prefix, and with `labels` beside their own."""

    def __init__(
        self, metrics: Iterable[Collector], prefixes: Iterable[str], labels: Mapping[str, str] | None = None
    ) -> None:
        self._metrics, self._prefixes, self._labels = list(metrics), list(prefixes), dict(labels or {})

    def collect(self) -> Iterator[Metric]:
        for collector in self._metrics:
            for metric in collector.collect():
                for prefix in self._prefixes:
                    named = Metric(prefix + metric.name, metric.documentation, metric.type)
                    named.samples = [
                        each._replace(name=prefix + each.name, labels={**each.labels, **self._labels})
                        for each in metric.samples
                    ]
                    yield named
