"""What tasks share when they ask: continuations in tokens, and the refusal of what a task does not take."""

from __future__ import annotations

from penstock.hooks.contracts import Likelihood, TaskContext, Tokenizer
from penstock.hooks.problems import Problem, ProblemError


def continuation(tokenizer: Tokenizer, context: str, text: str) -> Likelihood:
    """How likely is `text` after `context`? In tokens as lm-evaluation-harness cuts them: spaces at the end of the
    context go to the text, both are encoded as one, and what is beyond the tokens of the context alone is the text.

    An empty context is the end-of-text token; raises `ProblemError` where the tokenizer has none.
    """
    kept = context.rstrip()
    text = context[len(kept) :] + text
    if not kept:
        return Likelihood([tokenizer.end_of_text], tokenizer.encode(text))
    before = tokenizer.encode(kept)
    return Likelihood(before, tokenizer.encode(kept + text)[len(before) :])


def refuse_shots(context: TaskContext, task: str) -> None:
    """Raises `ProblemError` where examples are asked of a task that shows none."""
    if context.shots:
        what = f"task '{task}' shows no examples, and is asked for {context.shots}"
        raise ProblemError(Problem("no-shots", what, "--shots", "leave it out"))
