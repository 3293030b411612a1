"""Components of penstock-trackers; imports none of the libraries."""

from penstock.hooks import Component, hookimpl


@hookimpl
def trackers() -> list[Component]:
    return [
        Component(
            kind="tracker",
            name="trackio",
            target="penstock_trackers.in_trackio:trackio_tracker",
            config="penstock_trackers.config:TrackioConfig",
            summary="Trackio's database on this machine; `trackio show` opens its dashboard",
            capabilities=frozenset({"local", "durable", "exact-resume"}),
            reference="https://huggingface.co/docs/trackio",
        ),
        Component(
            kind="tracker",
            name="wandb",
            target="penstock_trackers.in_wandb:wandb_tracker",
            config="penstock_trackers.config:WandbConfig",
            summary="Weights & Biases, offline in the run directory or online",
            capabilities=frozenset({"local", "durable"}),
            reference="https://docs.wandb.ai",
        ),
        Component(
            kind="tracker",
            name="mlflow",
            target="penstock_trackers.in_mlflow:mlflow_tracker",
            config="penstock_trackers.config:MlflowConfig",
            summary="MLflow, in a database in the run directory or on a server",
            capabilities=frozenset({"local", "durable"}),
            reference="https://mlflow.org/docs/latest/ml/tracking",
        ),
    ]


@hookimpl
def observers() -> list[Component]:
    return [
        Component(
            kind="observer",
            name="prometheus",
            target="penstock_trackers.in_prometheus:PrometheusObserver",
            config="penstock_trackers.config:PrometheusConfig",
            summary="Metrics of a run in progress over HTTP, for Prometheus to scrape",
            reference="https://prometheus.io/docs",
        ),
    ]
