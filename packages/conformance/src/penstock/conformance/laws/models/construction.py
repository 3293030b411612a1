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
    """Two models built from the same torch seed have the same parameters; another seed gives different ones.

    Draw weights only from torch's global generator, which the run seeds.
    """
    first, second, third = (model_of(subject, seed=seed).state_dict() for seed in (0, 0, 1))
    other = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not other, f"with the same seed, these differ: {', '.join(other)}")
    expect(any(not torch.equal(first[name], third[name]) for name in first), "another seed gives the same weights")


SEEDS = (equal_seeds_build_equal_models,)


@law(ARCHITECTURE)
def building_draws_from_torch_alone(subject: Subject) -> None:
    """Building a model does not draw from the global generators of Python and numpy.

    Draw initial weights only from torch's generator, which the run seeds.
    """
    python, numpy_ = random.getstate(), numpy.random.get_state()
    model_of(subject)
    expect(random.getstate() == python, "building drew from Python's generator")
    same = all(numpy.array_equal(a, b) for a, b in zip(numpy.random.get_state(), numpy_, strict=True))
    expect(same, "building drew from numpy's generator")


@law(ARCHITECTURE)
def a_model_on_the_meta_device_takes_no_memory(subject: Subject) -> None:
    """A model built under `torch.device("meta")` has the same parameters and buffers, all on meta.

    Planning a run counts parameters this way: do not name a device when creating tensors, and do not read their values.
    """
    real, planned = model_of(subject).state_dict(), model_of(subject, device="meta").state_dict()
    forms = [{name: (tuple(value.shape), value.dtype) for name, value in each.items()} for each in (real, planned)]
    other = sorted(name for name in forms[0].keys() | forms[1].keys() if forms[0].get(name) != forms[1].get(name))
    expect(not other, f"different on the meta device: {', '.join(other)}")
    heavy = [name for name, value in planned.items() if not value.is_meta]
    expect(not heavy, f"not on the meta device: {', '.join(heavy)}")


@law(ARCHITECTURE)
def every_preset_can_be_built(subject: Subject) -> None:
    """Each preset of the schema gives every size the model needs, and the sizes are consistent.

    Presets are built on the meta device, so even the largest takes no memory.
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
    """`parameter_roles` covers exactly the names of `named_parameters`, each with a `ParameterRole`.

    Optimizers, quantizers and sharing choose by role; list a shared parameter only under its first name.
    """
    model = model_of(subject)
    roles, names = model.parameter_roles(), {name for name, _ in model.named_parameters()}
    different = sorted(roles.keys() ^ names)
    expect(not different, f"without a role, or not a parameter: {', '.join(different)}")
    wrong = [name for name, role in roles.items() if not isinstance(role, ParameterRole)]
    expect(not wrong, f"not roles: {', '.join(wrong)}")


ROLES = (every_parameter_has_a_role,)


@law(ARCHITECTURE, needs=ROLES)
def roles_fit_the_shapes(subject: Subject) -> None:
    """Matrices, embedding, head and routers are 2-D, stacked experts 3-D, norms and biases 1-D.

    Muon and quantizers rely on the role: a vector with the role of a matrix stops the run.
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
    """Every parameter with the expert role has a router's number of experts as its first dimension.

    Active parameters are counted from it. Give shared experts, which see every token, the matrix role.
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
    """`export_config()` is a mapping that survives strict JSON unchanged, with the vocabulary size.

    Convert paths, tuples and dtypes to JSON types.
    """
    config = model_of(subject).export_config()
    expect(json.loads(json.dumps(config, allow_nan=False)) == config, "the config changes in a JSON round trip")
    expect(config.get("vocab_size") == VOCABULARY, f"vocab_size is {config.get('vocab_size')!r}")


STACKS = (expert_stacks_have_a_matrix_for_each_expert,)
CONFIG = (the_exported_config_is_json,)
LAWS = laws_in(globals())
