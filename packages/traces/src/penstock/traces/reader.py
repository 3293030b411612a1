"""The only reader of routing traces, for the formats of all programs: `read_traces` and `read_trace`.

| file | written by | a step is |
|---|---|---|
| `.npz` | Penstock: a training run or `penstock profile` | a batch |
| `.jsonl` | a vLLM server that logs the experts of each token (`penstock.traces.vllm`) | a batch |
| `.pt` | SGLang's recorder of expert counts (`penstock.traces.sglang`), read without torch | a forward pass |
| `.json` | the authors of OLMoE: counts, or pairs of layers, by domain (`penstock.traces.published`) | a text domain |

`.jsonl` and `.json` may be compressed (.gz, .bz2, .xz or .zst).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from penstock.hooks.compressed import open_input, uncompressed_name
from penstock.hooks.problems import Problem, ProblemError
from penstock.traces import published, sglang, vllm
from penstock.traces.trace import RoutingTrace

Reader = Callable[[Path], Mapping[str, RoutingTrace]]


def read_traces(path: str | Path) -> dict[str, RoutingTrace]:
    """All traces of a file by the name of their model; raises `ProblemError` for a file that is missing, damaged or not
    a trace."""
    path = Path(path)
    if not os.path.exists(path):  # unlike `Path.exists`, False for a name that is too long
        raise ProblemError(Problem("missing-file", "trace not found", str(path), "check the path"))
    try:
        return dict(_reader_of(path)(path))
    except ProblemError:
        raise
    except Exception as error:  # json, zip, pickle and numpy each raise their own errors on damaged bytes
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        fix = "use a trace .npz, a vLLM log .jsonl, an SGLang recording .pt, or a table of counts .json"
        problem = Problem("bad-trace", f"not a routing trace, or damaged ({said})", str(path), fix)
        raise ProblemError(problem) from error


def read_trace(path: str | Path, model: str | None = None) -> RoutingTrace:
    """One trace of a file: that of `model`, or the first one. Raises `ProblemError` like `read_traces`, and for a
    model that the file does not have."""
    traces = read_traces(path)
    name = next(iter(traces)) if model is None else model
    if name not in traces:
        what, fix = f"unknown model '{name}' in the trace", f"choose one of {', '.join(traces)}"
        raise ProblemError(Problem("bad-trace", what, str(path), fix))
    return traces[name]


def _reader_of(path: Path) -> Reader:
    match uncompressed_name(path).rpartition(".")[2]:
        case "jsonl":
            return _vllm
        case "json":
            return _published
        case "pt":
            return sglang.traces_of
        case _:
            return _ours


def _ours(path: Path) -> dict[str, RoutingTrace]:
    trace = RoutingTrace.load(path)
    return {str(trace.header.get("model", path.stem)): trace}


def _vllm(path: Path) -> dict[str, RoutingTrace]:
    with _open_text(path) as lines:
        return vllm.traces_of(lines)


def _published(path: Path) -> dict[str, RoutingTrace]:
    with _open_text(path) as file:
        return published.traces_of(file.read())


@contextmanager
def _open_text(path: Path) -> Generator[TextIO]:
    with open_input(path) as stream, io.TextIOWrapper(stream, encoding="utf-8") as text:
        yield text
