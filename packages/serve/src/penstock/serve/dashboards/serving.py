"""What is watched of a server: its dashboard and its alerts. The metrics are those of `penstock.server.metrics`."""

from __future__ import annotations

from penstock.serve.dashboards.alerts import Alert
from penstock.serve.dashboards.grafana import RATE, Chart, Choice, Page, Query, Row, quantiles

JOB = "penstock-serving"
"""Prometheus's name for the servers. Metrics that every process has are told apart by it."""
_AT = 'instance=~"$instance"'


def _rate(metric: str, more: str = "") -> str:
    return f"rate({metric}{{{_AT}{more}}}[{RATE}])"


_NOW = Row(
    "Now",
    [
        Chart(
            "Engine",
            "1 if every engine answers, 0 if one is being started again",
            [Query(f"min(penstock_engine_ready{{{_AT}}})")],
            kind="stat",
        ),
        Chart("Running", "Texts in slots", [Query(f"sum(penstock_num_requests_running{{{_AT}}})")], kind="stat"),
        Chart("Waiting", "Texts without a slot", [Query(f"sum(penstock_num_requests_waiting{{{_AT}}})")], kind="stat"),
        Chart(
            "New tokens",
            "Tokens generated a second, by all servers",
            [Query(f"sum({_rate('penstock_generation_tokens_total')})")],
            kind="stat",
        ),
        Chart(
            "Cache",
            "Share of the fullest server's cache that running texts fill",
            [Query(f"max(penstock_kv_cache_usage_perc{{{_AT}}})")],
            unit="percentunit",
            kind="stat",
        ),
        Chart(
            "Restarts",
            "How often an engine was started again in the last hour",
            [Query(f"sum(increase(penstock_engine_restarts_total{{{_AT}}}[1h]))")],
            kind="stat",
        ),
    ],
)
_TRAFFIC = Row(
    "Traffic",
    [
        Chart(
            "Tokens a second",
            "Tokens of prompts, those that were in the cache too, and new tokens",
            [
                Query(f"sum({_rate('penstock_prompt_tokens_total')})", "prompts"),
                Query(f"sum({_rate('penstock_generation_tokens_total')})", "new"),
            ],
        ),
        Chart(
            "Texts that end",
            "A second, by reason: a stop, the length asked for, a client that left, or an error",
            [Query(f"sum by (finished_reason) ({_rate('penstock_request_success_total')})", "{{finished_reason}}")],
        ),
        Chart(
            "Answers",
            "A second, by HTTP status; an error inside a stream is not one of them, but a text that ends in an error",
            [Query(f"sum by (status) ({_rate('penstock_http_requests_total')})", "{{status}}")],
        ),
    ],
)
_TIMES = Row(
    "Times",
    [
        Chart(
            "First token",
            "From the request to its first token, with waiting and reading of the prompt",
            quantiles("penstock_time_to_first_token_seconds", _AT),
            unit="s",
        ),
        Chart(
            "Next token",
            "From one token of a text to the next",
            quantiles("penstock_inter_token_latency_seconds", _AT),
            unit="s",
        ),
        Chart(
            "Whole text",
            "From the request to the last token",
            quantiles("penstock_e2e_request_latency_seconds", _AT),
            unit="s",
        ),
    ],
)
_LOAD = Row(
    "Load",
    [
        Chart(
            "Texts",
            "Running and waiting, by server",
            [
                Query(f"penstock_num_requests_running{{{_AT}}}", "{{instance}} running"),
                Query(f"penstock_num_requests_waiting{{{_AT}}}", "{{instance}} waiting"),
            ],
        ),
        Chart(
            "Cache",
            "Share that running texts fill, and share of the prompts' tokens that had been read before",
            [
                Query(f"penstock_kv_cache_usage_perc{{{_AT}}}", "{{instance}} filled"),
                Query(
                    f"sum({_rate('penstock_prefix_cache_hits_total')})"
                    f" / sum({_rate('penstock_prefix_cache_queries_total')})",
                    "read before",
                ),
            ],
            unit="percentunit",
        ),
        Chart(
            "Lengths",
            "Median and 90th percentile of the tokens of texts that ended",
            [
                *(
                    Query(query.expression, f"{what} {query.legend}")
                    for what, metric in (("prompt", "prompt"), ("new", "generation"))
                    for query in quantiles(f"penstock_request_{metric}_tokens", _AT, (0.5, 0.9))
                )
            ],
        ),
        Chart(
            "Memory",
            "Resident memory of the server's two processes",
            [
                Query(f'process_resident_memory_bytes{{job="{JOB}",{_AT}}}', "{{instance}} server"),
                Query(f"penstock_engine_process_resident_memory_bytes{{{_AT}}}", "{{instance}} engine"),
            ],
            unit="bytes",
        ),
    ],
)

PAGE = Page(
    "serving",
    "Penstock: serving",
    "Servers: traffic, times, load",
    [Choice("instance", "penstock_engine_ready")],
    [_NOW, _TRAFFIC, _TIMES, _LOAD],
)

_ENDED = "sum by (instance) (rate(penstock_request_success_total[5m]))"
_ANSWERS = 'sum by (instance) (rate(penstock_http_requests_total{path=~"/v1/.*completions"}[5m]))'
ALERTS = [
    Alert(
        "ServerDown",
        f'up{{job="{JOB}"}} == 0',
        "1m",
        "critical",
        "{{ $labels.instance }} does not answer",
        "Look at its log; an engine that died too often ends the server.",
    ),
    Alert(
        "EngineDown",
        "penstock_engine_ready == 0",
        "1m",
        "critical",
        "{{ $labels.instance }} has no engine",
        "Requests get a 503 until it is started again; its log says why it died.",
    ),
    Alert(
        "EngineRestarts",
        "increase(penstock_engine_restarts_total[30m]) > 2",
        "0m",
        "warning",
        "the engine of {{ $labels.instance }} dies again and again",
        "Compare its memory with the limit, and its log with the requests of that time.",
    ),
    Alert(
        "TextsFail",
        f'sum by (instance) (rate(penstock_request_success_total{{finished_reason="error"}}[5m])) / {_ENDED} > 0.01',
        "5m",
        "critical",
        "more than 1 % of the texts of {{ $labels.instance }} end in an error",
        "The engine died, or the model computes NaN: its log says which.",
    ),
    Alert(
        "RequestsRefused",
        'sum by (instance) (rate(penstock_http_requests_total{path=~"/v1/.*completions",status="429"}[5m]))'
        f" / {_ANSWERS} > 0.05",
        "5m",
        "warning",
        "{{ $labels.instance }} refuses more than 5 % of its requests",
        "Its queue is full: add servers, or slots (`--slots`).",
    ),
    Alert(
        "QueueNeverEmpty",
        "min_over_time(penstock_num_requests_waiting[10m]) > 0",
        "5m",
        "warning",
        "texts have waited at {{ $labels.instance }} for a quarter of an hour",
        "It gets more than it can compute: add servers, or slots (`--slots`).",
    ),
    Alert(
        "FirstTokenSlow",
        "histogram_quantile(0.95, sum by (instance, le) (rate(penstock_time_to_first_token_seconds_bucket[5m]))) > 5",
        "10m",
        "warning",
        "one request in twenty waits more than 5 s for {{ $labels.instance }}'s first token",
        "Compare waiting texts with slots: long prompts are read in parts (`--chunk`), between the tokens of others.",
    ),
]
