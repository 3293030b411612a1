"""What penstock-sweep offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="sweep",
            target="penstock.sweep.command:sweep",
            summary="Train a grid of settings with the same seeds and compare the cells",
        ),
    ]
