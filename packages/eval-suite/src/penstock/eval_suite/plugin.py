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
            target="penstock.eval_suite.wikitext:WikiText2",
            config="penstock.eval_suite.config:WikiText2Config",
            summary="Bits per byte and perplexity on WikiText-2.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1609.07843",
        ),
        Component(
            kind="task",
            name="wikitext103",
            target="penstock.eval_suite.wikitext:WikiText103",
            config="penstock.eval_suite.config:WikiText103Config",
            summary="Bits per byte and perplexity on WikiText-103.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1609.07843",
        ),
        Component(
            kind="task",
            name="c4",
            target="penstock.eval_suite.c4:C4",
            config="penstock.eval_suite.config:C4Config",
            summary="Bits per byte and token perplexity on C4.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1910.10683",
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
        Component(
            kind="task",
            name="gsm8k",
            target="penstock.eval_suite.gsm8k:Gsm8k",
            config="penstock.eval_suite.config:Gsm8kConfig",
            summary="The share of GSM8K's word problems whose number is right.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/2110.14168",
        ),
        Component(
            kind="task",
            name="quality",
            target="penstock.eval_suite.quality:Quality",
            config="penstock.eval_suite.config:QualityConfig",
            summary="How varied, repetitive, long and likely the texts are that a model writes after prompts.",
            capabilities=frozenset({"every-token"}),
            contract=2,
            reference="https://arxiv.org/abs/1908.04319",
        ),
    ]
