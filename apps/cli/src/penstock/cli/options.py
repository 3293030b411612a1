"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path

import click

config_argument = click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]...")
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of runs and prepared data.",
)
