"""What is watched of the load of experts: a dashboard and alerts, of servers and of runs that train.

Both tell of each layer MaxVio, (max - mean) / mean of its experts' tokens: a server of the last minute, a run of the
last step. Servers tell balancedness, mean / max, and the Gini coefficient beside it. No series is of one expert.
"""

from __future__ import annotations

from penstock.serve.dashboards import serving, training
from penstock.serve.dashboards.alerts import Alert
from penstock.serve.dashboards.grafana import Chart, Choice, Page, Query, Row

_OF = 'job=~"$job",instance=~"$instance"'
_LAYER = "{{instance}} layer {{layer}}"

_NOW = Row(
    "Now",
    [
        Chart(
            "Worst layer",
            "Largest (max - mean) / mean: 0 is even, the number of experts less 1 is collapse",
            [Query(f"max(penstock_expert_load_max_violation{{{_OF}}})")],
            kind="stat",
        ),
        Chart(
            "Mean layer",
            "Mean over layers of (max - mean) / mean",
            [Query(f"avg(penstock_expert_load_max_violation{{{_OF}}})")],
            kind="stat",
        ),
        Chart(
            "Busiest expert, serving",
            "Largest share of a layer's tokens that one expert has",
            [Query(f"max(penstock_expert_load_top_share{{{_OF}}})")],
            unit="percentunit",
            kind="stat",
        ),
        Chart(
            "Busiest expert, training",
            "Largest share of a layer's assignments that one expert has",
            [Query(f"max(penstock_expert_load_max_ratio{{{_OF}}})")],
            unit="percentunit",
            kind="stat",
        ),
        Chart(
            "Dead experts, training",
            "Experts of all layers without a token in the last step",
            [Query(f"sum(penstock_dead_experts{{{_OF}}})")],
            kind="stat",
        ),
    ],
)
_IMBALANCE = Row(
    "By layer",
    [
        Chart(
            "MaxVio",
            "(max - mean) / mean of the tokens of a layer's experts",
            [Query(f"penstock_expert_load_max_violation{{{_OF}}}", _LAYER)],
        ),
        Chart(
            "Balancedness, serving",
            "mean / max of the tokens of a layer's experts, which is 1 / (1 + MaxVio)",
            [Query(f"penstock_expert_load_balancedness{{{_OF}}}", _LAYER)],
            unit="percentunit",
        ),
        Chart(
            "Gini coefficient, serving",
            "0 is even, 1 is all tokens at one expert",
            [Query(f"penstock_expert_load_gini{{{_OF}}}", _LAYER)],
        ),
        Chart(
            "Dead experts, training",
            "Experts of a layer without a token in the last step",
            [Query(f"penstock_dead_experts{{{_OF}}}", _LAYER)],
        ),
    ],
)

PAGE = Page(
    "experts",
    "Penstock: experts",
    "Load of experts by layer, in serving and in training",
    [Choice("job", "penstock_expert_load_max_violation"), Choice("instance", "penstock_expert_load_max_violation")],
    [_NOW, _IMBALANCE],
)

ALERTS = [
    Alert(
        "ExpertsDead",
        f'sum by (config, run, instance) (penstock_dead_experts{{job="{training.JOB}"}}) > 0',
        "30m",
        "warning",
        "{{ $labels.config }} {{ $labels.run }} has had experts without a token for half an hour",
        "Balance more: a balancing loss, or a higher rate of the balancer.",
    ),
    Alert(
        "ExpertsUneven",
        f'max by (instance) (penstock_expert_load_max_violation{{job="{serving.JOB}"}}) > 4',
        "15m",
        "warning",
        "in one layer of {{ $labels.instance }}, one expert has more than five times its share",
        "The traffic is unlike the training data: place or copy experts by a trace of it (`penstock simulate`).",
    ),
    # (1 + MaxVio) / the busiest expert's share is the number of experts.
    Alert(
        "ExpertsCollapsed",
        "penstock_dead_experts * penstock_expert_load_max_ratio / (1 + penstock_expert_load_max_violation) > 0.5",
        "10m",
        "critical",
        "most experts of layer {{ $labels.layer }} of {{ $labels.config }} {{ $labels.run }} have no token",
        "The router has collapsed: resume from an earlier checkpoint, and balance more.",
    ),
]
