"""Every file of a deployment by its path."""

from __future__ import annotations

from penstock.serve.dashboards import files as dashboards
from penstock.serve.dashboards.files import as_yaml
from penstock.serve.manifests.deployment import Deployment
from penstock.serve.manifests.docker import compose, dockerfile
from penstock.serve.manifests.kubernetes import kubernetes_file
from penstock.serve.manifests.watching import dashboard_folders, data_sources, prometheus


def files(deployment: Deployment) -> dict[str, str]:
    """Manifests, and the dashboards and rules that they mount."""
    image = {"Dockerfile": dockerfile(deployment)} if deployment.packages else {}
    return {
        **image,
        "compose.yaml": as_yaml(compose(deployment)),
        "kubernetes.yaml": kubernetes_file(deployment),
        "prometheus/prometheus.yml": as_yaml(prometheus(deployment)),
        "grafana/provisioning/datasources/penstock.yaml": as_yaml(data_sources()),
        "grafana/provisioning/dashboards/penstock.yaml": as_yaml(dashboard_folders()),
        **dashboards.files(),
    }
