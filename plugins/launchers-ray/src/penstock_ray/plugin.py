"""Components of penstock-ray; imports nothing heavy."""

from penstock.hooks import Component, hookimpl


@hookimpl
def launchers() -> list[Component]:
    return [
        Component(
            kind="launcher",
            name="ray",
            target="penstock_ray.launcher:RayLauncher",
            config="penstock_ray.config:RayConfig",
            summary="Tasks of a Ray cluster, whose workers stay for many jobs",
            reference="https://docs.ray.io",
        ),
    ]
