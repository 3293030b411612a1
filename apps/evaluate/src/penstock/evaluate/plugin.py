"""What penstock-evaluate offers: the commands that measure a run."""

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
        Component(
            kind="command",
            name="profile",
            target="penstock.evaluate.profile_command:profile",
            summary="Show which experts a run or a model chooses, for which text, or those of a trace file",
        ),
        Component(
            kind="command",
            name="simulate",
            target="penstock.evaluate.simulate_commands:simulate",
            summary="Predict all-to-all time from a routing trace, and check the prediction",
        ),
        Component(
            kind="command",
            name="sweep",
            target="penstock.evaluate.sweep.command:sweep",
            summary="Train a grid of settings with the same seeds and compare the cells",
        ),
        Component(
            kind="command",
            name="report",
            target="penstock.evaluate.commands:report",
            summary="Write one self-contained HTML page about one run or several",
        ),
    ]
