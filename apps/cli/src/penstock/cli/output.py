"""All output of commands: results to stdout; notes, warnings and errors to stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from penstock.hooks.problems import ExitCode, ProblemError, failed

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


def print_result(value: Any, as_json: bool, human: Callable[[], str]) -> None:
    """Prints a command's result, a record or plain data: as JSON, or as the text that `human` makes."""
    if not as_json:
        click.echo(human())
        return
    from penstock.run.records import record  # help need not wait for it

    click.echo(json.dumps(record.as_json(value), indent=2, default=str))


@contextmanager
def results_written() -> Iterator[None]:
    """Raises `ProblemError` if what is printed inside cannot be written, for example because the disk is full."""
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        if error.filename is None:  # it does not say what could not be written; one more line tells
            flush_results(more="\n")
        raise


def flush_results(more: str = "") -> None:
    """Writes out what is still in the buffer of stdout, and `more`; raises `ProblemError` if that is impossible."""
    if sys.stdout is None:  # closed by whoever started the process
        return
    try:
        if more:  # even an empty write fails where nothing can be written
            sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again when it exits
        if not isinstance(error, BrokenPipeError):
            what, fix = f"the result cannot be written ({error.strerror})", "free some space, or write it elsewhere"
            raise failed("cannot-write", what, "stdout", fix) from error


class _LastingStderr(io.TextIOWrapper):
    """Messages to a reader that has gone, such as `tee` after Ctrl-C or a closed terminal, go nowhere: no work ends
    because nobody reads of it."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            self._lose_reader()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._lose_reader()

    def _lose_reader(self) -> None:
        """From now on the descriptor, which libraries and child processes write to as well, takes everything."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def outlive_stderr() -> None:
    """Lets this process go on when stderr cannot be written any more. Where something else took its place, as in tests,
    that one stays."""
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _LastingStderr(
            sys.stderr.buffer, encoding=sys.stderr.encoding, errors=sys.stderr.errors, line_buffering=True
        )


def note(text: str) -> None:
    """Prints extra information to stderr; never part of the result."""
    click.secho(visible(text), err=True, dim=True)


def warn(text: str) -> None:
    click.secho(visible(f"warning: {text}"), err=True, fg="yellow")


def print_problems(error: ProblemError) -> ExitCode:
    """Prints every problem to stderr; returns the exit code to end with."""
    for problem in error.problems:
        click.echo(click.style("error: ", fg="red", bold=True) + visible(str(problem)), err=True)
    return error.exit_code


def visible(text: str) -> str:
    """Text with control characters spelled out: what messages quote from files must not reach a terminal as commands.

    >>> visible("a name\\x1b[2J")
    'a name\\\\x1b[2J'
    """
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Plain aligned columns; numbers are right-aligned."""
    texts = [[str(cell) for cell in row] for row in rows]
    head = [str(column) for column in columns]
    widths = [max(len(line[i]) for line in [head, *texts]) for i in range(len(head))]
    numeric = [bool(texts) and all(_is_number(line[i]) for line in texts) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [head, *texts]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).replace("-", "", 1).replace("%", "").isdigit()


def human_bytes(count: float) -> str:
    """Bytes with a decimal unit.

    >>> human_bytes(1_234_567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
