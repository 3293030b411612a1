"""Kubernetes manifests: Deployment, Service, and a PodMonitor for the Prometheus operator."""

from __future__ import annotations

from typing import Any

import yaml

from penstock.serve.dashboards import serving
from penstock.serve.manifests.deployment import MOUNTED, USER, Deployment
from penstock.serve.manifests.watching import SCRAPED_EVERY

COMPONENT = "app.kubernetes.io/component"
"""The label that becomes Prometheus's `job`."""
UNANNOUNCED = 5
"""Seconds that a pod still takes requests once it is to end, because proxies learn of it late."""
STARTS_WITHIN = 600
"""Seconds that loading a model may take."""


def kubernetes(deployment: Deployment) -> list[dict[str, Any]]:
    """The manifests, of which the first two are core kinds."""
    return [_deployment(deployment), _service(deployment), pod_monitor(deployment)]


def kubernetes_file(deployment: Deployment) -> str:
    """The manifests as one file, which says what must be there before."""
    needed = [f"# Needs the persistent volume claim {_claim(deployment)}, which has the model at its root"]
    if deployment.secrets:
        keys = ", ".join(deployment.secrets)
        needed.append(f"# and the secret {_secret(deployment)} with {keys}")
    needed[-1] += ". The PodMonitor needs the Prometheus operator."
    documents = yaml.safe_dump_all(kubernetes(deployment), sort_keys=False, width=120, allow_unicode=True)
    return "\n".join(needed) + "\n" + documents


def _claim(deployment: Deployment) -> str:
    return f"{deployment.name}-model"


def _secret(deployment: Deployment) -> str:
    return f"{deployment.name}-keys"


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": deployment.name, COMPONENT: serving.JOB}


def _deployment(deployment: Deployment) -> dict[str, Any]:
    labels = _labels(deployment)
    template = {"metadata": {"labels": labels}, "spec": _pod(deployment)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment.name, "labels": labels},
        "spec": {"replicas": deployment.replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def _pod(deployment: Deployment) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables of services have names that servers read as their settings
        "terminationGracePeriodSeconds": UNANNOUNCED + deployment.drain + 15,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(deployment)],
        "volumes": [
            {"name": "model", "persistentVolumeClaim": {"claimName": _claim(deployment), "readOnly": True}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": "server",
        "image": deployment.image,
        "command": [_literal(word) for word in deployment.command],
        "env": _variables(deployment),
        "ports": [{"name": "http", "containerPort": deployment.port}],
        "resources": _resources(deployment),
        "startupProbe": _probe(deployment.ready, 2, STARTS_WITHIN // 2),
        "readinessProbe": _probe(deployment.ready, 5, 1),
        "livenessProbe": _probe(deployment.alive, 10, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": UNANNOUNCED}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "model", "mountPath": str(MOUNTED), "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _variables(deployment: Deployment) -> list[dict[str, Any]]:
    secret = _secret(deployment)
    given = [{"name": name, "value": _literal(value)} for name, value in deployment.variables.items()]
    hidden = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in deployment.secrets
    ]
    return [*given, *hidden]


def _resources(deployment: Deployment) -> dict[str, Any]:
    """As much as it may use is kept for it: a server that shares its cores has no time to promise."""
    given = deployment.resources
    amounts = {"cpu": f"{given.cpus:g}", "memory": f"{round(given.memory * 1024)}Mi"}
    if given.gpus:
        amounts["nvidia.com/gpu"] = str(given.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _probe(path: str, every: int, failures: int) -> dict[str, Any]:
    ask = {"path": path, "port": "http"}
    return {"httpGet": ask, "periodSeconds": every, "timeoutSeconds": 5, "failureThreshold": failures}


def _service(deployment: Deployment) -> dict[str, Any]:
    labels = _labels(deployment)
    port = {"name": "http", "port": deployment.port, "targetPort": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": deployment.name, "labels": labels},
        "spec": {"selector": labels, "ports": [port]},
    }


def pod_monitor(deployment: Deployment) -> dict[str, Any]:
    """Scrapes each pod, whose `job` is the one that the alerts ask for."""
    labels = _labels(deployment)
    endpoint = {"port": "http", "path": "/metrics", "interval": SCRAPED_EVERY}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": deployment.name, "labels": labels},
        "spec": {"jobLabel": COMPONENT, "selector": {"matchLabels": labels}, "podMetricsEndpoints": [endpoint]},
    }


def _literal(text: str) -> str:
    """Text in which Kubernetes replaces no `$(NAME)`."""
    return text.replace("$(", "$$(")
