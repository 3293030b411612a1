"""What penstock-deploy provides."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="export",
            target="penstock.deploy.commands:export",
            summary="Write a run's model for other software",
        ),
        Component(
            kind="command",
            name="dashboards",
            target="penstock.deploy.manifests:dashboards",
            summary="Write dashboards for Grafana and alert rules for Prometheus",
        ),
        Component(
            kind="command",
            name="manifests",
            target="penstock.deploy.manifests:manifests",
            summary="Write a Dockerfile, a compose file and Kubernetes manifests of a server",
        ),
    ]
