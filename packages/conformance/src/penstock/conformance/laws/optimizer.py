# pyright: basic
"""Laws of optimizers: parameters by role to a `torch.optim.Optimizer` whose groups' `lr` a schedule scales."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.parts import random_state
from penstock.conformance.ranks import told_by_ranks
from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.hooks.registry import Choice

OPTIMIZER = "optimizer"
SHAPES: dict[ParameterRole, dict[str, tuple[int, ...]]] = {
    ParameterRole.MATRIX: {"wide": (8, 16), "tall": (16, 8), "square": (8, 8)},
    ParameterRole.EXPERT: {"experts.up": (4, 16, 8), "experts.down": (4, 8, 16)},
    ParameterRole.EMBEDDING: {"embedding": (32, 8)},
    ParameterRole.HEAD: {"head": (32, 8)},
    ParameterRole.ROUTER: {"gate": (4, 8)},
    ParameterRole.NORM: {"norm": (8,)},
    ParameterRole.BIAS: {"bias": (8,)},
}

LAYOUTS = {"experts.up": ParameterLayout((("gate", 8), ("up", 8)))}

Parameters = dict[ParameterRole, dict[str, nn.Parameter]]


@law(OPTIMIZER)
def it_is_an_optimizer_of_torch(subject: Subject) -> None:
    """The object is a `torch.optim.Optimizer`.

    Checkpoints and schedules rely on its `param_groups` and `state_dict`: subclass it.
    """
    optimizer = _optimizer(subject, _parameters())
    expect(isinstance(optimizer, torch.optim.Optimizer), f"it is a {type(optimizer).__name__}")


TORCH = (it_is_an_optimizer_of_torch,)


@law(OPTIMIZER, needs=TORCH)
def every_parameter_is_in_one_group(subject: Subject) -> None:
    """Every parameter of every role is in exactly one group.

    Give roles without a special rule a default one, such as AdamW.
    """
    parameters = _parameters()
    held = _held(_optimizer(subject, parameters))
    for name, parameter in _named(parameters).items():
        count = sum(each is parameter for each in held)
        expect(count == 1, f"'{name}' is in {count} groups")


@law(OPTIMIZER, needs=(every_parameter_is_in_one_group,))
def a_shared_parameter_is_stepped_once(subject: Subject) -> None:
    """A tensor that appears under two roles is in one group, once.

    Tied embeddings are such a tensor: remember which tensors you have seen.
    """
    parameters = _parameters()
    shared = parameters[ParameterRole.EMBEDDING]["embedding"]
    parameters[ParameterRole.HEAD]["head"] = shared
    count = sum(each is shared for each in _held(_optimizer(subject, parameters)))
    expect(count == 1, f"a tensor that is embedding and head is held {count} times")


@law(OPTIMIZER, needs=TORCH)
def roles_without_parameters_are_left_out(subject: Subject) -> None:
    """Roles without parameters are accepted: a dense model has no experts.

    Do not make empty groups, and do not assume that a role has a first parameter.
    """
    parameters: Any = {role: {} for role in ParameterRole}
    parameters[ParameterRole.MATRIX] = _parameters()[ParameterRole.MATRIX]
    optimizer = _optimizer(subject, parameters)
    _fill_gradients(parameters)
    optimizer.step()


@law(OPTIMIZER, needs=TORCH)
def groups_carry_the_rate_they_start_from(subject: Subject) -> None:
    """Every group has `lr` and `initial_lr`, which are equal before the first step.

    A schedule sets `lr = initial_lr * factor` at every step: put both into each group.
    """
    for group in _optimizer(subject, _parameters()).param_groups:
        found = (group.get("lr"), group.get("initial_lr"))
        expect(isinstance(found[0], float) and found[0] == found[1], f"lr and initial_lr of a group are {found}")


RATES = (groups_carry_the_rate_they_start_from,)


@law(OPTIMIZER, needs=(every_parameter_is_in_one_group,))
def every_parameter_with_a_gradient_is_stepped(subject: Subject) -> None:
    """One step changes every parameter that has a gradient, of every role and shape, and leaves it finite.

    Stacked experts [E, out, in] and vectors are parameters too.
    """
    parameters = _parameters()
    before = _values(parameters)
    _step(_optimizer(subject, parameters), parameters)
    for name, parameter in _named(parameters).items():
        expect(parameter.isfinite().all(), f"'{name}' is not finite after a step")
        expect(not torch.equal(parameter, before[name]), f"'{name}' was not stepped")


STEPS = (every_parameter_with_a_gradient_is_stepped,)


@law(OPTIMIZER, needs=STEPS)
def a_parameter_without_gradient_stays(subject: Subject) -> None:
    """A parameter whose gradient is None does not change, not even by weight decay.

    Skip it: a frozen expert, or a head that a step does not use, has no gradient.
    """
    parameters = _parameters()
    before = _values(parameters)
    optimizer = _optimizer(subject, parameters)
    _fill_gradients(parameters)
    idle = ["tall", "experts.down", "head", "bias"]
    for name in idle:
        _named(parameters)[name].grad = None
    optimizer.step()
    moved = [name for name in idle if not torch.equal(_named(parameters)[name], before[name])]
    expect(not moved, f"without gradient, these moved: {', '.join(moved)}")


@law(OPTIMIZER, needs=(*STEPS, *RATES))
def a_smaller_rate_takes_a_smaller_step(subject: Subject) -> None:
    """Halving the `lr` of the groups halves the first step.

    Read `group["lr"]` at every step: the constructor's rate is only the initial one.
    """
    whole, half = (_moves(subject, factor) for factor in (1.0, 0.5))
    for name, move in whole.items():
        ratio = (half[name].norm() / move.norm()).item()
        expect(0.49 < ratio < 0.51, f"half the rate moves '{name}' {ratio:.3f} times as far")


@law(OPTIMIZER, needs=(*STEPS, *RATES))
def a_rate_of_zero_moves_nothing(subject: Subject) -> None:
    """With `lr` 0 no parameter changes.

    The first warm-up step has rate 0: scale decay and corrections by the rate too.
    """
    moved = [name for name, move in _moves(subject, 0.0).items() if move.any()]
    expect(not moved, f"at rate 0, these moved: {', '.join(moved)}")


@law(OPTIMIZER, needs=STEPS)
def equal_gradients_give_equal_steps(subject: Subject) -> None:
    """Two runs with the same gradients end with the same bits, without drawing from global generators.

    Draw noise from the optimizer's own generator, seeded by a setting.
    """
    before = random_state()
    runs = [_values(_run(subject, _parameters())) for _ in range(2)]
    expect(random_state() == before, "a global random generator was drawn from")
    other = [name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])]
    expect(not other, f"two equal runs differ in {', '.join(other)}")


@law(OPTIMIZER, needs=(equal_gradients_give_equal_steps, *RATES))
def a_saved_state_continues_bit_for_bit(subject: Subject) -> None:
    """An optimizer whose state was saved to a file and loaded continues bit for bit.

    Keep everything a step depends on in `self.state` or the groups, as tensors and plain values: checkpoints are read
    with `weights_only=True`.
    """
    kept, resumed = _parameters(), _parameters()
    optimizer = _optimizer(subject, kept)
    for seed in range(3):
        _step(optimizer, kept, seed)
    file = subject.folder / "optimizer.pt"
    torch.save(optimizer.state_dict(), file)
    with torch.no_grad():
        for name, parameter in _named(resumed).items():
            parameter.copy_(_named(kept)[name])
    second = _optimizer(subject, resumed)
    second.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        _step(optimizer, kept, seed)
        _step(second, resumed, seed)
    other = [name for name, value in _named(kept).items() if not torch.equal(value, _named(resumed)[name])]
    expect(not other, f"resumed, these are others: {', '.join(other)}")


@law(OPTIMIZER, needs=STEPS)
def gradients_stay(subject: Subject) -> None:
    """A step does not change gradients.

    Observers read gradients after the step: use copies or separate buffers for momentum and clipping.
    """
    parameters = _parameters()
    optimizer = _optimizer(subject, parameters)
    _fill_gradients(parameters)
    before = {name: _gradient(parameter).clone() for name, parameter in _named(parameters).items()}
    optimizer.step()
    other = [name for name, value in _named(parameters).items() if not torch.equal(_gradient(value), before[name])]
    expect(not other, f"the step changed the gradients of {', '.join(other)}")


@law(OPTIMIZER, needs=STEPS)
def gradients_of_zero_leave_finite_parameters(subject: Subject) -> None:
    """Steps with gradients of zero leave every parameter finite.

    An expert without tokens has such gradients: add an epsilon when dividing by a norm.
    """
    parameters = _run(subject, _parameters(), scale=0.0)
    wrong = [name for name, parameter in _named(parameters).items() if not parameter.isfinite().all()]
    expect(not wrong, f"not finite after gradients of zero: {', '.join(wrong)}")


@law(OPTIMIZER, needs=STEPS)
def huge_gradients_leave_finite_parameters(subject: Subject) -> None:
    """Steps with gradients of 1e15 leave every parameter finite.

    The squares still fit in fp32: look for fourth powers and products of unscaled gradients.
    """
    parameters = _run(subject, _parameters(), scale=1e15)
    wrong = [name for name, parameter in _named(parameters).items() if not parameter.isfinite().all()]
    expect(not wrong, f"not finite after gradients of 1e15: {', '.join(wrong)}")


@law(OPTIMIZER, needs=STEPS)
def a_loss_goes_down(subject: Subject) -> None:
    """Thirty steps bring parameters of every role closer to the minimum of their loss.

    Check the sign of the step, and whether the default rate is far too high.
    """
    parameters, goals = _parameters(), _values(_parameters(seed=1))
    optimizer = _optimizer(subject, parameters)
    before = {name: _distance(parameter, goals[name]).item() for name, parameter in _named(parameters).items()}
    for _ in range(30):
        optimizer.zero_grad()
        torch.stack([_distance(value, goals[name]) for name, value in _named(parameters).items()]).sum().backward()
        optimizer.step()
    for name, parameter in _named(parameters).items():
        after = _distance(parameter, goals[name]).item()
        expect(after < before[name], f"the loss of '{name}' went from {before[name]:.4f} to {after:.4f}")


@law(OPTIMIZER, needs=(equal_gradients_give_equal_steps,))
def the_order_of_parameters_does_not_matter(subject: Subject) -> None:
    """Parameters given in another order take the same steps.

    Keep state by parameter, not by position.
    """
    parameters, turned = _parameters(), _parameters()
    backwards = {role: dict(reversed(named.items())) for role, named in reversed(turned.items())}
    _run(subject, parameters)
    optimizer = _optimizer(subject, backwards)
    for seed in range(3):
        _step(optimizer, turned, seed)
    for name, parameter in _named(parameters).items():
        same = torch.allclose(parameter, _named(turned)[name], rtol=1e-4, atol=1e-6)
        expect(same, f"given in another order, '{name}' takes other steps")


@law(OPTIMIZER, needs=(gradients_of_zero_leave_finite_parameters,))
def decay_spares_norms_and_biases(subject: Subject) -> None:
    """With a weight decay of 0.5 and gradients of zero, norms and biases do not change.

    Their scale is meaningful: leave their roles out of the decay.
    """
    parameters = _decayed(subject)
    before = _values(_parameters())
    moved = [name for name in ("norm", "bias") if not torch.equal(_named(parameters)[name], before[name])]
    expect(not moved, f"decay moved {', '.join(moved)}")


@law(OPTIMIZER, needs=(gradients_of_zero_leave_finite_parameters,))
def decay_shrinks_matrices(subject: Subject) -> None:
    """With a weight decay of 0.5 and gradients of zero, matrices and experts shrink and keep their direction.

    Multiply by `1 - lr * weight_decay`, and check that it reaches stacked experts.
    """
    parameters = _decayed(subject)
    before = _values(_parameters())
    for name in (*SHAPES[ParameterRole.MATRIX], *SHAPES[ParameterRole.EXPERT]):
        ratio = _named(parameters)[name].detach() / before[name]
        shrunk = ratio.min() > 0 and ratio.max() < 1
        expect(shrunk, f"'{name}' is {ratio.min():.4f} to {ratio.max():.4f} times what it was")


@law(OPTIMIZER, needs=STEPS, capability="bf16-parameters")
def parameters_in_bf16_are_stepped(subject: Subject) -> None:
    """bf16 parameters with bf16 gradients are stepped, and stay bf16 and finite.

    Give buffers the dtype that the arithmetic needs, and cast the update to bf16.
    """
    parameters = _parameters(dtype=torch.bfloat16)
    before = _values(parameters)
    _run(subject, parameters)
    for name, parameter in _named(parameters).items():
        expect(parameter.dtype == torch.bfloat16, f"'{name}' is {parameter.dtype}")
        expect(parameter.isfinite().all(), f"'{name}' is not finite")
        expect(not torch.equal(parameter, before[name]), f"'{name}' was not stepped")


@law(OPTIMIZER, needs=(equal_gradients_give_equal_steps,), capability="sharded")
def rows_of_parameters_are_stepped_as_whole_ones(subject: Subject) -> None:
    """Two ranks, each with some rows of every parameter, step them to every bit of one process. Asked only of those
    that declare it.

    Parameters, gradients and state are then DTensors, `Shard(0)`, of which a rank may have no row. Where a step needs a
    whole tensor, such as a norm or an orthogonal matrix, exchange what it needs.
    """
    if not subject.claims("sharded"):
        raise NotApplicable("the optimizer does not declare 'sharded'")
    for rank, other in enumerate(told_by_ranks(step_as_rank, subject.choice(), 2)):
        expect(not other, f"rank {rank} has other bits of {other}")


@law(OPTIMIZER, needs=STEPS)
def layouts_of_other_parameters_do_no_harm(subject: Subject) -> None:
    """Layouts of unknown names are ignored, and layouts may be left out.

    A partly frozen model has layouts of untrained tensors: look up layouts by parameter name.
    """
    if subject.component.contract < 2:
        raise NotApplicable("an optimizer of contract 1 is not told layouts")
    parameters = _parameters()
    _step(subject.build(parameters=parameters, layouts={**LAYOUTS, "frozen": LAYOUTS["experts.up"]}), parameters)
    _step(subject.build(parameters=parameters), parameters)


def step_as_rank(choice: Choice) -> str:
    """Steps whole parameters, and beside them the rows that a rank has; the names of those that then differ."""
    from torch.distributed.device_mesh import init_device_mesh  # seconds that only ranks spend

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    whole = _parameters()
    whole[ParameterRole.MATRIX]["odd"] = nn.Parameter(whole[ParameterRole.MATRIX]["wide"][:5].detach().clone())
    whole[ParameterRole.BIAS]["single"] = nn.Parameter(torch.ones(1))
    rows: Any = {
        role: {name: nn.Parameter(_rows(parameter.detach(), mesh)) for name, parameter in named.items()}
        for role, named in whole.items()
    }
    more = {"layouts": LAYOUTS} if choice.entry.component.contract >= 2 else {}
    optimizers = [choice.build(parameters=parameters, **more) for parameters in (whole, rows)]
    for seed in range(3):
        _fill_gradients(whole, seed)
        for name, parameter in _named(rows).items():
            parameter.grad = _rows(_gradient(_named(whole)[name]), mesh)
        for optimizer in optimizers:
            optimizer.step()
    stepped: dict[str, Any] = dict(_named(rows))
    other = [name for name, value in _named(whole).items() if not torch.equal(stepped[name].full_tensor(), value)]
    dist.barrier()
    dist.destroy_process_group()
    return ", ".join(other)


def _rows(tensor: Tensor, mesh: Any) -> Any:
    """This rank's rows of a tensor that both ranks have whole, as a DTensor."""
    from torch.distributed.tensor import DTensor, Shard

    own = [*tensor.chunk(2), tensor[:0]][mesh.get_local_rank()]  # a single row is one chunk
    return DTensor.from_local(own.clone(), mesh, [Shard(0)], shape=tensor.shape, stride=tensor.stride())


def _parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> Parameters:
    """Parameters of every role; the same seed gives the same."""
    generator = torch.Generator().manual_seed(seed)
    return {
        role: {
            name: nn.Parameter((torch.randn(shape, generator=generator) * 0.1).to(dtype))
            for name, shape in named.items()
        }
        for role, named in SHAPES.items()
    }


def _optimizer(subject: Subject, parameters: Any, changes: Mapping[str, Any] | None = None) -> Any:
    """The optimizer as a run builds it: from contract 2 on, it is also told which tensors are several matrices."""
    named = _named(parameters)
    layouts = {name: layout for name, layout in LAYOUTS.items() if name in named}
    more = {"layouts": layouts} if subject.component.contract >= 2 else {}
    return subject.build(changes, parameters=parameters, **more)


def _named(parameters: Mapping[ParameterRole, Mapping[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    return {name: parameter for named in parameters.values() for name, parameter in named.items()}


def _values(parameters: Parameters) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in _named(parameters).items()}


def _held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _fill_gradients(parameters: Parameters, seed: int = 0, scale: float = 1.0) -> None:
    """Gradients that depend on the seed and on the name, in whatever order the parameters are."""
    for name, parameter in _named(parameters).items():
        generator = torch.Generator().manual_seed(random.Random(f"{seed} {name}").getrandbits(32))
        parameter.grad = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.dtype)


def _step(optimizer: torch.optim.Optimizer, parameters: Parameters, seed: int = 0, scale: float = 1.0) -> None:
    _fill_gradients(parameters, seed, scale)
    optimizer.step()


def _run(subject: Subject, parameters: Parameters, scale: float = 1.0) -> Parameters:
    """The parameters after three steps."""
    optimizer = _optimizer(subject, parameters)
    for seed in range(3):
        _step(optimizer, parameters, seed, scale)
    return parameters


def _moves(subject: Subject, factor: float) -> dict[str, Tensor]:
    """What the first step adds to each parameter at a share of the rate."""
    parameters = _parameters()
    before = _values(parameters)
    optimizer = _optimizer(subject, parameters)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    _step(optimizer, parameters)
    return {name: parameter.detach() - before[name] for name, parameter in _named(parameters).items()}


def _decayed(subject: Subject) -> Parameters:
    if not subject.has_field("weight_decay"):
        raise NotApplicable("the optimizer has no setting 'weight_decay'")
    parameters = _parameters()
    _step(_optimizer(subject, parameters, {"weight_decay": 0.5}), parameters, scale=0.0)
    return parameters


def _distance(parameter: Tensor, goal: Tensor) -> Tensor:
    return (parameter - goal).square().mean()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


LAWS = laws_in(globals())
