"""Whether an engine that serves an export says what the model says: greedy texts of a few prompts, token by token.

Engines add in other orders, so two tokens that are almost equally likely may change places. Such a tie is told with its
margin, the difference of the two logits; what follows it is another text, and is not compared.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer

from penstock.hooks.contracts import LanguageModel
from penstock.hooks.contracts.serving import Server, Serving
from penstock.hooks.problems import ProblemError, failed
from penstock.serve.servers.running import RunningServer, url_of

PROMPTS = ("The", "import os\n", "    def ", "Once upon a time, there was a")
TOKENS = 64
TIES = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.15}
"""The largest margin of a tie by the dtype of the weights. In fp32, engines differ by the rounding of their sums. Half
precision rounds the weights too, and the model that they are compared with is not rounded."""
HALF_A_CHARACTER = "\ufffd"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model says after a prompt: its tokens, the last of which may end the text, and for each by how much its
    logit is above the next one's."""

    prompt: str
    tokens: Sequence[int]
    margins: Sequence[float]


@dataclass(frozen=True, slots=True)
class Compared:
    """How far an engine says the same: `equal` of `tokens`. `margin` is that of the first token that differs, None if
    all are equal."""

    prompt: str
    tokens: int
    equal: int
    margin: float | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a server said of an export. A margin up to `tie` is a tie."""

    server: str
    tie: float
    prompts: Sequence[Compared]

    def require_equal(self) -> None:
        """Raises `ProblemError` for the first token that is another one and no tie."""
        for each in self.prompts:
            if each.margin is not None and each.margin > self.tie:
                what = (
                    f"after {each.prompt!r} token {each.equal + 1} is another one, although the model's own leads by "
                    f"{each.margin:.3g} in the logits (a tie is up to {self.tie:g})"
                )
                fix = "export in float32, which tells rounding from an engine that computes something else"
                raise failed("other-tokens", what, self.server, fix)

    def text(self) -> str:
        """A line a prompt."""
        lines = [f"{self.server}: {sum(each.equal for each in self.prompts)} greedy tokens equal"]
        for each in self.prompts:
            told = "" if each.margin is None else f", then another one at a margin of {each.margin:.3g}"
            lines.append(f"  {each.prompt!r}: {each.equal} of {each.tokens}{told}")
        return "\n".join(lines)


def expected(model: LanguageModel, tokenizer: Tokenizer, ends: frozenset[int], most: int) -> Iterator[Expected]:
    """The greedy tokens of every prompt, at most `most`."""
    device = next(cast(torch.nn.Module, model).parameters()).device
    model.train(False)
    for prompt in PROMPTS:
        before = tokenizer.encode(prompt).ids
        token_BS = torch.tensor([before], device=device)
        with torch.no_grad():
            whole_BS = model.generate(token_BS, tokens=most, temperature=0.0)
            logits_SV = model.logits(model(whole_BS).hidden_BSD)[0, len(before) - 1 : -1].float()
        tokens = whole_BS[0, len(before) :].tolist()
        length = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
        top_S2 = logits_SV.topk(2).values
        yield Expected(prompt, tokens[:length], (top_S2[:, 0] - top_S2[:, 1]).tolist()[:length])


def compared(model: Expected, theirs: str, decode: Callable[[Sequence[int]], str]) -> Compared:
    """The engine's text against the model's tokens. Bytes that are no whole character yet are left out at the end of
    both. Of the tokens of one character the text does not say which is another: their smallest margin counts."""
    theirs, count = theirs.rstrip(HALF_A_CHARACTER), len(model.tokens)
    parts = [decode(model.tokens[:length]) for length in range(count + 1)]
    if parts[-1].rstrip(HALF_A_CHARACTER) == theirs:
        return Compared(model.prompt, count, count, None)
    unlike = (at for at in range(count) if not theirs.startswith(parts[at + 1].rstrip(HALF_A_CHARACTER)))
    last = next(unlike, count - 1)
    first = last
    while parts[first].endswith(HALF_A_CHARACTER):
        first -= 1
    return Compared(model.prompt, count, first, min(model.margins[first : last + 1]))


def verified(
    server: Server, name: str, model: Path, tokenizer: Tokenizer, texts: Sequence[Expected], *, tie: float, log: Path
) -> Verification:
    """Starts the server called `name` with an export, and asks it; `log` takes what it writes. Raises `ProblemError`
    for an export that it cannot serve, for a server that is not installed, and if it ends or refuses a prompt."""
    serving = Serving(model, port=_free_port(), slots=len(PROMPTS), profile="latency")
    if problems := server.problems(serving) or server.missing():
        raise ProblemError(problems)
    process, url = server.process(serving), url_of(serving.host, serving.port)
    with log.open("wb") as written, RunningServer(process, url, log=written) as running:
        try:
            running.wait_until_ready()
        except ProblemError as error:
            (problem,) = error.problems
            raise failed(problem.code, problem.what, problem.where, f"see {log}") from error
        said = [_asked(url, process.name, text, str(log)) for text in texts]
    pairs = zip(texts, said, strict=True)
    return Verification(name, tie, [compared(text, theirs, _decoder(tokenizer)) for text, theirs in pairs])


def _decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    return lambda tokens: tokenizer.decode(list(tokens))


def _asked(url: str, name: str, text: Expected, log: str) -> str:
    body = {"model": name, "prompt": text.prompt, "max_tokens": len(text.tokens), "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    try:
        with _DIRECT.open(request, timeout=300) as response:
            answer: Any = json.load(response)
            return answer["choices"][0]["text"]
    except (OSError, ValueError, LookupError) as error:
        what = f"the engine did not complete the prompt {text.prompt!r} ({error})"
        raise failed("engine-died", what, url, f"see {log}") from error


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
