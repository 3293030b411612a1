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
    ]
