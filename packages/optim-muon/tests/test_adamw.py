from __future__ import annotations

import torch

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.adamw import adamw


def test_every_role_has_a_group_and_vectors_and_embeddings_do_not_decay():
    parameters = {role: {role.value: torch.nn.Parameter(torch.ones(2, 2))} for role in ParameterRole}
    optimizer = adamw(parameters, lr=0.01, weight_decay=0.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["role"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "matrix": 0.1,
        "expert": 0.1,
        "head": 0.1,
        "router": 0.1,
        "embedding": 0.0,
        "norm": 0.0,
        "bias": 0.0,
    }
    assert {(g["rule"], g["lr"], g["initial_lr"]) for g in optimizer.param_groups} == {("adamw", 0.01, 0.01)}


def test_a_step_equals_torch_adamw():
    ours, theirs = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimizer = adamw({ParameterRole.MATRIX: {"w": ours}}, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2)
    for step in range(3):
        ours.grad = torch.randn(3, 2, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_shared_tensor_is_stepped_once():
    tied = torch.nn.Parameter(torch.ones(6, 4))
    optimizer = adamw({ParameterRole.EMBEDDING: {"embed": tied}, ParameterRole.HEAD: {"head": tied}})
    assert [group["role"] for group in optimizer.param_groups] == ["embedding"]
