"""What is checked before a run starts, beyond the config: the list of checks that need what the config builds.

`train --dry-run` runs all of them. A start leaves out what it does next anyway, which is reading the corpus. What
`config validate` can tell without torch is in `penstock.run.checks`, and was checked when the config was read.

Every check raises `ProblemError`; the problems of all checks are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from penstock.cli.output import human_bytes
from penstock.hooks.architecture import architecture_settings, idle_quantizers
from penstock.hooks.config import ConfigDocument
from penstock.hooks.contracts import Corpus, Objective, ParameterRole, Prediction, ScoredObjective
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import broken
from penstock.hooks.schema import Schema
from penstock.run import checks
from penstock.run.config import RunConfig
from penstock.run.plugin_lock import require_importable
from penstock.train.compiled import require_compiler
from penstock.train.compose import (
    Composition,
    compose_model,
    compose_optimizer,
    compose_schedule,
    pick_device,
    planned_vocabulary,
)
from penstock.train.data import content_settings, data_folder
from penstock.train.layers import layers_of
from penstock.train.memory import available_memory, optimizer_state
from penstock.train.rendezvous import started_by_launcher
from penstock.train.staging import bytes_to_copy
from penstock.train.weights import checkpoint_state, sites_of

FIRST_DOCUMENTS = 8
# What a run reads of a model, apart from calling it: `penstock.hooks.contracts.Model`, and what its objective calls.
PARTS_OF_A_MODEL = ("vocabulary_size", "routers", "parameter_roles", "export_config", "export_state")
PARTS_THAT_PREDICT = {
    Prediction.NEXT_TOKEN: ("next_token_loss",),
    Prediction.MASKED: ("masked_token_loss",),
    **dict.fromkeys((Prediction.CLASSIFICATION, Prediction.TAGS, Prediction.SPANS), ("labels", "task_logits")),
}


@dataclass(frozen=True)
class Planned:
    """A run before it starts. `runs` is the folder of all runs and of prepared data."""

    config: RunConfig
    runs: Path

    @cached_property
    def composition(self) -> Composition:
        """The model on the meta device, with everything that is put into it."""
        return compose_model(self.config, planned_vocabulary(self.config), "meta")

    @cached_property
    def copied_bytes(self) -> int:
        """What this machine keeps of copies that checkpoints are written from beside training; 0 without them."""
        if not self.config.train.checkpoint_async:
            return 0
        composition = self.composition
        optimizer = compose_optimizer(self.config, composition.model, composition.shared.roles())
        state = [checkpoint_state(composition.model), composition.added_state(), optimizer_state(optimizer)]
        return round(bytes_to_copy(state) * self._share_of_this_machine())

    def _share_of_this_machine(self) -> float:
        """Of the state of a run: one rank has all of it, or each rank a part. The launcher says how many are here."""
        if "sharded" not in self.config.train.engine.entry.component.capabilities:
            return 1.0
        ranks, _ = started_by_launcher()
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or ranks)  # srun and mpirun do not set it
        return here / ranks

    @cached_property
    def objective(self) -> Objective:
        """The objective, which has read its files."""
        return self.config.train.objective.build()


def every_component_can_be_imported(planned: Planned) -> None:
    require_importable(planned.config.data, planned.config.model, planned.config.train)


def the_device_can_be_used(planned: Planned) -> None:
    pick_device(planned.config.train.device)


def the_corpus_has_documents(planned: Planned) -> None:
    """Reads the first documents, unless they are prepared already."""
    data = planned.config.data
    filters = [choice.build() for choice in data.filters]
    corpus = data.corpus.build()
    if _is_prepared(planned, corpus):
        return
    documents = iter(corpus.documents())
    for each in filters:
        documents = each(documents)
    if not list(islice(documents, FIRST_DOCUMENTS)):
        what = "the corpus has no documents, or its filters leave none"
        raise ProblemError(Problem("empty-corpus", what, "data.corpus", "check its paths and patterns"))


def _idle_quantizers(planned: Planned) -> list[Problem]:
    composition, settings = planned.composition, architecture_settings(planned.config.model)
    sited = {site.role for site in sites_of(composition.model).values()}
    present = sited or set(composition.roles().values())
    return idle_quantizers(settings, frozenset(ParameterRole) - present)


def _is_prepared(planned: Planned, corpus: Corpus) -> bool:
    try:
        return data_folder(planned.runs, planned.config, corpus, content_settings(planned.config)).exists()
    except ProblemError:  # of a tokenizer that cannot be read, which the model needs too and names
        return False


def the_objective_reads_its_files(planned: Planned) -> None:
    _ = planned.objective


def the_head_has_the_labels_of_the_objective(planned: Planned) -> None:
    objective, outputs = planned.objective, getattr(planned.composition.model, "labels", None)
    if isinstance(objective, ScoredObjective) and outputs is not None and outputs != len(objective.labels):
        shown = ", ".join(objective.labels[:8]) + (", ..." if len(objective.labels) > 8 else "")
        what = f"the head has {outputs} labels, but the objective has {len(objective.labels)} ({shown})"
        fix = f"set it to {len(objective.labels)}"
        raise ProblemError(Problem("bad-value", what, "model.head.labels", fix))


def the_files_of_training_are_there(planned: Planned) -> None:
    """Those of observers and trackers; the checks around this one read those of the data, the model and the
    objective."""
    missing = checks.missing_files(planned.config)
    _refuse([problem for at, problem in missing if at[0] == "train" and at[1] != "objective"])


def observers_and_trackers_have_what_they_need(planned: Planned) -> None:
    """Checks on rank 0, which alone has them, that for example a port is free."""
    if started_by_launcher()[1]:
        return
    train = planned.config.train
    _refuse(
        [
            replace(problem, where=".".join(map(str, ("train", section, number, *path))))
            for section, choices in (("trackers", train.trackers), ("observers", train.observers))
            for number, choice in enumerate(choices)
            if isinstance(choice.settings, Schema)
            for path, problem in choice.settings.unavailable()
        ]
    )


def the_files_of_other_commands_are_there(planned: Planned) -> None:
    """Those of sections that `train` does not read, such as the texts of `evaluate`."""
    _refuse(checks.missing_files_of_other_commands(planned.config))


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ProblemError(problems)


def the_model_fits_together(planned: Planned) -> None:
    """Builds the model, its routers, quantizers, which each find a parameter, and shared parameters, and the optimizer
    over them."""
    model, choice = planned.composition.model, planned.config.model
    parts = (*PARTS_OF_A_MODEL, *PARTS_THAT_PREDICT[architecture_settings(choice).predicts])
    missing = [name for name in parts if not hasattr(model, name)]
    if missing:
        error = TypeError(f"its model {type(model).__name__} has no {', '.join(missing)}")
        raise ProblemError(broken(choice.entry, error), ExitCode.PLUGIN)
    if problems := _idle_quantizers(planned):
        raise ProblemError(problems)
    compose_optimizer(planned.config, model, planned.composition.shared.roles())
    compose_schedule(planned.config)


def the_layers_can_be_checkpointed_and_compiled(planned: Planned) -> None:
    train = planned.config.train
    layers_of(planned.composition.model, train)
    if train.compile_layers:
        require_compiler(pick_device(train.device))


def the_copies_of_checkpoints_fit_into_memory(planned: Planned) -> None:
    """The copy takes memory of the CPU. Training on the CPU takes at least as much again."""
    copied, available = planned.copied_bytes, available_memory()
    trained = copied if pick_device(planned.config.train.device).type == "cpu" else 0
    if copied and available is not None and copied + trained > available:
        copy, more, there = map(human_bytes, (copied, trained, available))
        what = (
            f"writing checkpoints beside training takes {copy} for a copy of the model and the optimizer state, "
            f"training takes more than {more}, and {there} are available"
        )
        fix = "set it to false, or train where there is more memory"
        raise ProblemError(Problem("too-little-memory", what, "train.checkpoint_async", fix))


@dataclass(frozen=True, slots=True)
class BuiltCheck:
    """`law` is what holds. `at_start` says whether a start runs the check too."""

    law: str
    check: Callable[[Planned], None]
    at_start: bool = True


CHECKS = (
    BuiltCheck("the device can be used", the_device_can_be_used),
    BuiltCheck("the model, its parts and the optimizer fit together", the_model_fits_together),
    BuiltCheck("the layers can be checkpointed and compiled", the_layers_can_be_checkpointed_and_compiled),
    BuiltCheck("the copies of checkpoints fit into memory", the_copies_of_checkpoints_fit_into_memory),
    BuiltCheck("the objective reads its files", the_objective_reads_its_files),
    BuiltCheck("the head has the labels of the objective", the_head_has_the_labels_of_the_objective),
    BuiltCheck("the corpus has documents", the_corpus_has_documents, at_start=False),
    BuiltCheck("the files of observers and trackers are there", the_files_of_training_are_there),
    BuiltCheck("observers and trackers have what they need", observers_and_trackers_have_what_they_need),
    BuiltCheck("the files of other commands are there", the_files_of_other_commands_are_there, at_start=False),
)


def require(planned: Planned, document: ConfigDocument, which: Iterable[BuiltCheck] = CHECKS) -> None:
    """Raises one `ProblemError` with the problems of all checks, each once: two checks may build the same part. Code
    that cannot be imported stops the others."""
    every_component_can_be_imported(planned)
    problems: list[Problem] = []
    exit_code = ExitCode.DONE
    for each in which:
        try:
            each.check(planned)
        except ProblemError as error:
            problems += [checks.located(problem, document) for problem in error.problems]
            exit_code = max(exit_code, error.exit_code)
    if problems:
        raise ProblemError(list(dict.fromkeys(problems)), exit_code)


def require_for_start(planned: Planned, document: ConfigDocument) -> None:
    require(planned, document, [each for each in CHECKS if each.at_start])
