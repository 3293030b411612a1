"""What penstock-generate offers: its commands."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="generate",
            target="penstock.generate.commands:generate",
            summary="Continue a prompt with a run's model",
        ),
        Component(
            kind="command",
            name="chat",
            target="penstock.generate.commands:chat",
            summary="Talk to a run's model",
        ),
    ]
