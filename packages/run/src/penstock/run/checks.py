"""What a config must satisfy beyond its schemas: the list of checks that need no torch.

A schema checks its own fields, and how they fit together (`Schema.misfits`). What spans several sections or components
is a check of this list. `config validate` runs all of them, and so does everything that reads a config to train. What
only built objects can tell is in `penstock.train.checks`, which `train --dry-run` and every start run as well.

A check returns its problems, each with the dotted path of the value to change; all problems of all checks are reported
at once, with their lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from penstock.hooks.architecture import (
    SITES,
    ArchitectureSettings,
    SharingSettings,
    StorageSettings,
    architecture_settings,
    idle_quantizers,
    layer_routers,
    not_next_token,
    quantizer_of_roles,
    routers_without_gradient,
    sharing_misfits,
    tied_in_two_formats,
    unanswered_asks,
    untrained_by,
)
from penstock.hooks.config import ConfigDocument
from penstock.hooks.document import Location
from penstock.hooks.inputs import missing_inputs
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice

if TYPE_CHECKING:
    from penstock.run.config import RunConfig

# The task of a config that names none. Of an encoder it stands for the figures of its own objective.
OWN_TASK = "heldout"

# Capabilities: a balancer declares the first if it sets the bias of a router, a router the second if it has none.
SETS_BIAS, HAS_NO_BIAS = "selection-bias", "no-selection-bias"
# An engine declares it if it cuts parameters over ranks, an optimizer if it steps parameters that are cut.
SHARDED = "sharded"

# The capability of an engine that copies its state, so that training goes on while the copy is written.
ASYNCHRONOUS = "asynchronous"


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """`law` is what holds. Runs of earlier versions are read without the checks that they predate."""

    law: str
    problems: Callable[[RunConfig], Iterable[Problem]]
    earlier_runs: bool = False


def each_layer_has_one_router(config: RunConfig) -> Iterator[Problem]:
    settings = architecture_settings(config.model)
    try:
        layer_routers(settings, settings.expert_layers)
    except ProblemError as error:
        yield from error.problems


def routers_get_the_token_ids_they_ask_for(config: RunConfig) -> Iterable[Problem]:
    return unanswered_asks(config.model)


def every_token_has_an_embedding(config: RunConfig) -> Iterator[Problem]:
    embeddings = architecture_settings(config.model).vocab_size
    tokens = config.data.tokenizer.vocab_size
    if config.data.tokenizer.file is None and embeddings is not None and embeddings < tokens:
        what = f"the model has {embeddings} embeddings, but data.tokenizer.vocab_size is {tokens}"
        yield Problem("vocabulary-mismatch", what, "model.vocab_size", "leave it out, or raise it to that size")


def the_objective_trains_what_the_model_predicts(config: RunConfig) -> Iterator[Problem]:
    if problem := untrained_by(config.train.objective, config.model):
        yield problem


def every_task_asks_for_what_the_model_predicts(config: RunConfig) -> Iterator[Problem]:
    section: Any = getattr(config, "evaluate", None)  # of another distribution, which may not be installed
    for index, task in enumerate(section.tasks if section else ()):
        name = task.entry.component.name
        problem = not_next_token(config.model, f"the task '{name}'", f"evaluate.tasks.{index}")
        if problem and name != OWN_TASK:
            yield problem


def weight_sites_are_there_for_what_needs_them(config: RunConfig) -> Iterator[Problem]:
    architecture, settings = config.model.entry.component, architecture_settings(config.model)
    if SITES in architecture.capabilities:
        return
    needing = [f"model.sharing.{index}" for index, each in enumerate(settings.sharing) if _needs_sites(each)]
    if isinstance(settings.quantizer, StorageSettings):
        needing.append("model.quantizer")
    what = f"the setting needs weight sites, which '{architecture.name}' does not have"
    yield from (Problem("unsupported", what, path, "leave it out, or use glm-moe") for path in needing)


def _needs_sites(sharing: Choice) -> bool:
    """Contract 2 is applied to sites; from 3 on, settings tell."""
    if isinstance(sharing.settings, SharingSettings):
        return sharing.settings.needs_sites
    return sharing.entry.component.contract == 2


def sharing_strategies_fit_together(config: RunConfig) -> Iterable[Problem]:
    return sharing_misfits(architecture_settings(config.model))


def every_quantizer_finds_a_parameter(config: RunConfig) -> Iterable[Problem]:
    settings = architecture_settings(config.model)
    return idle_quantizers(settings, settings.absent_roles)


def one_tensor_has_one_format(config: RunConfig) -> Iterable[Problem]:
    return tied_in_two_formats(architecture_settings(config.model))


def sequences_fit_the_model(config: RunConfig) -> Iterator[Problem]:
    positions, length = architecture_settings(config.model).max_positions, config.data.sequence_length
    if positions is not None and length > positions:
        what = f"sequences have {length} tokens, but the model reads at most {positions} positions"
        fix = "shorten the sequences, or give the model more positions"
        yield Problem("bad-value", what, "data.sequence_length", fix)


def balancers_can_steer_every_router(config: RunConfig) -> Iterator[Problem]:
    """A router without a selection bias cannot be balanced by setting one, and the run would end at its first step."""
    setting = list(_setting_the_bias(config).values())
    for path, router in routers_of(config).items():
        if setting and HAS_NO_BIAS in router.entry.component.capabilities:
            what = f"the router '{router.entry.component.name}' has no selection bias for '{setting[0]}' to set"
            fix = "use a router with a bias, such as sigmoid-topk, or a balancing loss"
            yield Problem("router-without-bias", what, path, fix)


def one_balancer_sets_the_bias(config: RunConfig) -> Iterator[Problem]:
    """Each would undo or add to what the other has set."""
    setting = list(_setting_the_bias(config).items())
    for path, name in setting[1:]:
        what = f"'{setting[0][1]}' sets the selection bias of the routers already, and '{name}' would too"
        yield Problem("bad-value", what, path, "keep one of them")


def _setting_the_bias(config: RunConfig) -> dict[str, str]:
    """The names of the balancers that set the routers' selection bias, by their path in the config."""
    return {
        f"model.balance.{index}": choice.entry.component.name
        for index, choice in enumerate(architecture_settings(config.model).balance)
        if choice.entry.component.kind == "balancer" and SETS_BIAS in choice.entry.component.capabilities
    }


def what_is_cut_over_ranks_can_be_trained(config: RunConfig) -> Iterator[Problem]:
    engine, optimizer = config.train.engine.entry.component, config.train.optimizer.entry.component
    if SHARDED not in engine.capabilities:
        return
    cut = f"the engine '{engine.name}' cuts parameters over ranks"
    if SHARDED not in optimizer.capabilities:
        what = f"{cut}, and the optimizer '{optimizer.name}' steps whole ones alone"
        yield Problem("unsupported", what, "train.optimizer", "use muon or adamw, or train.engine=ddp")
    for index, choice in enumerate(architecture_settings(config.model).sharing):
        if isinstance(choice.settings, SharingSettings) and choice.settings.shares_while_training:
            what = f"{cut}, and '{choice.entry.component.name}' makes some of them one while training goes on"
            fix = "use train.engine=ddp, or a strategy whose plan is known before, such as cross-layer"
            yield Problem("unsupported", what, f"model.sharing.{index}", fix)


def routers_learn_from_the_text(config: RunConfig) -> Iterable[Problem]:
    return routers_without_gradient(config.model)


def routers_of(config: RunConfig) -> dict[str, Choice]:
    """The routers that some layer uses, by their path in the config."""
    settings = architecture_settings(config.model)
    chosen = [id(each) for each in layer_routers(settings, settings.expert_layers).values()]
    routers = {f"model.overrides.{at}.router": each.router for at, each in enumerate(settings.overrides)}
    if settings.router is not None:
        routers["model.router"] = settings.router
    return {path: each for path, each in routers.items() if id(each) in chosen}


def asynchronous_checkpoints_have_an_engine_that_copies(config: RunConfig) -> Iterator[Problem]:
    engine = config.train.engine.entry.component
    if config.train.checkpoint_async and ASYNCHRONOUS not in engine.capabilities:
        what = f"the engine '{engine.name}' cannot copy its state, so training would wait for each checkpoint"
        yield Problem("unsupported", what, "train.checkpoint_async", "set it to false, or use another engine")


def the_model_computes_in_the_dtype(config: RunConfig) -> Iterator[Problem]:
    for field, what in architecture_settings(config.model).misfits_in(config.train.dtype, config.train.device):
        yield Problem("bad-value", what, f"model.{field}")


def the_schedule_fits_into_the_run(config: RunConfig) -> Iterator[Problem]:
    misfits_of_run = getattr(config.train.schedule.settings, "misfits_of_run", None)
    for at, what in () if misfits_of_run is None else misfits_of_run(config.steps * config.tokens_per_step):
        yield Problem("bad-value", what, ".".join(("train", "schedule", *at)))


CHECKS = (
    ConfigCheck("each layer with experts has one router", each_layer_has_one_router, earlier_runs=True),
    ConfigCheck("routers get the token ids they ask for", routers_get_the_token_ids_they_ask_for, earlier_runs=True),
    ConfigCheck("every token has an embedding", every_token_has_an_embedding, earlier_runs=True),
    ConfigCheck("the objective trains what the model predicts", the_objective_trains_what_the_model_predicts),
    ConfigCheck("every task asks for what the model predicts", every_task_asks_for_what_the_model_predicts),
    ConfigCheck(
        "sharing and quantizers find weight sites", weight_sites_are_there_for_what_needs_them, earlier_runs=True
    ),
    ConfigCheck("sharing strategies fit the model and one another", sharing_strategies_fit_together),
    ConfigCheck("every quantizer finds a parameter", every_quantizer_finds_a_parameter),
    ConfigCheck("one tensor has one format", one_tensor_has_one_format),
    ConfigCheck("sequences are no longer than the model reads", sequences_fit_the_model),
    ConfigCheck("balancers can steer every router", balancers_can_steer_every_router),
    ConfigCheck("one balancer sets the selection bias", one_balancer_sets_the_bias),
    ConfigCheck("routers learn from the text", routers_learn_from_the_text),
    ConfigCheck(
        "asynchronous checkpoints have an engine that copies its state",
        asynchronous_checkpoints_have_an_engine_that_copies,
    ),
    ConfigCheck("the model computes in train.dtype", the_model_computes_in_the_dtype),
    ConfigCheck("what is cut over ranks can be trained", what_is_cut_over_ranks_can_be_trained),
    ConfigCheck("the schedule fits into the run", the_schedule_fits_into_the_run),
)


def require(config: RunConfig, document: ConfigDocument, checks: Iterable[ConfigCheck] = CHECKS) -> None:
    """Raises one `ProblemError` with the problems of all checks, each with its line; a check that rests on what another
    one has refused is silent."""
    architecture_settings(config.model)  # raises if the schema is not one of architectures
    problems: list[Problem] = []
    for check in checks:
        try:
            problems += check.problems(config)
        except ProblemError:
            if not problems:
                raise
    if problems:
        raise ProblemError([located(problem, document) for problem in problems])


def found_despite_holes(
    config: RunConfig, document: ConfigDocument, checks: Iterable[ConfigCheck] = CHECKS
) -> Iterator[Problem]:
    """What the checks find in a config that lacks some fields; a check that needs one of these is silent."""
    for check in checks:
        try:
            yield from [located(problem, document) for problem in check.problems(config)]
        except (AttributeError, ProblemError):
            continue


def located(problem: Problem, document: ConfigDocument) -> Problem:
    """The problem with the line of its dotted path, if that is a path into the config."""
    parts = (problem.where or "model").split(".")
    if parts[0] not in document.value or not re.fullmatch(r"[\w.-]+", problem.where or "model"):
        return problem
    return replace(problem, where=document.where(tuple(int(part) if part.isdigit() else part for part in parts)))


def missing_files(config: RunConfig) -> list[tuple[Location, Problem]]:
    """A problem for each file that the config names and this machine does not have, with the location of its setting.

    This is no check of a config: the machine that checks it need not have the data. `config validate` tells what is
    missing, and `train --dry-run`, which stands for the machine that will run it, refuses it.
    """
    return list(missing_inputs(config))


def missing_files_of_other_commands(config: RunConfig) -> list[Problem]:
    """Those of sections that training does not read; it need not end for them."""
    return [problem for at, problem in missing_files(config) if at[0] not in ("data", "model", "train")]


def export_notes(config: RunConfig) -> list[str]:
    """What stands in the way of exporting the trained model, as notes: training does not need an export."""
    settings = architecture_settings(config.model)
    notes = [f"the run cannot be exported to transformers: {problem}" for problem in settings.export_obstacles()]
    return notes + [
        f"the run cannot be exported with --format penstock: {problem}" for problem in packing_obstacles(config)
    ]


def packing_obstacles(config: RunConfig) -> list[Problem]:
    """What stands in the way of an artifact of the trained model."""
    return [*_frozen_bases(architecture_settings(config.model)), *_endless_warmups(config)]


def _frozen_bases(settings: ArchitectureSettings) -> Iterator[Problem]:
    """A problem for a model that is not all in its run."""
    if isinstance(getattr(settings, "base", None), Choice):
        what = "the model learns beside a frozen base, which its config only names"
        yield Problem("not-exportable", what, "model.base", "export it with --format hf, which merges the two")


def _endless_warmups(config: RunConfig) -> list[Problem]:
    """A problem for each quantizer whose `warmup` ends after training, so that its weights cannot be packed."""
    chosen = dict(quantizer_of_roles(architecture_settings(config.model)).values())
    warmups = {path: getattr(choice.settings, "warmup", None) for path, choice in chosen.items()}
    return [
        Problem(
            "bad-value",
            f"weights reach their format after {warmup.tokens:,} tokens, and training has {config.train.tokens:,}",
            f"{path}.warmup",
            "shorten it, or train for longer",
        )
        for path, warmup in warmups.items()
        if warmup is not None and warmup.tokens > config.train.tokens
    ]
