"""`penstock serve`."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli import output
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Registry

if TYPE_CHECKING:
    from penstock.server.engine.client import EngineClient
    from penstock.server.http.app import Service


@click.command()
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any.")
@click.option("--name", help="Name of the model in the interface. Default: the last part of MODEL.")
@click.option("--slots", default=32, show_default=True, type=click.IntRange(min=1), help="Texts computed at once.")
@click.option(
    "--context", default=2048, show_default=True, type=click.IntRange(min=2), help="Tokens of a text, prompt included."
)
@click.option(
    "--chunk", default=512, show_default=True, type=click.IntRange(min=1), help="Tokens of prompts read in one step."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine. Default: as torch chooses.")
@click.option("--api-key", multiple=True, envvar="PENSTOCK_API_KEY", help="A key that requests need. Repeatable.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with one key a line.")
@click.option("--queue", default=256, show_default=True, type=click.IntRange(min=0), help="Texts that may wait.")
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds of a request.",
)
@click.option("--max-body", default=4 << 20, show_default=True, type=click.IntRange(min=1), help="Bytes of a request.")
@click.option(
    "--drain",
    default=30,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seconds that running requests get after SIGTERM.",
)
@click.pass_obj
def serve(
    registry: Registry,
    model: Path,
    host: str,
    port: int,
    name: str | None,
    slots: int,
    context: int,
    chunk: int,
    threads: int | None,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    queue: int,
    timeout: float,
    max_body: int,
    drain: int,
) -> None:
    """Serve MODEL over an OpenAI-compatible HTTP interface: a run, a checkpoint, an artifact, or a folder in the
    Hugging Face layout. Texts join and leave between the steps of the model."""
    from penstock.server.engine.process import EngineOptions
    from penstock.server.listening import run

    keys = [*api_key, *_keys(api_key_file)]
    if "" in keys:
        raise ProblemError(Problem("bad-value", "an empty API key", "--api-key", "give a key, or leave it out"))
    options = EngineOptions(str(model.expanduser()), slots, context, chunk, threads, asdict(registry.selection))
    called = name or model.resolve().name

    def service(engine: EngineClient) -> Service:
        from penstock.server.http.app import Service, Settings
        from penstock.server.http.limits import Limits

        return Service(engine, Settings(called, keys, Limits(max_body, queue, timeout)))

    with _listening(host, port) as listener:
        address, chosen, *_ = listener.getsockname()
        where = f"http://{f'[{address}]' if ':' in address else address}:{chosen}"
        code = asyncio.run(run(options, service, listener, drain, lambda: output.note(f"{called}: {where}/v1")))
    raise SystemExit(code)


def _keys(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        keys = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(
            Problem("missing-file", f"cannot be read ({error})", str(file), "name a text file")
        ) from error
    if not keys:
        raise ProblemError(Problem("bad-value", "has no key", str(file), "write one key a line"))
    return keys


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `ProblemError` where the port is taken or the address is not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise failed("no-port", f"cannot listen at {host}:{port} ({reason})", "--port", "choose another") from error
    return listener
