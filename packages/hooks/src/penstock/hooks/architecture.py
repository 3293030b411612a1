"""What the config of every architecture has in common: the components inside the model, its vocabulary, its limits.

An architecture's schema extends `ArchitectureSettings`, so `model.router` and its kin read the same for all of them.
The application builds these components and hands them over (`make_router`, `quantizer`); the other fields are the
keyword arguments of the architecture's target, `vocab_size` and `eos_token_id` among them.
Per-layer composition is collect, check, apply: two owners of one layer are an error that names both.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from penstock.hooks.contracts import ParameterRole, Prediction
from penstock.hooks.first_contract import reading_tokens
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, broken
from penstock.hooks.schema import OfKind, Schema

RouterChoice: TypeAlias = Annotated[Choice, OfKind("router")]
BalanceChoice: TypeAlias = Annotated[Choice, OfKind("balance-loss", "balancer")]
SharingChoice: TypeAlias = Annotated[Choice, OfKind("sharing")]
QuantizerChoice: TypeAlias = Annotated[Choice, OfKind("quantizer")]


# Tensor libraries fail with an overflow, not with a name, where sizes exceed 64 bits.
LARGEST_SIZE = 2**31 - 1
# Layers are listed one by one before anything is built; a thousand are more than published models have.
LARGEST_DEPTH = 10_000

SITES = "weight-sites"  # the capability of an architecture whose models are `Sited`

# What a quantizer of contract 2 declares for each role that it serves: `capabilities`, so that a config is checked
# without building it.
SERVES = {
    ParameterRole.MATRIX: "matrices",
    ParameterRole.EXPERT: "experts",
    ParameterRole.EMBEDDING: "embeddings",
    ParameterRole.HEAD: "heads",
}


_PREDICTS_TOKENS = (Prediction.NEXT_TOKEN, Prediction.MASKED)


class StorageSettings(Schema):
    """A low-precision format for each role; null stores the role as it is."""

    weights: QuantizerChoice | None = None
    """Format of matrices and experts, in place of naming both."""
    matrix: QuantizerChoice | None = None
    """Format of the matrices of attention and dense MLPs."""
    expert: QuantizerChoice | None = None
    """Format of routed experts."""
    embedding: QuantizerChoice | None = None
    """Format of the embedding."""
    head: QuantizerChoice | None = None
    """Format of the head."""

    def by_role(self) -> dict[ParameterRole, Choice]:
        """The quantizer of each role that has one."""
        chosen = {
            ParameterRole.MATRIX: self.matrix or self.weights,
            ParameterRole.EXPERT: self.expert or self.weights,
            ParameterRole.EMBEDDING: self.embedding,
            ParameterRole.HEAD: self.head,
        }
        return {role: choice for role, choice in chosen.items() if choice is not None}

    @field_validator("weights", "matrix", "expert", "embedding", "head")
    @classmethod
    def _serves_the_role(cls, choice: Choice | None, info: ValidationInfo) -> Choice | None:
        if choice is None or choice.entry.component.contract < 2:  # an older one says so when it is built
            return choice
        roles = (ParameterRole.MATRIX, ParameterRole.EXPERT) if info.field_name == "weights" else (info.field_name,)
        served = [
            role.value for role, capability in SERVES.items() if capability in choice.entry.component.capabilities
        ]
        if refused := [str(role) for role in roles if role not in served]:
            name = choice.entry.component.name
            raise ValueError(f"'{name}' does not serve the role {' and '.join(refused)}; it serves {', '.join(served)}")
        return choice

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.weights and (self.matrix or self.expert):
            yield ("weights",), "`weights` stands for matrix and expert: name those two, or `weights` alone"
        if not self._holes and not self.by_role():  # a role that is unknown is a quantizer too
            yield (), "no role has a quantizer: name one, or write `quantizer: null`"


def _form_of_storage(value: object) -> str:
    """One quantizer is a name, or a mapping with `use`; any other mapping is one by role."""
    by_role = isinstance(value, StorageSettings) or (isinstance(value, dict) and "use" not in value)
    return "by role" if by_role else "one"


StorageChoice: TypeAlias = Annotated[
    Annotated[Choice, OfKind("quantizer"), Tag("one")] | Annotated[StorageSettings, Tag("by role")],
    Discriminator(_form_of_storage),
]


class LayerOverride(Schema):
    """Other components for some layers."""

    match: str
    """Which layers, as a pattern over names such as `layers.12.mlp`: `layers.1[0-9].mlp`."""
    router: RouterChoice
    """The router of these layers."""


class ArchitectureSettings(Schema):
    """Base of the config schemas of architectures."""

    router: RouterChoice | None = None
    """Chooses the experts of each token. Needed where the model has mixture-of-experts layers."""
    balance: list[BalanceChoice] = []
    """Losses and balancers that keep the expert load even, applied together."""
    sharing: list[SharingChoice] = []
    """Strategies that let several parameters be one tensor."""
    quantizer: StorageChoice | None = None
    """The low-precision weight format to train for: a quantizer for the roles that it serves, or one for each of
    `matrix`, `expert` (both: `weights`), `embedding` and `head`. Null trains plain weights."""
    overrides: list[LayerOverride] = []
    """Other components for some layers; a layer may be claimed once."""
    vocab_size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)
    """Rows of the embedding; null takes the tokenizer's."""
    eos_token_id: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] | None = None
    """The token or tokens that end a text; null takes the tokenizer's."""

    @property
    def expert_layers(self) -> Sequence[int]:
        """Indices of the layers for which a run makes routers; none by default."""
        return ()

    @property
    def absent_roles(self) -> frozenset[ParameterRole]:
        """Roles that no parameter of the model has, as far as settings tell."""
        return frozenset()

    @property
    def predicts(self) -> Prediction:
        """What the model predicts, and so which objectives train it; next tokens by default."""
        return Prediction.NEXT_TOKEN

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model can read or is promised to; None: no limit is known."""
        return None

    @classmethod
    def planned(cls, fields: Mapping[str, Any], vocabulary: int | None) -> Mapping[str, Any]:
        """Replaces `plan` by sizes, `vocab_size` included, and returns all fields of the model. Only a schema that has
        a field `plan` is asked. `vocabulary` is the size of the tokenizer; None if the tokenizer is in a file. Raises
        `ProblemError`, with paths such as `model.plan`, if no sizes meet the plan."""
        return fields

    @classmethod
    def placeholder_sizes(cls) -> Mapping[str, Any]:
        """Sizes that stand in where no sizes meet a plan, so that the rest of the config can be checked."""
        return {}

    def misfits_in(self, dtype: str, device: str) -> Iterator[tuple[str, str]]:
        """Settings with which the model cannot compute in a dtype (fp32 or bf16) on a device, as in `train`: for each
        the field, and what is wrong."""
        yield from ()

    def of_given_weights(self) -> Mapping[str, Any]:
        """What these settings are, where they differ, for a model whose weights come from a file that holds them all:
        nothing is read from where its training began."""
        return {}

    def export_obstacles(self) -> list[Problem]:
        """Why a run with these settings cannot be exported to transformers, each with what to change; empty where
        nothing is known to stand in the way. Builds no model: what only tensors tell is found in the export."""
        return []


def quantizer_of_roles(settings: ArchitectureSettings) -> dict[ParameterRole, tuple[str, Choice]]:
    """The quantizer of each role that has one and is not absent, with its path in the config."""
    chosen = _named_quantizers(settings)
    return {
        role: (path, choice)
        for path, (choice, roles) in chosen.items()
        for role in ParameterRole
        if role in roles - settings.absent_roles
    }


def idle_quantizers(settings: ArchitectureSettings, absent: frozenset[ParameterRole]) -> list[Problem]:
    """A problem for each quantizer that finds no parameter, because the model has none of its roles."""
    idle = {path: choice for path, (choice, roles) in _named_quantizers(settings).items() if roles and roles <= absent}
    return [
        Problem("bad-value", f"'{choice.entry.component.name}' finds no parameter of its role", path, "remove it")
        for path, choice in idle.items()
    ]


def _named_quantizers(settings: ArchitectureSettings) -> dict[str, tuple[Choice, frozenset[ParameterRole]]]:
    """Each quantizer with the roles that it is to serve, by its path in the config."""
    storage = settings.quantizer
    if storage is None:
        return {}
    if isinstance(storage, Choice):
        return {"model.quantizer": (storage, _served_roles(storage))}
    both = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})
    named = {"weights": both, **{role.value: frozenset({role}) for role in SERVES}}
    chosen: dict[str, Choice | None] = {field: getattr(storage, field) for field in named}
    return {
        f"model.quantizer.{field}": (choice, named[field]) for field, choice in chosen.items() if choice is not None
    }


def _served_roles(choice: Choice) -> frozenset[ParameterRole]:
    """Roles in the settings of a quantizer, or else those that it declares to serve; contract 1 declares none."""
    own = getattr(choice.settings, "roles", None)
    declared = choice.entry.component.capabilities
    return frozenset(own or (role for role, capability in SERVES.items() if capability in declared))


# Names of the longest sequence in a config.json; the type of model decides which one it has.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def promised_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that a config.json promises, or None if it promises none.

    >>> promised_positions({"n_positions": 1024})
    1024
    """
    return next((config[name] for name in POSITIONS if isinstance(config.get(name), int)), None)


class RouterSettings(Schema):
    """Base of the config schemas of routers that know which layers they fit."""

    def misfits_among(self, experts: int) -> Iterator[tuple[str, str]]:
        """Settings that do not fit a layer of so many experts: for each the field, and what is wrong."""
        yield from ()


class SharingSettings(Schema):
    """Base of the config schemas of sharing strategies that say what they need and share before a model is built."""

    @property
    def needs_sites(self) -> bool:
        """Whether these settings need an architecture with weight sites."""
        return False

    def claims(self) -> Mapping[str, frozenset[int] | None]:
        """Parts that the strategy makes one tensor across layers, such as `q` or `embedding`, with the numbers of the
        layers; None: all of them. A part of a layer that two strategies claim is refused."""
        return {}

    @property
    def ties_embeddings(self) -> bool:
        """Whether embedding and head become one tensor, which is then stored in one format."""
        return False

    @property
    def shares_while_training(self) -> bool:
        """Whether parameters become one in the course of training, and not before it. An engine that cuts parameters
        over ranks cannot follow."""
        return False

    def misfits_among(self, layers: int | None, width: int | None) -> Iterator[tuple[str, str]]:
        """Settings that do not fit a model of so many layers and this width (None: unknown): for each the field, and
        what is wrong."""
        yield from ()


def _ties_by_itself(settings: ArchitectureSettings) -> bool:
    """Whether embedding and head of the model are one tensor without a strategy, as far as settings tell."""
    return bool(getattr(settings, "tie_word_embeddings", False)) and settings.predicts in _PREDICTS_TOKENS


def tied_in_two_formats(settings: ArchitectureSettings) -> Iterator[Problem]:
    """A problem if embedding and head are one tensor, as far as settings tell, and have two formats."""
    ties = ["model.tie_word_embeddings"] if _ties_by_itself(settings) else []
    ties += [
        f"model.sharing.{index}"
        for index, choice in enumerate(settings.sharing)
        if isinstance(choice.settings, SharingSettings) and choice.settings.ties_embeddings
    ]
    formats = quantizer_of_roles(settings)
    embedding, head = (formats.get(role, ("", None)) for role in (ParameterRole.EMBEDDING, ParameterRole.HEAD))
    if ties and embedding[1] != head[1]:
        what = f"embedding and head are one tensor ({ties[0]}), and their roles have two formats"
        fix = "give both the same quantizer, or neither, or do not tie them"
        yield Problem("bad-value", what, embedding[0] or head[0], fix)


def sharing_misfits(settings: ArchitectureSettings) -> Iterator[Problem]:
    """What is wrong with the sharing strategies of an architecture, as far as settings tell: values that do not fit
    its sizes, and parts that two strategies claim."""
    claimed: dict[str, list[tuple[int, frozenset[int] | None]]] = {}
    for index, choice in enumerate(settings.sharing):
        path, own = f"model.sharing.{index}", choice.settings
        if not isinstance(own, SharingSettings):
            continue
        sizes = (getattr(settings, name, None) for name in ("num_hidden_layers", "hidden_size"))
        for field, what in own.misfits_among(*sizes):
            yield Problem("bad-value", what, f"{path}.{field}")
        if own.ties_embeddings and _ties_by_itself(settings):
            what = "embedding and head of the model are one tensor already (model.tie_word_embeddings)"
            yield Problem("cannot-tie", what, path, "leave the strategy out")
        elif own.ties_embeddings and settings.predicts not in _PREDICTS_TOKENS:
            what = f"a model that predicts {settings.predicts.text} has no head of the vocabulary to tie"
            yield Problem("cannot-tie", what, path, "leave the strategy out")
        conflicts: dict[int, list[str]] = {}
        for part, layers in own.claims().items():
            for other, theirs in claimed.get(part, ()):
                if layers is None or theirs is None or layers & theirs:
                    conflicts.setdefault(other, []).append(part)
            claimed.setdefault(part, []).append((index, layers))
        for other, parts in conflicts.items():
            both = (f"model.sharing.{at} ({settings.sharing[at].entry.component.name})" for at in (other, index))
            what = f"{', '.join(parts)} are shared by {' and by '.join(both)}"
            yield Problem("shared-twice", what, path, "let one strategy share them")


def router_misfits(settings: ArchitectureSettings, experts: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What does not fit layers of so many experts in the routers of an architecture's settings, as `Schema.misfits`."""
    routers: dict[tuple[str | int, ...], Choice | None] = {("router",): settings.router}
    routers |= {("overrides", at, "router"): override.router for at, override in enumerate(settings.overrides)}
    for path, choice in routers.items():
        own = None if choice is None else choice.settings
        k = getattr(own, "k", None)
        if isinstance(k, int) and k > experts:
            yield (*path, "k"), f"the router chooses k = {k} experts per token, but a layer has {experts}"
        elif isinstance(own, RouterSettings):
            yield from (((*path, field), what) for field, what in own.misfits_among(experts))


# The fields that the application builds; the others are arguments of the target.
BUILT = frozenset({"router", "balance", "sharing", "quantizer", "overrides"})


def architecture_settings(choice: Choice) -> ArchitectureSettings:
    """The settings of a chosen architecture; raises `ProblemError` where its schema is not one of architectures."""
    if isinstance(choice.settings, ArchitectureSettings):
        return choice.settings
    schema = "no schema" if choice.settings is None else f"the schema {type(choice.settings).__name__}"
    error = TypeError(f"it has {schema}, which does not extend penstock.hooks.architecture.ArchitectureSettings")
    raise ProblemError(broken(choice.entry, error), ExitCode.PLUGIN)


def build_architecture(choice: Choice, **context: Any) -> Any:
    """Calls an architecture's target with the settings that are its own, and the context, which overrides them.

    A model of contract 1 is called with tokens alone (see `first_contract`). Raises `ProblemError` for a target that
    does not take an argument.
    """
    own = {name: value for name, value in choice.arguments().items() if name not in BUILT}
    target, arguments = choice.entry.imported(choice.entry.component.target), {**own, **context}
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ProblemError(broken(choice.entry, error), ExitCode.PLUGIN) from error
    model = target(**arguments)
    return model if choice.entry.component.contract > 1 else reading_tokens(model)


def require_next_token(choice: Choice, asked: str, where: str) -> None:
    """Raises `ProblemError` for a model that does not predict the next token, as `asked` needs it to."""
    if problem := not_next_token(choice, asked, where):
        raise ProblemError(problem)


def not_next_token(choice: Choice, asked: str, where: str) -> Problem | None:
    """The problem of a model that does not predict the next token, as `asked` needs it to."""
    predicted = architecture_settings(choice).predicts
    if predicted == Prediction.NEXT_TOKEN:
        return None
    what = f"the model '{choice.entry.component.name}' predicts {predicted.text}; {asked} needs the next token"
    return Problem("wrong-task", what, where, "use a causal model, such as glm-moe")


def untrained_by(objective: Choice, model: Choice) -> Problem | None:
    """The problem of an objective that trains another prediction than the model's; None if they fit."""
    trained = [each for each in Prediction if each in objective.entry.component.capabilities]
    trained, predicted = trained or [Prediction.NEXT_TOKEN], architecture_settings(model).predicts
    if predicted in trained:
        return None
    given, name = (each.entry.component.name for each in (objective, model))
    what = f"'{given}' trains models that predict {trained[0].text}, but '{name}' predicts {predicted.text}"
    fix = f"use an objective for it, such as {predicted}, or a model that predicts {trained[0].text}"
    return Problem("wrong-task", what, "train.objective", fix)


def unanswered_asks(choice: Choice, path: str = "model") -> list[Problem]:
    """A problem for each router that asks for token ids inside an architecture that has none to give it."""
    settings = architecture_settings(choice)
    inner = getattr(settings, "base", None)
    problems = unanswered_asks(inner, f"{path}.base") if isinstance(inner, Choice) else []
    if "token-ids" in choice.entry.component.capabilities:
        return problems
    routers = {f"{path}.overrides.{at}.router": override.router for at, override in enumerate(settings.overrides)}
    if settings.router is not None:
        routers[f"{path}.router"] = settings.router
    name = choice.entry.component.name
    return problems + [
        Problem(
            "unsupported",
            f"the router '{router.entry.component.name}' asks for token ids, and {name} does not give routers any",
            where,
            "take another router, or an architecture with the capability token-ids, such as glm-moe",
        )
        for where, router in routers.items()
        if "token-ids" in router.entry.component.capabilities
    ]


def routers_without_gradient(choice: Choice) -> list[Problem]:
    """A problem for each trained router whose weights are constant: one expert per token, of normalised weight. The
    text then has no gradient for the router, which learns to balance the load and nothing else."""
    settings = architecture_settings(choice)
    routers = {f"model.overrides.{at}.router": override.router for at, override in enumerate(settings.overrides)}
    if settings.router is not None:
        routers["model.router"] = settings.router
    used = list(layer_routers(settings, settings.expert_layers).values())
    return [
        Problem(
            "untrained-router",
            f"with k = 1 and normalize, every weight of '{router.entry.component.name}' is the same, so it learns "
            "nothing from the text",
            where,
            "write `normalize: false`, or k of 2 or more; `use: frozen` is a router that is not trained",
        )
        for where, router in routers.items()
        if any(router is each for each in used) and _weights_are_constant(router)
    ]


def _weights_are_constant(router: Choice) -> bool:
    k, normalize = (getattr(router.settings, name, None) for name in ("k", "normalize"))
    return "trainable" in router.entry.component.capabilities and k == 1 and normalize is True


def layer_routers(settings: ArchitectureSettings, layers: Iterable[int]) -> dict[int, Choice]:
    """The router of each mixture-of-experts layer; raises `ProblemError` with every conflict and every pattern that
    matches nothing."""
    names = {layer: f"layers.{layer}.mlp" for layer in layers}
    claims: dict[int, list[int]] = {layer: [] for layer in names}
    problems: list[Problem] = []
    for position, override in enumerate(settings.overrides):
        matched = [layer for layer, name in names.items() if fnmatch.fnmatchcase(name, override.match)]
        if not matched:
            known = f"layers with experts are {', '.join(names.values())}" if names else "the model has no experts"
            where = f"model.overrides.{position}"
            problems.append(Problem("no-match", f"'{override.match}' matches no layer", where, known))
        for layer in matched:
            claims[layer].append(position)
    for layer, owners in claims.items():
        if len(owners) > 1:
            both = " and ".join(f"model.overrides.{i} ('{settings.overrides[i].match}')" for i in owners)
            what = f"the router of {names[layer]} is set by {both}"
            problems.append(Problem("override-conflict", what, "model.overrides", "narrow their patterns"))
    default = settings.router
    if names and default is None:
        example = "write for example `router: {use: sigmoid-topk, k: 2}`"
        problems.append(Problem("missing-field", "the model has experts and no router", "model.router", example))
    if problems:
        raise ProblemError(problems)
    chosen = {layer: settings.overrides[owners[0]].router for layer, owners in claims.items() if owners}
    return chosen if default is None else {layer: chosen.get(layer, default) for layer in names}
