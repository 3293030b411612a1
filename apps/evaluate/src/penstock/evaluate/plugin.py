"""What penstock-evaluate offers: its command."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="evaluate",
            target="penstock.evaluate.commands:evaluate",
            summary="Measure a run: its tasks, baselines, samples and speed",
        ),
    ]
