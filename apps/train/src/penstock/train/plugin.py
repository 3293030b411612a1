"""What penstock-train offers: its commands, trackers and observers."""

from penstock.hooks import Component, hookimpl


@hookimpl
def commands() -> list[Component]:
    return [
        Component(
            kind="command",
            name="prepare",
            target="penstock.train.commands:prepare",
            summary="Turn a config's corpus into a tokenizer and token shards",
        ),
        Component(
            kind="command",
            name="train",
            target="penstock.train.commands:train",
            summary="Train the model that a config describes",
        ),
    ]


@hookimpl
def trackers() -> list[Component]:
    return [
        Component(
            kind="tracker",
            name="jsonl",
            target="penstock.train.trackers:JsonlTracker",
            summary="metrics.jsonl in the run directory, one JSON object a step",
            capabilities=frozenset({"local", "durable", "exact-resume"}),
        ),
        Component(
            kind="tracker",
            name="tensorboard",
            target="penstock.train.trackers:TensorBoardTracker",
            summary="TensorBoard event files in the run directory",
            capabilities=frozenset({"local", "durable"}),
        ),
    ]


@hookimpl
def observers() -> list[Component]:
    return [
        Component(
            kind="observer",
            name="load-trace",
            target="penstock.train.observers:LoadTraceObserver",
            config="penstock.train.config:LoadTraceConfig",
            summary="trace/train.npz: the expert load of every step",
            capabilities=frozenset({"exact-resume"}),
        ),
    ]
