"""`penstock serve`."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from penstock.cli import output
from penstock.hooks.contracts.serving import Profile, Serving
from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Choice, Registry
from penstock.server.profiles import CONTEXT, TUNINGS

if TYPE_CHECKING:
    from penstock.server.engine.client import EngineClient
    from penstock.server.http.app import Service


@click.command()
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any.")
@click.option("--name", help="Name of the model in the interface. Default: the last part of MODEL.")
@click.option(
    "--server",
    default="penstock",
    show_default=True,
    help="Who serves: NAME or {use: NAME, ...}, such as '{use: vllm, python: ENV/bin/python}'.",
)
@click.option(
    "--profile",
    default="balanced",
    show_default=True,
    type=click.Choice(get_args(Profile)),
    help="What --slots and --chunk are tuned for: the first token, both, or tokens a second.",
)
@click.option("--print-command", is_flag=True, help="Print the server's command and environment, and start nothing.")
@click.option("--slots", type=click.IntRange(min=1), help="Texts computed at once. Default: the profile's.")
@click.option(
    "--context",
    type=click.IntRange(min=2),
    help=f"Tokens of a text, prompt included. Default: {CONTEXT}, or what another server chooses.",
)
@click.option("--chunk", type=click.IntRange(min=1), help="Tokens of prompts read in one step. Default: the profile's.")
@click.option("--dtype", help="What another server computes in, such as float32. Default: what the weights are.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine. Default: as torch chooses.")
@click.option(
    "--chat-template",
    metavar="FILE|transcript",
    help="How chats are written: a file of Jinja or a tokenizer_config.json, or `transcript`, as `penstock chat` "
    "writes them for a model without a template. Default: the model's own template.",
)
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
    server: str,
    profile: Profile,
    print_command: bool,
    slots: int | None,
    context: int | None,
    chunk: int | None,
    dtype: str | None,
    threads: int | None,
    chat_template: str | None,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    queue: int,
    timeout: float,
    max_body: int,
    drain: int,
) -> None:
    """Serve MODEL over an OpenAI-compatible HTTP interface: a run, a checkpoint, an artifact, or a folder in the
    Hugging Face layout. Texts join and leave between the steps of the model.

    Another server, such as vllm, is started in its own environment, told what it has to know, and ended with this one.
    """
    keys = [*api_key, *_keys(api_key_file)]
    if "" in keys:
        raise ProblemError(Problem("bad-value", "an empty API key", "--api-key", "give a key, or leave it out"))
    asked: Any = parse_value(server, "--server")[0]
    choice = registry.choose("server", asked, "--server")
    if print_command or choice.entry.component.target != OURS:
        serving = Serving(model.expanduser(), host, port, name, slots, context, threads, dtype, tuple(keys), profile)
        return _by_another(choice, serving, print_command, drain)
    if dtype is not None:
        what, fix = "our server computes in the dtype of the model", "leave it out, or export in that dtype"
        raise ProblemError(Problem("unsupported", what, "--dtype", fix))
    from penstock.server.engine.process import EngineOptions
    from penstock.server.listening import run

    template = None if chat_template is None else _template(chat_template)
    slots, chunk = slots or TUNINGS[profile].slots, chunk or TUNINGS[profile].chunk
    options = EngineOptions(
        str(model.expanduser()), slots, context or CONTEXT, chunk, threads, asdict(registry.selection)
    )
    called = name or model.resolve().name

    def service(engine: EngineClient) -> Service:
        from penstock.server.http.app import Service, Settings
        from penstock.server.http.limits import Limits

        return Service(engine, Settings(called, keys, Limits(max_body, queue, timeout), template))

    with _listening(host, port) as listener:
        address, chosen, *_ = listener.getsockname()
        where = f"http://{f'[{address}]' if ':' in address else address}:{chosen}"
        code = asyncio.run(run(options, service, listener, drain, lambda: output.note(f"{called}: {where}/v1")))
    raise SystemExit(code)


OURS = "penstock.server.component:PenstockServer"
ONLY_OURS = ("chunk", "chat_template", "queue", "timeout", "max_body")


def _by_another(choice: Choice, serving: Serving, print_command: bool, drain: int) -> None:
    """Starts the process of a server, or only prints it."""
    from penstock.serve.servers.running import shown
    from penstock.server.beside import described, serve_beside

    context, server = click.get_current_context(), choice.build()
    given = {
        f"--{name.replace('_', '-')}": str(context.params[name])
        for name in ONLY_OURS
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    ours = choice.entry.component.target == OURS
    if given and not ours:
        what = f"'{choice.entry.component.name}' does not take this option"
        raise ProblemError([Problem("unsupported", what, option, "leave it out") for option in given])
    if print_command:
        process = described(server, serving)
        more = [word for pair in given.items() for word in pair]
        click.echo(shown(replace(process, arguments=[*process.arguments, *more])))
        return
    with _listening(serving.host, serving.port) as free:  # a taken port is told now, and not by the server in a minute
        port = free.getsockname()[1]
    raise SystemExit(serve_beside(server, replace(serving, port=port), drain=drain))


def _template(given: str) -> str | None:
    from penstock.server.http.conversations import template_of

    return template_of(given)


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
        where = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise failed("no-port", f"cannot listen at {host}:{port} ({reason})", where, "choose another") from error
    return listener
