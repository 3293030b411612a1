"""Helpers for tasks: continuations in tokens, seeds of drawn texts, and the refusal of few-shot examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from penstock.hooks.contracts import BeginsTexts, Likelihood, TaskContext, Tokenizer
from penstock.hooks.problems import Problem, ProblemError


def continuation(tokenizer: Tokenizer, context: str, text: str) -> Likelihood:
    """A request for the likelihood of `text` after `context`, split into tokens as in lm-evaluation-harness: trailing
    spaces of the context move to the text, both are encoded together, and the tokens beyond those of the context alone
    are the text.

    An empty context is the token before a text (`first_token`). Where a token spans context and text, so that nothing
    is left of the text, it is encoded by itself.
    """
    return continuations(tokenizer, context, [text])[0]


def continuations(
    tokenizer: Tokenizer, context: str, texts: Sequence[str], encode: Callable[[str], list[int]] | None = None
) -> list[Likelihood]:
    """`continuation` for each of the texts after the same context. `encode` is that of a chat template, which wrote the
    context."""
    first = [] if encode is not None else always_first(tokenizer)
    encode = encode or tokenizer.encode
    kept = context.rstrip()
    moved = context[len(kept) :]
    if not kept:
        return [Likelihood([first_token(tokenizer)], encode(f"{moved}{text}")) for text in texts]
    before = encode(kept)
    split = [(encode(f"{kept}{moved}{text}")[len(before) :] or encode(f"{moved}{text}")) for text in texts]
    return [Likelihood([*first, *before], asked) for asked in split]


def first_token(tokenizer: Tokenizer) -> int:
    """What a model reads before a text with nothing else before it: the token that begins one, or that ends the one
    before."""
    return tokenizer.begin_of_text if isinstance(tokenizer, BeginsTexts) else tokenizer.end_of_text


def always_first(tokenizer: Tokenizer) -> list[int]:
    """What stands before everything that a model reads: nothing, or the token that begins a text."""
    return [tokenizer.begin_of_text] if isinstance(tokenizer, BeginsTexts) and tokenizer.always_begins else []


def refuse_limit(context: TaskContext, task: str, setting: str) -> None:
    """Raises `ProblemError` if a limit of items is requested from a task that scores one text as a whole."""
    if context.limit is not None:
        what = f"task '{task}' scores one text and has no items to limit"
        raise ProblemError(Problem("no-limit", what, "--limit", f"set '{setting}' of the task"))


def refuse_shots(context: TaskContext, task: str) -> None:
    """Raises `ProblemError` if examples are requested from a task without examples."""
    if context.shots:
        what = f"task '{task}' has no few-shot examples"
        raise ProblemError(Problem("no-shots", what, f"--shots {context.shots}", "leave it out"))


def sample_seed(seed: int, item: str, sample: int) -> int:
    """Of its own for each text that a task draws, so that no two prompts draw alike; 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {item} {sample}".encode()).digest()[:8], "big") >> 1
