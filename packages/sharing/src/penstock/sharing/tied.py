"""One matrix for the input and the output embedding (Press and Wolf 2016, arXiv:1608.05859).

In a small model the two vocabulary matrices are most of the parameters: with 8,192 tokens and width 256 each has 2.1 M
of them. Tying also gives the embedding of a rare token a gradient at every position instead of only where it occurs.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.hooks.contracts import ParameterRole, SharingPlan
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.parts import place_of


class TiedEmbeddings:
    """Shares the embedding and the head; the embedding's name is the one that is stored, as in Hugging Face files.

    >>> roles = {"embed.weight": ParameterRole.EMBEDDING, "head.weight": ParameterRole.HEAD}
    >>> TiedEmbeddings().plan(roles, {"embed.weight": (8, 2), "head.weight": (8, 2)}).groups
    (('embed.weight', 'head.weight'),)
    """

    def plan(self, roles: Mapping[str, ParameterRole], shapes: Mapping[str, tuple[int, ...]]) -> SharingPlan:
        """One group: (embedding, head). Raises `ProblemError` unless there is one of each and their shapes agree.
        Learned positions and token types are no embedding of tokens."""
        embedding = _only(roles, ParameterRole.EMBEDDING)
        head = _only(roles, ParameterRole.HEAD)
        if tuple(shapes[embedding]) != tuple(shapes[head]):
            raise ProblemError(
                Problem(
                    "cannot-tie",
                    f"'{embedding}' has shape {tuple(shapes[embedding])}, '{head}' has {tuple(shapes[head])}",
                    "tied-embeddings",
                    "give both the same shape or remove `tied-embeddings` from the config",
                )
            )
        return SharingPlan(groups=((embedding, head),))


def _only(roles: Mapping[str, ParameterRole], role: ParameterRole) -> str:
    names = [name for name, found in roles.items() if found == role]
    if role == ParameterRole.EMBEDDING:
        names = [name for name in names if place_of(name, role).parts == ("embedding",)]
    if len(names) == 1:
        return names[0]
    found = f"parameters with role '{role}': {', '.join(names)}" if names else f"no parameter with role '{role}'"
    fix = "remove `tied-embeddings` from the config" if names else "a model that is already tied needs no strategy"
    raise ProblemError(Problem("cannot-tie", f"the model has {found}; tying needs exactly one", "tied-embeddings", fix))
