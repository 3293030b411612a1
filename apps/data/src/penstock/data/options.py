"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click


class Size(click.ParamType):
    """Bytes, such as `4GB` or `512MiB`."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pydantic import ByteSize, TypeAdapter, ValidationError

        try:
            return int(TypeAdapter(ByteSize).validate_python(value))
        except ValidationError:
            self.fail(f"'{value}' is not a size: write a number of bytes, or one with a unit, such as 4GB", param, ctx)


max_ram_option = click.option(
    "--max-ram", type=Size(), help="Most memory of all processes together, such as 4GB; refused if it is too little."
)
