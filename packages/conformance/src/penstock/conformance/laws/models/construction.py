# pyright: basic
"""What holds of a model that has just been built: its weights, the roles of its parameters, its config."""

from __future__ import annotations

import json
import random

import numpy
import torch

from penstock.conformance.law import NotApplicable, Subject, Violation, expect, law, laws_in
from penstock.conformance.laws.models.build import ARCHITECTURE, VOCABULARY, model_of
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.schema import schema_of


@law(ARCHITECTURE)
def equal_seeds_build_equal_models(subject: Subject) -> None:
    """Two models that are built after the same seed of torch have the same parameters, and another seed others.

    Draw weights from the global generator of torch, which a run seeds, and from nothing else.
    """
    first, second, third = (model_of(subject, seed=seed).state_dict() for seed in (0, 0, 1))
    other = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not other, f"after the same seed, these differ: {', '.join(other)}")
    expect(any(not torch.equal(first[name], third[name]) for name in first), "another seed gives the same weights")


SEEDS = (equal_seeds_build_equal_models,)


@law(ARCHITECTURE)
def building_draws_from_torch_alone(subject: Subject) -> None:
    """Building a model leaves the global generators of Python and numpy as they are.

    A run seeds that of torch: initial weights come from it, and from nothing else.
    """
    python, numpy_ = random.getstate(), numpy.random.get_state()
    model_of(subject)
    expect(random.getstate() == python, "building drew from Python's generator")
    same = all(numpy.array_equal(a, b) for a, b in zip(numpy.random.get_state(), numpy_, strict=True))
    expect(same, "building drew from numpy's generator")


@law(ARCHITECTURE)
def a_model_on_the_meta_device_takes_no_memory(subject: Subject) -> None:
    """Built under `torch.device("meta")`, a model has the same parameters and buffers, and all are on meta.

    Plans of runs count parameters so: name no device when tensors are made, and read no values from them.
    """
    real, planned = model_of(subject).state_dict(), model_of(subject, device="meta").state_dict()
    forms = [{name: (tuple(value.shape), value.dtype) for name, value in each.items()} for each in (real, planned)]
    other = sorted(name for name in forms[0].keys() | forms[1].keys() if forms[0].get(name) != forms[1].get(name))
    expect(not other, f"other on the meta device: {', '.join(other)}")
    heavy = [name for name, value in planned.items() if not value.is_meta]
    expect(not heavy, f"not on the meta device: {', '.join(heavy)}")


@law(ARCHITECTURE)
def every_preset_can_be_built(subject: Subject) -> None:
    """Each preset of the schema gives all sizes that the model needs, and they fit one another.

    Built on the meta device, where the largest takes no memory.
    """
    presets = schema_of(subject.entry).presets()
    if not presets:
        raise NotApplicable("the component has no presets")
    for name in presets:
        chosen = Subject(subject.entry, subject.registry, subject.folder, {"preset": name, "router": None})
        try:
            model_of(chosen, device="meta")
        except Exception as error:  # whatever the component raises
            raise Violation(f"preset '{name}' cannot be built: {error}") from error


@law(ARCHITECTURE)
def every_parameter_has_a_role(subject: Subject) -> None:
    """`parameter_roles` has exactly the names of `named_parameters`, each with a `ParameterRole`.

    Optimizers, quantizers and sharing choose by it; shared parameters have their first name alone.
    """
    model = model_of(subject)
    roles, names = model.parameter_roles(), {name for name, _ in model.named_parameters()}
    different = sorted(roles.keys() ^ names)
    expect(not different, f"without a role, or no parameter: {', '.join(different)}")
    wrong = [name for name, role in roles.items() if not isinstance(role, ParameterRole)]
    expect(not wrong, f"no roles: {', '.join(wrong)}")


ROLES = (every_parameter_has_a_role,)


@law(ARCHITECTURE, needs=ROLES)
def roles_fit_the_shapes(subject: Subject) -> None:
    """Matrices, embedding, head and routers are 2-D, stacked experts 3-D, norms and biases 1-D.

    Muon and quantizers trust the role: a vector among the matrices stops the run.
    """
    model = model_of(subject)
    dimensions = {ParameterRole.EXPERT: 3, ParameterRole.NORM: 1, ParameterRole.BIAS: 1}
    roles = model.parameter_roles()
    wrong = [
        f"'{name}' is a {roles[name]} of shape {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if parameter.ndim != dimensions.get(roles[name], 2)
    ]
    expect(not wrong, ", ".join(wrong))


@law(ARCHITECTURE, needs=ROLES)
def expert_stacks_have_a_matrix_for_each_expert(subject: Subject) -> None:
    """The first dimension of every parameter with the role of experts is the number of experts of a router.

    Active parameters are counted by it: experts that see every token are matrices.
    """
    model = model_of(subject)
    experts, roles = {router.experts for router in model.routers.values()}, model.parameter_roles()
    wrong = [
        f"'{name}' of shape {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if roles[name] == ParameterRole.EXPERT and parameter.shape[0] not in experts
    ]
    expect(not wrong, f"routers choose among {sorted(experts)} experts, and there is {', '.join(wrong)}")


@law(ARCHITECTURE)
def the_exported_config_is_json(subject: Subject) -> None:
    """`export_config()` is a mapping that strict JSON gives back as it is, with the size of the vocabulary.

    Convert paths, tuples and dtypes.
    """
    config = model_of(subject).export_config()
    expect(json.loads(json.dumps(config, allow_nan=False)) == config, "JSON gives back another config")
    expect(config.get("vocab_size") == VOCABULARY, f"vocab_size is {config.get('vocab_size')!r}")


STACKS = (expert_stacks_have_a_matrix_for_each_expert,)
CONFIG = (the_exported_config_is_json,)
LAWS = laws_in(globals())
