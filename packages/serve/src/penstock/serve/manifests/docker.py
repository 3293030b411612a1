"""Dockerfile and compose file.

The compose file starts the server, a Prometheus that scrapes it, and a Grafana with the dashboards. Their ports are
open to this machine alone: put a proxy with TLS before them to open them to others.
"""

from __future__ import annotations

import json
from typing import Any

from penstock.serve.manifests.deployment import USER, Deployment

PYTHON = "python:3.13-slim"
PROMETHEUS, GRAFANA = "prom/prometheus:v3.5.0", "grafana/grafana:12.1.0"
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
"""The default index has torch for CUDA alone, which is ten times as large."""
HARDENED = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "restart": "unless-stopped"}


def dockerfile(deployment: Deployment) -> str:
    """An image of `packages` whose program is the server."""
    index = "" if deployment.resources.gpus else f" --extra-index-url {TORCH_FOR_CPUS}"
    packages = " ".join(f'"{each}"' for each in deployment.packages)
    url = f"http://127.0.0.1:{deployment.port}{deployment.ready}"
    probe = ["python", "-c", f"import urllib.request; urllib.request.urlopen('{url}', timeout=5)"]
    lines = [
        f"FROM {PYTHON}",
        f"RUN pip install --no-cache-dir{index} {packages}",
        *(f"ENV {name}={_quoted(value)}" for name, value in deployment.variables.items()),
        f"USER {USER}:{USER}",
        f"EXPOSE {deployment.port}",
        f"HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD {json.dumps(probe)}",
        f"ENTRYPOINT {json.dumps(list(deployment.command))}",
    ]
    return "\n".join(lines) + "\n"


def compose(deployment: Deployment) -> dict[str, Any]:
    """The compose file, for a folder that has the other files of `penstock.serve.manifests.files`."""
    return {
        "name": deployment.name,
        "services": {"server": _server(deployment), "prometheus": _prometheus(), "grafana": _grafana()},
        "volumes": {"prometheus": {}, "grafana": {}},
    }


def _server(deployment: Deployment) -> dict[str, Any]:
    secrets = {name: f"${{{name}:?give the key that requests need, in {name}}}" for name in deployment.secrets}
    variables = {name: _literal(value) for name, value in deployment.variables.items()}
    model = {"type": "bind", "source": _literal(str(deployment.model.resolve())), "target": str(deployment.mounted)}
    return {
        "image": deployment.image,
        **({"build": "."} if deployment.packages else {}),
        "entrypoint": [_literal(word) for word in deployment.command],
        "environment": {**variables, **secrets},
        "ports": [_local(deployment.port)],
        "volumes": [{**model, "read_only": True}],
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "init": True,
        "stop_grace_period": f"{deployment.drain + 15}s",
        "deploy": {"resources": _resources(deployment)},
        **HARDENED,
    }


def _resources(deployment: Deployment) -> dict[str, Any]:
    given = deployment.resources
    limits = {"cpus": f"{given.cpus:g}", "memory": f"{round(given.memory * 1024)}m"}
    if not given.gpus:
        return {"limits": limits}
    devices = [{"driver": "nvidia", "count": given.gpus, "capabilities": ["gpu"]}]
    return {"limits": limits, "reservations": {"devices": devices}}


def _prometheus() -> dict[str, Any]:
    return {
        "image": PROMETHEUS,
        "volumes": ["./prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
        "ports": [_local(9090)],
        **HARDENED,
    }


def _grafana() -> dict[str, Any]:
    """Whoever reaches it may look, and nobody may log in: it has no password that could be the default one."""
    settings = {
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_AUTH_BASIC_ENABLED": "false",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
    }
    places = ["./grafana/provisioning:/etc/grafana/provisioning:ro", "./grafana/dashboards:/etc/grafana/dashboards:ro"]
    return {
        "image": GRAFANA,
        "environment": settings,
        "volumes": [*places, "grafana:/var/lib/grafana"],
        "ports": [_local(3000)],
        "depends_on": ["prometheus"],
        **HARDENED,
    }


def _local(port: int) -> str:
    """A port of a container, open to this machine alone."""
    return f"127.0.0.1:{port}:{port}"


def _quoted(text: str) -> str:
    """Text in which a Dockerfile replaces nothing."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")


def _literal(text: str) -> str:
    """Text in which compose replaces nothing."""
    return text.replace("$", "$$")
