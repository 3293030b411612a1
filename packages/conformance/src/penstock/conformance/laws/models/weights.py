# pyright: basic
"""What holds of the weight sites and layouts of a model that has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.models.build import ARCHITECTURE, expect_close, logits_of, random_tokens, redrawn
from penstock.conformance.laws.models.construction import ROLES
from penstock.conformance.laws.models.passes import LOGITS
from penstock.hooks.contracts import LaidOut, Sited


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@law(ARCHITECTURE, needs=(*ROLES, *LOGITS), capability="weight-sites")
def weights_are_used_through_their_sites(subject: Subject) -> None:
    """`weight_sites` maps parameter names to sites, and a forward pass uses the weight that each site returns.

    Call the site wherever the weight is used: halving the sites must act like halving the weights.
    """
    model, halved = redrawn(subject), redrawn(subject)
    expect(isinstance(model, Sited), "the model has no `weight_sites`")
    sites, roles = model.weight_sites(), model.parameter_roles()
    parameters = dict(halved.named_parameters(remove_duplicate=False))
    tied = parameters.keys() - roles.keys()  # further names of a parameter that is listed under its first
    wrong = sorted(name for name, site in sites.items() if name not in tied and roles.get(name) != site.role)
    expect(sites and not wrong, f"sites of no parameter, or of another role: {', '.join(wrong) or 'there are none'}")
    with torch.no_grad():
        for name, site in sites.items():
            site.add(_Halved())
            if name not in tied:
                parameters[name].mul_(0.5)
    tokens = random_tokens(2, 9)
    expect_close(logits_of(model, tokens), logits_of(halved, tokens), "with halved weights")


@law(ARCHITECTURE, needs=ROLES)
def layouts_fit_their_parameters(subject: Subject) -> None:
    """`parameter_layout` names existing parameters, and the matrices of a layout make up the whole tensor.

    Give each part its number of rows; parameters that are one matrix need no layout.
    """
    model = redrawn(subject)
    parameters = dict(model.named_parameters())
    if not isinstance(model, LaidOut):
        raise NotApplicable("every parameter of the model is one matrix")
    for name, layout in model.parameter_layout().items():
        expect(name in parameters, f"there is no parameter '{name}'")
        found = sum(each.numel() for each in layout.matrices(parameters[name].detach()).values())
        rows = sum(shape[-2] for shape in layout.shapes(tuple(parameters[name].shape)).values())
        stored = parameters[name].shape[-1 if layout.transposed else -2]
        fits = found == parameters[name].numel() and rows == stored
        expect(fits, f"the matrices of '{name}' have {rows} rows, and the tensor {stored}")


LAWS = laws_in(globals())
