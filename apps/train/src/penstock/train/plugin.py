"""What penstock-train offers: its commands, engines, objectives, trackers and observers."""

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
        Component(
            kind="command",
            name="plan",
            target="penstock.train.plan_command:plan",
            summary="Find the shape of a model that meets a budget of parameters",
        ),
    ]


@hookimpl
def objectives() -> list[Component]:
    return [
        Component(
            kind="objective",
            name="next-token",
            target="penstock.train.objectives.next_token:NextToken",
            summary="Predict each token of the prepared text from those before it",
        ),
        Component(
            kind="objective",
            name="masked-next-token",
            target="penstock.train.objectives.masked:MaskedNextToken",
            config="penstock.train.config:MaskedNextTokenConfig",
            summary="Predict the counted tokens of JSON lines: completions of prompts, or tokens chosen by a mask",
        ),
        Component(
            kind="objective",
            name="masked-lm",
            target="penstock.train.objectives.masked_lm:MaskedTokens",
            config="penstock.train.config:MaskedTokensConfig",
            summary="Predict hidden tokens of the prepared text from both sides, with an encoder",
            capabilities=frozenset({"masked-lm"}),
            reference="BERT, arXiv 1810.04805",
        ),
        Component(
            kind="objective",
            name="classification",
            target="penstock.train.objectives.classification:Classification",
            config="penstock.train.config:ClassificationConfig",
            summary="A label for each text or pair of texts, from .tsv files or JSON lines",
            capabilities=frozenset({"classification"}),
        ),
        Component(
            kind="objective",
            name="tags",
            target="penstock.train.objectives.tags:Tags",
            config="penstock.train.config:TagsConfig",
            summary="A label for each word, such as entities, from CoNLL columns or JSON lines",
            capabilities=frozenset({"tags"}),
        ),
        Component(
            kind="objective",
            name="spans",
            target="penstock.train.objectives.spans:Spans",
            config="penstock.train.config:SpansConfig",
            summary="The part of a text that answers a question, from SQuAD's JSON",
            capabilities=frozenset({"spans"}),
            reference="SQuAD, arXiv 1606.05250",
        ),
    ]


@hookimpl
def engines() -> list[Component]:
    return [
        Component(
            kind="engine",
            name="local",
            target="penstock.train.engines.local:LocalEngine",
            summary="One process, one device",
            capabilities=frozenset({"asynchronous"}),
            contract=2,
        ),
        Component(
            kind="engine",
            name="ddp",
            target="penstock.train.engines.ddp:DataParallelEngine",
            config="penstock.train.config:DataParallelConfig",
            summary="Data parallelism: each rank holds the whole model and takes a share of the batch",
            capabilities=frozenset({"asynchronous", "bit-equal", "several-ranks"}),
            contract=2,
        ),
        Component(
            kind="engine",
            name="fsdp2",
            target="penstock.train.engines.fsdp2:ShardedEngine",
            config="penstock.train.config:ShardedConfig",
            summary="Sharded data parallelism: each rank holds a share of parameters, gradients and optimizer state",
            capabilities=frozenset({"asynchronous", "bit-equal", "several-ranks", "sharded"}),
            contract=2,
            reference="FSDP2, torch.distributed.fsdp.fully_shard",
        ),
    ]


@hookimpl
def trackers() -> list[Component]:
    return [
        Component(
            kind="tracker",
            name="jsonl",
            target="penstock.train.trackers:JsonlTracker",
            summary="metrics.jsonl in the run directory, one JSON object per step",
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
