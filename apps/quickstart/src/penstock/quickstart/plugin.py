"""What penstock-quickstart offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="quickstart",
            target="penstock.quickstart.command:quickstart",
            summary="Train, measure and explain a small sparse model",
        ),
    ]
