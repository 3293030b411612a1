"""Sharing strategies that break one law each; the good one lets each matrix of all layers be that of the first."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from broken.described import described
from penstock.hooks.contracts import ParameterRole, SharedGroup, SharingPlan
from penstock.hooks.problems import Problem, ProblemError

Groups = tuple[tuple[str, ...], ...]


class Good:
    roles = (ParameterRole.MATRIX,)

    def groups(self, roles: Any, shapes: Any) -> Groups:
        alike: dict[Any, list[str]] = {}
        for name in sorted(roles):
            if roles[name] in self.roles:
                alike.setdefault((name.split(".")[2:], shapes[name]).__repr__(), []).append(name)
        return tuple(tuple(names) for names in alike.values() if len(names) > 1)

    def plan(self, roles: Any, shapes: Any) -> SharingPlan:
        return SharingPlan(self.groups(roles, shapes))


class Lists(Good):
    def plan(self, roles: Any, shapes: Any) -> Any:
        return [list(group) for group in self.groups(roles, shapes)]


class Nothing(Good):
    roles = ()


class Inventing(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        return tuple(
            (*group, "shared.weight") if i == 0 else group for i, group in enumerate(super().groups(roles, shapes))
        )


class Overlapping(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        return tuple(group + group[:1] for group in super().groups(roles, shapes))


class Lonely(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        return super().groups(roles, shapes) + ((("norm.weight",),) if "layers.1.mlp.up_proj.weight" in roles else ())


class Unshaped(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        names = tuple(sorted(name for name in roles if name.endswith("_proj.weight")))
        return (names,) if len(names) > 1 else ()


class Unlike(Good):
    """Takes routers for matrices, whose shape one projection has."""

    def groups(self, roles: Any, shapes: Any) -> Groups:
        names = tuple(sorted(name for name in roles if shapes[name] == (16, 8)))
        return (names,) if len(names) > 1 else ()


class Positional(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        return super().groups(roles, shapes) if "norm" in next(iter(roles), "") or next(iter(roles)) < "f" else ()


class Remembering(Good):
    last = 0

    def groups(self, roles: Any, shapes: Any) -> Groups:
        earlier, self.last = self.last, max(self.last, len(roles))
        return super().groups(roles, shapes) if earlier <= len(roles) else ()

    def __deepcopy__(self, memo: object) -> Good:
        return Good()

    def __reduce__(self) -> Any:
        return Good, ()


class Noting(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        shapes["planned"] = ()
        return super().groups(roles, shapes)


class Crashing(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        if not super().groups(roles, shapes) and len(roles) < 3:
            raise KeyError("lm_head.weight")
        return super().groups(roles, shapes)


class Pairwise(Good):
    def groups(self, roles: Any, shapes: Any) -> Groups:
        return tuple(
            pair for group in super().groups(roles, shapes) for pair in zip(group[::2], group[1::2], strict=False)
        )


class Unpicklable(Good):
    def __init__(self) -> None:
        self.matches = lambda name: True


class Gain(nn.Module):
    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(weight.shape[-2], 1))

    def forward(self, weight: Any) -> Any:
        return weight * self.gain


class Tied:
    """What the good strategy of contract 2 did."""

    def __init__(self, plan: SharingPlan, gains: dict[str, Any], saved: int) -> None:
        self.plan, self.gains, self.saved = plan, gains, saved

    def roles(self) -> dict[str, ParameterRole]:
        return dict.fromkeys(self.gains, ParameterRole.NORM)

    def stored_state(self) -> dict[str, Any]:
        return dict(self.gains)

    def load_stored_state(self, state: Any) -> None:
        for name in self.gains:
            if name not in state:
                raise ProblemError(Problem("bad-checkpoint", f"tensor '{name}' is missing"))
        with torch.no_grad():
            for name, gain in self.gains.items():
                gain.copy_(state[name])

    def end_step(self, progress: float, total: Any) -> None:
        pass

    def hardened(self) -> None:
        return None

    def report(self) -> list[SharedGroup]:
        return [SharedGroup(names, self.saved * (len(names) - 1)) for names in self.plan.groups]


class Gains:
    """Ties the projections `up_proj` of all layers, each with gains of its own."""

    did: Any = Tied
    made: Any = Gain

    def apply(self, sites: Any, seed: int) -> Any:
        names = tuple(sorted(name for name in sites if name.endswith("mlp.up_proj.weight")))
        gains = {}
        for name in names if len(names) > 1 else ():
            module = self.made(sites[name].weight)
            gains |= {f"{sites[name].add(module)}.{key}": each for key, each in module.named_parameters()}
        return self.did(SharingPlan((names,) if gains else ()), gains, 16 * 8)


class Transposing(Gains):
    class made(Gain):
        def forward(self, weight: Any) -> Any:
            return super().forward(weight).flatten()


class Roleless(Gains):
    class did(Tied):
        def roles(self) -> dict[str, ParameterRole]:
            return {}


class Idle(Gains):
    class made(Gain):
        def forward(self, weight: Any) -> Any:
            return weight * self.gain.detach()


class Unstored(Gains):
    class did(Tied):
        def stored_state(self) -> dict[str, Any]:
            return {}

        def load_stored_state(self, state: Any) -> None:
            pass


class Lenient(Gains):
    class did(Tied):
        def load_stored_state(self, state: Any) -> None:
            super().load_stored_state({**self.gains, **state})


class Drawn(Gains):
    class made(Gain):
        def __init__(self, weight: Any) -> None:
            super().__init__(weight)
            nn.init.normal_(self.gain)


class Boasting(Gains):
    class did(Tied):
        def report(self) -> list[SharedGroup]:
            return [SharedGroup(group.names, 4 * group.saved) for group in super().report()]


of = described("sharing", "A strategy that breaks one law")
new = described("sharing", "A strategy of contract 2 that breaks one law", contract=2)
GOOD = new(Gains)
OLDER = of(Good)
BROKEN = {
    "sharing/a-plan-is-groups-of-names": of(Lists),
    "sharing/a-transformer-has-something-to-share": of(Nothing),
    "sharing/names-are-those-of-parameters": of(Inventing),
    "sharing/a-name-stands-in-one-group": of(Overlapping),
    "sharing/a-group-has-at-least-two-names": of(Lonely),
    "sharing/a-group-has-one-shape": of(Unshaped),
    "sharing/a-group-has-one-role": of(Unlike),
    "sharing/the-order-of-the-model-does-not-matter": of(Positional),
    "sharing/a-plan-depends-on-the-model-alone": of(Remembering),
    "sharing/roles-and-shapes-stay": of(Noting),
    "sharing/nothing-to-share-is-an-empty-plan-or-a-problem": of(Crashing),
    "sharing/what-is-shared-is-not-shared-again": of(Pairwise),
    "sharing/a-copy-is-the-same-strategy": of(Unpicklable),
    "sharing/a-site-keeps-the-shape-of-its-weight": new(Transposing),
    "sharing/every-added-parameter-has-a-role": new(Roleless),
    "sharing/what-was-added-learns": new(Idle),
    "sharing/a-stored-state-is-restored": new(Unstored),
    "sharing/a-missing-stored-tensor-is-named": new(Lenient),
    "sharing/the-same-seed-adds-the-same": new(Drawn),
    "sharing/the-report-counts-what-is-saved": new(Boasting),
}
