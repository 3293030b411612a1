"""Configuration of Prometheus and Grafana in the compose file."""

from __future__ import annotations

from typing import Any

from penstock.serve.dashboards import serving, training
from penstock.serve.manifests.deployment import Deployment

SCRAPED_EVERY = "15s"


def prometheus(deployment: Deployment) -> dict[str, Any]:
    """Scrapes the server, and every run that names itself in the folder `training` beside the configuration."""
    return {
        "global": {"scrape_interval": SCRAPED_EVERY, "evaluation_interval": SCRAPED_EVERY},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [
            {"job_name": serving.JOB, "static_configs": [{"targets": [f"server:{deployment.port}"]}]},
            {"job_name": training.JOB, "file_sd_configs": [{"files": ["training/*.json"]}]},
        ],
    }


def data_sources() -> dict[str, Any]:
    """Prometheus as Grafana's only source."""
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": "http://prometheus:9090",
        "isDefault": True,
        "jsonData": {"timeInterval": SCRAPED_EVERY},
    }
    return {"apiVersion": 1, "datasources": [source]}


def dashboard_folders() -> dict[str, Any]:
    """Where Grafana finds its dashboards."""
    provider = {"name": "penstock", "type": "file", "options": {"path": "/etc/grafana/dashboards"}}
    return {"apiVersion": 1, "providers": [provider]}
