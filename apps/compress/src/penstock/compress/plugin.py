"""What penstock-compress offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="compress",
            target="penstock.compress.command:compress",
            summary="Compress a run's model step by step, and measure bytes and quality of each step",
        ),
    ]
