"""A schedule that falls with the square root of what is left."""

from penstock.hooks import Component, hookimpl


class SquareRoot:
    def __call__(self, progress: float) -> float:
        return (1 - progress) ** 0.5


@hookimpl
def schedules() -> list[Component]:
    return [Component(kind="schedule", name="square-root", target="square_root:SquareRoot", summary="sqrt(1 - t)")]
