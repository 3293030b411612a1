"""What penstock-evaluate offers: its command and its section of a run's config."""

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


@hookimpl
def sections() -> list[Component]:
    return [
        Component(
            kind="section",
            name="evaluate",
            target="penstock.evaluate.config:EvaluateSettings",
            config="penstock.evaluate.config:EvaluateSettings",
            summary="What penstock evaluate measures, and the samples it shows",
        ),
    ]
