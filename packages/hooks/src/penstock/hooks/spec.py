"""The hooks that a plugin module may implement, one a kind. Each returns a list of `Component`s.

Every hook takes no arguments: a plugin says what it has, and the config decides what runs. The docstring of a hook is
the contract of its kind: how the component's target is called (its schema's fields are passed as keyword arguments,
together with the context named here) and what it must return. The types are in `penstock.hooks.contracts`.
"""

from __future__ import annotations

import pluggy

from penstock.hooks.component import Component

hookspec = pluggy.HookspecMarker("penstock")
hookimpl = pluggy.HookimplMarker("penstock")

# pyright: reportReturnType=false
# (a hookspec has a docstring and no body)


@hookspec
def architectures() -> list[Component]:
    """Models of text. Called as `target(**schema, make_router=..., quantizer=...)`, returns a `LanguageModel`, or what
    the property `predicts` of its schema says: a `MaskedLanguageModel` or a `TaskModel`.

    `make_router(layer, hidden_size=..., experts=...)` returns the `Router` of one layer; `quantizer` is a `Quantizer`
    or None. The schema extends `penstock.hooks.architecture.ArchitectureSettings`, of whose fields `vocab_size` and
    `eos_token_id` are among the arguments. The model of contract 2 reads `Inputs`, that of contract 1 a Tensor.

    >>> Component(kind="architecture", name="glm-moe", target="penstock.moe_core.glm.model:GlmMoe",
    ...           config="penstock.moe_core.glm.config:GlmMoeConfig", summary="GLM-4.x mixture of experts").kind
    'architecture'
    """


@hookspec
def routers() -> list[Component]:
    """Choosers of experts. Called as `target(**schema, hidden_size=D, experts=E)`, returns a `Router`.

    A router with an attribute `asks` (see `AskingRouter`) is called with what it names beside hidden states.
    A router that is the top k of the sigmoid or the softmax of one matrix [E, D], `weight`, in evaluation says so:
    `score_function` is "sigmoid" or "softmax" on the router and, as a class variable, on its schema. Such a model can
    be exported. None says that it is something else.

    >>> Component(kind="router", name="my-router", target="my_package.router:MyRouter",
    ...           config="my_package.config:MyRouterConfig", summary="Top-k of a cosine score").kind
    'router'
    """


@hookspec
def balance_losses() -> list[Component]:
    """Differentiable penalties on imbalance. Called as `target(**schema)`, returns a `BalanceLoss`.

    >>> Component(kind="balance-loss", name="switch-loss", target="penstock.routers.losses:SwitchLoss",
    ...           summary="Switch Transformer load-balancing loss").kind
    'balance-loss'
    """


@hookspec
def balancers() -> list[Component]:
    """Rules that change a router after an optimizer step, outside the gradient. Called as `target(**schema)`,
    returns a `Balancer`.

    >>> Component(kind="balancer", name="loss-free", target="penstock.routers.balancers:LossFree",
    ...           summary="Bias by the sign of the load error").kind
    'balancer'
    """


@hookspec
def quantizers() -> list[Component]:
    """Weight formats simulated in training. Called as `target(**schema)`, returns a `SiteQuantizer`, which makes a
    module for each weight (contract 2), or a `Quantizer`, which is one function (contract 1).

    >>> Component(kind="quantizer", name="ternary", target="penstock.quant158.ternary:TernaryQuantizer",
    ...           summary="Absmean 1.58-bit weights").kind
    'quantizer'
    """


@hookspec
def sharing() -> list[Component]:
    """Strategies that let several parameters be one tensor. Called as `target(**schema)`, returns a `SharingStrategy`,
    which plans groups of names (contract 1), a `SiteSharing`, which also adds parameters (contract 2), or a
    `ModelSharing`, which sees the whole model and may change its modules (contract 3).

    >>> Component(kind="sharing", name="tied-embeddings", target="penstock.sharing.tied:TiedEmbeddings",
    ...           summary="Input and output embedding are one matrix").kind
    'sharing'
    """


@hookspec
def optimizers() -> list[Component]:
    """Optimizers. Called as `target(**schema, parameters={role: {name: tensor}})`, returns a `torch.optim.Optimizer`
    whose groups' `lr` a schedule scales. From contract 2 on also with `layouts={name: ParameterLayout}`, of the tensors
    that are not one matrix each.

    >>> Component(kind="optimizer", name="muon", target="penstock.optim_muon.muon:MuonAdamW",
    ...           summary="Muon for matrices, AdamW for the rest").kind
    'optimizer'
    """


@hookspec
def schedules() -> list[Component]:
    """Learning-rate schedules. Called as `target(**schema)`, returns a `Schedule`: progress in [0, 1] to a factor. From
    contract 2 on also with `tokens=`, those of the run in whole steps. One that begins alike in runs of all lengths is
    a `TrunkSchedule`.

    >>> Component(kind="schedule", name="cosine", target="penstock.optim_muon.schedules:Cosine",
    ...           summary="Warm-up, then cosine").kind
    'schedule'
    """


@hookspec
def objectives() -> list[Component]:
    """What training minimises. Called as `target(**schema)`, returns an `Objective`, whose `prepare` gets the run's
    `TrainingData`. What is wrong with files that the settings name is raised when it is built, before any work. The
    capabilities say what the models that it trains predict (`Prediction`): by default the next token.

    >>> Component(kind="objective", name="next-token", target="penstock.train.objectives.next_token:NextToken",
    ...           summary="Every token from those before it").kind
    'objective'
    """


@hookspec
def engines() -> list[Component]:
    """Holders of the model in training, alone or as ranks. Called as `target(**schema, device=torch.device)`, returns
    an `Engine`. An engine of several ranks joins the others then, and raises a problem where it was not started as one
    of them. Contract 2: in the first, this kind was what is `server` now.

    >>> Component(kind="engine", name="local", target="penstock.train.engines.local:LocalEngine",
    ...           summary="One process, one device", contract=2).kind
    'engine'
    """


@hookspec
def corpora() -> list[Component]:
    """Sources of text. Called as `target(**schema)`, returns a `Corpus`.

    >>> Component(kind="corpus", name="text", target="penstock.data_prep.corpora:TextCorpus",
    ...           summary="Text files, folders and globs").kind
    'corpus'
    """


@hookspec
def filters() -> list[Component]:
    """Stages between corpus and tokenizer that drop or change documents. Called as `target(**schema)`, returns a
    `DocumentFilter`.

    >>> Component(kind="filter", name="exact-dedup", target="penstock.data_prep.dedup:ExactDedup",
    ...           summary="Drops documents that were seen before").kind
    'filter'
    """


@hookspec
def cleaners() -> list[Component]:
    """Stages of cleaning, which remove documents or change their text and say why. Called as `target(**schema)`,
    returns a `Judge`, which decides of each document alone, or a `Comparer`, which compares documents.

    >>> Component(kind="cleaner", name="urls", target="penstock.data_prep.cleaning.urls:FirstOfUrl",
    ...           config="penstock.data_prep.cleaning.config:UrlsConfig", summary="Keeps the first of each URL").kind
    'cleaner'
    """


@hookspec
def tasks() -> list[Component]:
    """Evaluations of a language model: what to ask it, and what its answers are worth. Called as `target(**schema)`,
    returns a `Task` where the component says `contract=2`, and a `TaskV1` where it says 1 or nothing.

    >>> Component(kind="task", name="wikitext2", target="penstock.eval_suite.wikitext:WikiText2",
    ...           summary="Bits per byte and perplexity on WikiText-2", contract=2).kind
    'task'
    """


@hookspec
def topologies() -> list[Component]:
    """Networks for the simulator. Called as `target(**schema)`, returns a `Topology`.

    >>> Component(kind="topology", name="two-level", target="penstock.netsim.topology:TwoLevel",
    ...           summary="NVLink in a node, a network between nodes").kind
    'topology'
    """


@hookspec
def placements() -> list[Component]:
    """Assignments of experts to GPUs. Called as `target(**schema)`, returns a `Placement`.

    >>> Component(kind="placement", name="contiguous", target="penstock.netsim.placement:Contiguous",
    ...           summary="Experts in order, the same number on every GPU").kind
    'placement'
    """


@hookspec
def exporters() -> list[Component]:
    """Writers of a model for other software. Called as `target(**schema)`, returns a `RunExporter`, which is told of
    the run (contract 2), or an `Exporter`, which is given the model alone (contract 1).

    >>> Component(kind="exporter", name="hf", target="penstock.serve.huggingface:HuggingFaceExporter",
    ...           summary="config.json and safetensors for transformers, vLLM and SGLang").kind
    'exporter'
    """


@hookspec
def servers() -> list[Component]:
    """Servers of a model over an OpenAI-compatible HTTP interface, each in a process of its own. Called as
    `target(**schema)`, returns a `Server`. Contract 2: in the first, a server was told a folder and a port alone.

    >>> Component(kind="server", name="vllm", target="penstock.serve.servers.vllm:VllmServer",
    ...           summary="vLLM, in its own environment", contract=2).kind
    'server'
    """


@hookspec
def launchers() -> list[Component]:
    """Runners of many independent jobs, in processes here or on other machines. Called as
    `target(**schema, folder=Path)`, returns a `Launcher`. `folder` is its own, for logs.

    >>> Component(kind="launcher", name="local", target="penstock.run.launchers.local:LocalLauncher",
    ...           config="penstock.run.launchers.config:LocalConfig", summary="Processes on this machine").kind
    'launcher'
    """


@hookspec
def stop_rules() -> list[Component]:
    """Rules that stop cells of a sweep before the others. Called as `target(**schema)`, returns a `StopRule`, which
    decides from the results of the living cells at one rung, and keeps nothing between two calls. One that compares
    cells of different tokenizers has the capability `any-tokenizer`.

    >>> Component(kind="stop-rule", name="halving", target="penstock.sweep.rules.halving:Halving",
    ...           config="penstock.sweep.rules.config:HalvingConfig", summary="Stops the worse half").kind
    'stop-rule'
    """


@hookspec
def trackers() -> list[Component]:
    """Sinks for metrics. Called as `target(**schema, run_directory=Path)`, returns a `Tracker`.

    >>> Component(kind="tracker", name="jsonl", target="penstock.train.trackers:JsonlTracker",
    ...           summary="metrics.jsonl in the run directory").kind
    'tracker'
    """


@hookspec
def observers() -> list[Component]:
    """Watchers of the training life cycle. Called as `target(**schema, run_directory=Path, header={...})`, returns an
    `Observer`. `header` is what a routing trace says about the run's model and data (k, hidden_size, hashes).

    >>> Component(kind="observer", name="load-trace", target="penstock.train.observers:LoadTraceObserver",
    ...           summary="Writes the expert load of every step to trace/train.npz").kind
    'observer'
    """


@hookspec
def sections() -> list[Component]:
    """Sections of a run's config, under the component's name. `target` and `config` both name its schema, a
    `penstock.hooks.config.Schema` of which every field has a default; a command reads it as `config.NAME`.

    >>> Component(kind="section", name="simulate", target="penstock.simulate.config:SimulateSettings",
    ...           config="penstock.simulate.config:SimulateSettings", summary="The network to predict").kind
    'section'
    """


@hookspec
def commands() -> list[Component]:
    """Subcommands of `penstock`. `target` is a `click.Command`; `summary` is shown by `penstock --help` without
    importing it.

    >>> Component(kind="command", name="train", target="penstock.train.commands:train",
    ...           summary="Train a model from a config").kind
    'command'
    """
