"""How well a sweep that stops cells early finds what the whole grid finds, and what it costs."""

from __future__ import annotations

from pathlib import Path

import click
from sweep_curves import train


@click.command(help=__doc__)
@click.option("--train", "folder", type=click.Path(path_type=Path), help="Train the runs into this folder first.")
@click.option("--data", type=click.Path(path_type=Path), envvar="PENSTOCK_DATA", help="Folder with `tinystories`.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes of one thread.")
@click.option("--cells", type=click.IntRange(min=1), help="Train some cells only, and store nothing.")
def main(folder: Path | None, data: Path | None, workers: int, cells: int | None) -> None:
    if folder is not None:
        if data is None:
            raise click.UsageError("training needs --data, a folder with `tinystories`")
        train(folder, data, workers, cells)


if __name__ == "__main__":
    main()
