from __future__ import annotations

import copy
import io
from collections.abc import Mapping

import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon import matrices
from penstock.optim_muon.adamw import adamw
from penstock.optim_muon.muon import MuonAdamW

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "embedding": {"embed": (20, 8)},
    "matrix": {"query": (16, 8), "key": (4, 8), "value": (4, 8), "out": (8, 16), "query2": (16, 8)},
    "expert": {"up": (3, 12, 8), "down": (3, 8, 6), "up2": (3, 12, 8)},
    "router": {"gate": (3, 8)},
    "norm": {"norm": (8,)},
    "bias": {"bias": (16,)},
    "head": {"head": (20, 8)},
}
# A CPU iterates in bf16, as torch does, on matrices of more than 32 rows and columns.
LARGER: dict[str, dict[str, tuple[int, ...]]] = {
    "matrix": {"query": (48, 40), "key": (36, 40), "value": (36, 40), "out": (40, 48), "query2": (48, 40)},
    "expert": {"up": (3, 48, 40), "down": (3, 40, 36), "up2": (3, 48, 40)},
}


def model(*roles: str, seed: int = 0, shapes=SHAPES) -> dict[ParameterRole, dict[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        ParameterRole(role): {
            name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes[role].items()
        }
        for role in roles or shapes
    }


def flat(parameters: Mapping[ParameterRole, Mapping[str, torch.nn.Parameter]]) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for named in parameters.values() for name, parameter in named.items()}


def give_gradients(parameters: Mapping[str, torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


@pytest.mark.parametrize(("ours", "theirs"), [("match_rms", "match_rms_adamw"), ("original", "original")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_equal_torch_muon(ours, theirs, nesterov):
    parameters, expected = model("matrix", shapes=LARGER), flat(model("matrix", shapes=LARGER))
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = MuonAdamW(parameters, scaling=ours, iteration_dtype="bfloat16", **settings)
    reference = torch.optim.Muon(expected.values(), adjust_lr_fn=theirs, **settings)
    for step in range(4):
        give_gradients(flat(parameters), step)
        give_gradients(expected, step)
        optimizer.step()
        reference.step()
    for name, parameter in flat(parameters).items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-4)


def test_other_roles_equal_torch_adamw():
    roles = ("embedding", "router", "norm", "bias", "head")
    parameters, expected = model(*roles), model(*roles)
    optimizer = MuonAdamW(parameters, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6, weight_decay=0.1)
    groups = [
        {"params": list(named.values()), "weight_decay": 0.1 if role in ("router", "head") else 0.0}
        for role, named in expected.items()
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), eps=1e-6)
    for step in range(4):
        give_gradients(flat(parameters), step)
        give_gradients(flat(expected), step)
        optimizer.step()
        reference.step()
    for name, parameter in flat(parameters).items():
        torch.testing.assert_close(parameter, flat(expected)[name], rtol=1e-5, atol=1e-6)


def test_stacked_experts_equal_a_loop_of_torch_muon():
    parameters = model("expert", shapes=LARGER)
    expected = {
        f"{name}.{i}": torch.nn.Parameter(matrix.detach().clone())
        for name, stack in flat(parameters).items()
        for i, matrix in enumerate(stack)
    }
    optimizer = MuonAdamW(parameters, lr=0.02, iteration_dtype="bfloat16")
    reference = torch.optim.Muon(expected.values(), lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        give_gradients(flat(parameters), step)
        for name, stack in flat(parameters).items():
            assert stack.grad is not None
            for i, gradient in enumerate(stack.grad):
                expected[f"{name}.{i}"].grad = gradient.clone()
        optimizer.step()
        reference.step()
    for name, stack in flat(parameters).items():
        looped = torch.stack([expected[f"{name}.{i}"] for i in range(len(stack))])
        torch.testing.assert_close(stack, looped, rtol=1e-4, atol=1e-4)


def test_joining_matrices_into_batches_changes_nothing(monkeypatch):
    joined, alone = model("matrix", "expert"), model("matrix", "expert")
    for parameters, elements in ((joined, 2**24), (alone, 1)):
        monkeypatch.setattr(matrices, "CPU_BATCH", elements)
        optimizer = MuonAdamW(parameters)
        give_gradients(flat(parameters), 0)
        optimizer.step()
    for name, parameter in flat(joined).items():
        torch.testing.assert_close(parameter, flat(alone)[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (4, 64, 48)])
def test_match_rms_moves_a_parameter_by_a_fifth_of_the_rate(shape):
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    MuonAdamW({ParameterRole.MATRIX: {"w": parameter}}, lr=1.0).step()
    assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_every_role_has_one_group_with_its_rule_and_initial_rate():
    optimizer = MuonAdamW(model(), lr=0.02, adamw_lr=0.001, weight_decay=0.1)
    found = {g["role"]: (g["rule"], g["lr"], g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        "embedding": ("adamw", 0.001, 0.001, 0.0),
        "matrix": ("muon", 0.02, 0.02, 0.1),
        "expert": ("muon", 0.02, 0.02, 0.1),
        "router": ("adamw", 0.001, 0.001, 0.1),
        "norm": ("adamw", 0.001, 0.001, 0.0),
        "bias": ("adamw", 0.001, 0.001, 0.0),
        "head": ("adamw", 0.001, 0.001, 0.1),
    }


@pytest.mark.parametrize("make", [MuonAdamW, adamw])
def test_a_role_may_have_a_rate_of_its_own(make):
    optimizer = make(model(), lr=0.02, role_lr={"router": 0.003, "expert": 0.01})
    rates = {group["role"]: (group["lr"], group["initial_lr"]) for group in optimizer.param_groups}
    assert rates == dict.fromkeys(rates, (0.02, 0.02)) | {"router": (0.003, 0.003), "expert": (0.01, 0.01)}
    assert len(rates) == 7


def test_adamw_takes_the_muon_rate_where_none_is_given():
    assert {group["lr"] for group in MuonAdamW(model(), lr=0.005).param_groups} == {0.005}


def test_a_schedule_scales_every_group():
    parameters = model()
    optimizer = MuonAdamW(parameters, weight_decay=0.1)
    before = copy.deepcopy(flat(parameters))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.0
    give_gradients(flat(parameters), 0)
    optimizer.step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in flat(parameters).items())


@pytest.mark.parametrize("role", ["router", "embedding", "head", "norm", "bias"])
def test_roles_that_muon_ruins_are_refused_with_a_reason(role):
    with pytest.raises(ValueError, match=f"'{role}'.*(worse than random|tokens|vector).*'matrix' and 'expert'"):
        MuonAdamW(model(), muon_roles=("matrix", role))


def test_router_gate_is_never_stepped_by_muon():
    parameters = model("router", "matrix")
    optimizer = MuonAdamW(parameters)
    give_gradients(flat(parameters), 0)
    optimizer.step()
    assert set(optimizer.state[flat(parameters)["gate"]]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(optimizer.state[flat(parameters)["query"]]) == {"momentum_buffer"}


def test_muon_roles_can_be_narrowed():
    optimizer = MuonAdamW(model("matrix", "expert"), muon_roles=("expert",))
    assert {group["role"]: group["rule"] for group in optimizer.param_groups} == {"matrix": "adamw", "expert": "muon"}


def test_a_vector_in_a_muon_role_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'scale' of shape \(8,\)"):
        MuonAdamW({ParameterRole.MATRIX: {"scale": torch.nn.Parameter(torch.ones(8))}})


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": -1.0},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"steps": 0},
        {"scaling": "none"},
        {"adamw_eps": -1.0},
        {"adamw_lr": -1.0},
        {"role_lr": {"router": -1.0}},
        {"adamw_betas": (0.9, 1.0)},
        {"iteration_dtype": "float16"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_numbers_out_of_range_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MuonAdamW(model("matrix"), **setting)


@pytest.mark.parametrize("native", [True, False])
def test_auto_iterates_in_bf16_where_the_processor_multiplies_it(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    auto, named = model("matrix"), model("matrix")
    for parameters, dtype in ((auto, "auto"), (named, "bfloat16" if native else "float32")):
        optimizer = MuonAdamW(parameters, iteration_dtype=dtype)  # pyright: ignore[reportArgumentType]
        give_gradients(flat(parameters), 0)
        optimizer.step()
    assert all(torch.equal(flat(auto)[name], parameter) for name, parameter in flat(named).items())


def test_a_shared_tensor_is_stepped_once():
    tied = torch.nn.Parameter(torch.ones(6, 4))
    expert = torch.nn.Parameter(torch.ones(2, 4, 4))
    optimizer = MuonAdamW(
        {
            ParameterRole.EMBEDDING: {"embed": tied},
            ParameterRole.EXPERT: {"layer0": expert, "layer1": expert},
            ParameterRole.HEAD: {"head": tied},
        },
    )
    assert [(group["role"], len(group["params"])) for group in optimizer.param_groups] == [
        ("embedding", 1),
        ("expert", 1),
    ]


def test_parameters_without_gradient_are_left_alone():
    parameters = model()
    optimizer = MuonAdamW(parameters, weight_decay=0.5)
    before = copy.deepcopy(flat(parameters))
    stepped = {name: flat(parameters)[name] for name in ("key", "norm")}
    give_gradients(stepped, 0)
    optimizer.step()
    changed = {name for name, parameter in flat(parameters).items() if not torch.equal(parameter, before[name])}
    assert changed == {"key", "norm"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_continues_bit_for_bit(dtype):
    parameters = {
        role: {n: torch.nn.Parameter(p.to(dtype)) for n, p in named.items()} for role, named in model().items()
    }

    def steps(optimizer: MuonAdamW, parameters: Mapping, first: int, last: int) -> None:
        for step in range(first, last):
            give_gradients(flat(parameters), step)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] / (1 + step)
            optimizer.step()

    optimizer = MuonAdamW(parameters, weight_decay=0.1)
    steps(optimizer, parameters, 0, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    copied = copy.deepcopy(parameters)
    restored = MuonAdamW(copied, lr=123.0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.state[flat(copied)["norm"]]["step"].item() == 3
    steps(optimizer, parameters, 3, 6)
    steps(restored, copied, 3, 6)
    for name, parameter in flat(parameters).items():
        assert torch.equal(parameter, flat(copied)[name]), name


def test_a_closure_is_evaluated_with_gradients():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = MuonAdamW({ParameterRole.MATRIX: {"w": parameter}})

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 16
    assert parameter.detach().square().sum() < 16


def test_a_small_network_learns():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    roles: dict[ParameterRole, dict[str, torch.Tensor]] = {ParameterRole.MATRIX: {}, ParameterRole.BIAS: {}}
    for name, parameter in network.named_parameters():
        roles[ParameterRole.MATRIX if parameter.ndim == 2 else ParameterRole.BIAS][name] = parameter
    optimizer = MuonAdamW(roles, lr=0.02)
    inputs = torch.randn(64, 8)
    targets = torch.tanh(inputs @ torch.randn(8, 4))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
