"""`penstock generate` and `penstock chat`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli import output
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry

if TYPE_CHECKING:
    from penstock.generate.model import Continuation, Sampling, TextModel

Command = TypeVar("Command", bound=Callable[..., Any])

model_argument = click.argument("model_path", metavar="RUN|ARTIFACT|FOLDER", type=click.Path(path_type=Path))


def sampling_options(command: Command) -> Command:
    """The options that say how tokens are chosen."""
    options = (
        click.option(
            "--tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Most tokens to generate."
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0),
            default=0.7,
            show_default=True,
            help="Sampling temperature; 0 takes the likeliest token each time.",
        ),
        click.option("--top-k", type=click.IntRange(min=1), help="Sample only among the K most likely tokens."),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            help="Sample only among the most likely tokens that together have this probability.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            show_default=True,
            help="Seed of the draws; the same seed gives the same text.",
        ),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before this text (repeatable)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@model_argument
@click.option("--prompt", metavar="TEXT", help="The text to continue; without it, all of stdin is the prompt.")
@sampling_options
@output.json_option
@click.pass_obj
def generate(registry: Registry, model_path: Path, prompt: str | None, as_json: bool, **options: Any) -> dict[str, Any]:
    """Continue a prompt, and print the new text as it is generated.

    RUN is a run, or a folder of runs such as runs/quickstart, whose newest one is used. ARTIFACT is a file that
    `penstock export --format penstock` made; a compiled decoder runs it, or torch where a note says why. FOLDER is a
    checkpoint of a run, or a model in the Hugging Face layout.

    The text ends at the model's end of text, at --stop, after --tokens tokens, or when the model's context is full.
    """
    sampling = _sampling(options)
    prompt = _stdin() if prompt is None else prompt
    model = _loaded(model_path, registry)
    begun = time.perf_counter()
    continuation = model.continued(model.prompt_tokens(prompt), sampling)
    _show(continuation, silent=as_json)
    result = {
        "model": model.name,
        "prompt": prompt,
        "text": continuation.text,
        "prompt_tokens": continuation.prompt_tokens,
        "new_tokens": continuation.new_tokens,
        "stopped_by": continuation.stopped_by,
        "seconds": round(time.perf_counter() - begun, 3),
        "tokens_per_second": continuation.tokens_per_second and round(continuation.tokens_per_second, 1),
    }
    if as_json:
        output.print_result(result, as_json, str)
    elif continuation.tokens_per_second:
        output.note(f"{continuation.tokens_per_second:,.0f} tokens/s")
    _note_positions(model, continuation)
    return result


@click.command()
@model_argument
@sampling_options
@click.pass_obj
def chat(registry: Registry, model_path: Path, **options: Any) -> None:
    """Talk to a model: each line of stdin is a message, and the reply is printed as it is generated.

    RUN is a run or a folder of runs, ARTIFACT a file of `penstock export --format penstock`, FOLDER a checkpoint or a
    Hugging Face folder.

    The conversation is kept as context. It is written with the chat template of the tokenizer; without one, as a
    transcript of `User:` and `Assistant:`, which a model without chat training continues as best it can. /quit or
    Ctrl-D ends the conversation.
    """
    from penstock.generate.chat import Chat

    sampling = _sampling(options)
    model = _loaded(model_path, registry)
    talk = Chat(model, sampling)
    output.note(f"{model.name}: {'chat template' if model.template else 'transcript'}; /quit or Ctrl-D ends")
    while (message := _message()) is not None:
        try:
            reply = talk.reply(message)
        except ProblemError as error:  # of this message; the conversation goes on
            output.print_problems(error)
            continue
        if talk.left_out:
            output.note(
                f"the conversation is longer than the model reads: the first {talk.left_out} turns are left out"
            )
        _show(reply)
        _note_positions(model, reply)
        talk.keep(message, reply.text)


def _loaded(path: Path, registry: Registry) -> TextModel:
    from penstock.generate.opening import open_model

    return open_model(path, registry)


def _sampling(options: dict[str, Any]) -> Sampling:
    from penstock.generate.model import Sampling

    return Sampling(**options)


def _stdin() -> str:
    """All of stdin without its last line break, which shells and editors put there."""
    if sys.stdin is None or sys.stdin.isatty():
        what = "there is no prompt"
        raise ProblemError(Problem("bad-value", what, "--prompt", "write --prompt TEXT, or pipe a text to stdin"))
    text = _decoded(sys.stdin.buffer.read(), "the prompt")
    return text.removesuffix("\n").removesuffix("\r")


def _message() -> str | None:
    """The next message that is not blank; None at the end of stdin or at /quit."""
    while True:
        try:
            line = _line()
        except EOFError:
            return None
        except ProblemError as error:  # of this line; the conversation goes on
            output.print_problems(error)
            continue
        if line.strip() == "/quit":
            return None
        if line.strip():
            return line.strip()


def _line() -> str:
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return _decoded(line, "the message")
    import readline  # noqa: F401 - gives `input` a history and keys for editing

    return input("> ")


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        said = f"{what} is not valid UTF-8 (byte {error.start} is 0x{data[error.start]:02x})"
        raise ProblemError(Problem("not-text", said, "stdin", "write it as UTF-8")) from None


def _show(continuation: Continuation, *, silent: bool = False) -> None:
    """Prints the pieces as they come, and ends the line."""
    for piece in continuation:
        if not silent:
            click.echo(piece, nl=False)
    if not silent:
        click.echo()


def _note_positions(model: TextModel, continuation: Continuation) -> None:
    from penstock.generate.model import StoppedBy

    if continuation.stopped_by is StoppedBy.POSITIONS:
        output.note(f"stopped: the model has only {model.positions} positions")
