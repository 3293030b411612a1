"""What penstock-sweep offers: its command, and the rules that stop cells early."""

from penstock.hooks import Component, hookimpl

RULES = "penstock.sweep.rules"


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="sweep",
            target="penstock.sweep.command:sweep",
            summary="Train a grid of settings with the same seeds and compare the cells",
        ),
    ]


@hookimpl
def stop_rules() -> list[Component]:
    return [
        Component(
            kind="stop-rule",
            name="paired",
            target=f"{RULES}.paired:Paired",
            config=f"{RULES}.config:PairedConfig",
            summary="Stops a cell that is surely worse on the same documents",
            capabilities=frozenset({"any-tokenizer"}),
        ),
        Component(
            kind="stop-rule",
            name="perplexity",
            target=f"{RULES}.perplexity:Perplexity",
            config=f"{RULES}.config:PerplexityConfig",
            summary="Stops a cell whose perplexity stays a distance above the best",
        ),
        Component(
            kind="stop-rule",
            name="halving",
            target=f"{RULES}.halving:Halving",
            config=f"{RULES}.config:HalvingConfig",
            summary="Stops all but the best half at each rung",
            capabilities=frozenset({"any-tokenizer"}),
        ),
        Component(
            kind="stop-rule",
            name="asha",
            target=f"{RULES}.halving:Asha",
            config=f"{RULES}.config:AshaConfig",
            summary="Promotes a fourth of the cells at each power of four of the tokens",
            capabilities=frozenset({"any-tokenizer"}),
        ),
        Component(
            kind="stop-rule",
            name="none",
            target=f"{RULES}.none:NoRule",
            summary="Every cell goes on to the end",
            capabilities=frozenset({"any-tokenizer"}),
        ),
    ]
