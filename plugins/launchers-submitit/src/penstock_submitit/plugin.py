"""Components of penstock-submitit; imports nothing heavy."""

from penstock.hooks import Component, hookimpl


@hookimpl
def launchers() -> list[Component]:
    return [
        Component(
            kind="launcher",
            name="submitit",
            target="penstock_submitit.launcher:SubmititLauncher",
            config="penstock_submitit.config:SubmititConfig",
            summary="Jobs of a Slurm cluster, or one process a job on this machine",
            reference="https://github.com/facebookincubator/submitit",
        ),
    ]
