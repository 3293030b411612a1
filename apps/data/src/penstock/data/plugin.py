"""What penstock-data offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="data",
            target="penstock.data.commands:data",
            summary="Clean a corpus in stages, and show what they removed and why",
        ),
    ]
