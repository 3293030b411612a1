"""What penstock-simulate offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="simulate",
            target="penstock.simulate.commands:simulate",
            summary="Predict all-to-all time from a routing trace, and check the prediction",
        ),
    ]
