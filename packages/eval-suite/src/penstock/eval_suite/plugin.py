"""Components of this package."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def tasks() -> list[Component]:
    return [
        Component(
            kind="task",
            name="heldout",
            target="penstock.eval_suite.tasks:Heldout",
            config="penstock.eval_suite.config:HeldoutConfig",
            summary="Bits per byte and perplexity on the run's held-out tokens.",
            capabilities=frozenset({"every-token"}),
            contract=2,
        ),
        Component(
            kind="task",
            name="text",
            target="penstock.eval_suite.text:Text",
            config="penstock.eval_suite.config:TextConfig",
            summary="Bits per byte of any files, by document.",
            capabilities=frozenset({"every-token"}),
            contract=2,
        ),
        Component(
            kind="task",
            name="wikitext2",
            target="penstock.eval_suite.tasks:WikiText2",
            config="penstock.eval_suite.config:WikiText2Config",
            summary="Bits per byte and perplexity on WikiText-2.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1609.07843",
        ),
        Component(
            kind="task",
            name="lambada",
            target="penstock.eval_suite.lambada:Lambada",
            config="penstock.eval_suite.config:LambadaConfig",
            summary="Accuracy and perplexity on the last words of LAMBADA, OpenAI's variant.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1606.06031",
        ),
        Component(
            kind="task",
            name="mmlu",
            target="penstock.eval_suite.mmlu:Mmlu",
            config="penstock.eval_suite.config:MmluConfig",
            summary="Accuracy on the questions of MMLU, and the probability of the right choice.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/2009.03300",
        ),
        Component(
            kind="task",
            name="choices",
            target="penstock.eval_suite.choices:Choices",
            config="penstock.eval_suite.config:ChoicesConfig",
            summary="Accuracy on multiple-choice questions of any file, and the probability of the right choice.",
            capabilities=frozenset({"every-token"}),
            contract=2,
        ),
    ]
