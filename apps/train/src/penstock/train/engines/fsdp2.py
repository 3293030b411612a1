"""Each rank holds a share of every parameter, of its gradient and of the optimizer's state (torch's `fully_shard`).

Each large layer is a group of its own: its parameters are gathered before it runs, forward and backward, and its
gradients are summed and cut again as soon as its backward ends. Everything else is one more group, whole from the
forward pass to the end of the backward: embedding, head, experts beside a frozen base, layers that share a parameter
with another module, and layers so small that a collective of their own costs more time than it saves memory. Gradients
of several micro-batches add up on each rank before they are summed over ranks, so the sums are those of `ddp`, bit for
bit, but the gradient is whole until then: one micro-batch a rank takes the least memory.

What `fully_shard` does not promise by itself:

- A gradient that is None on some ranks. Ranks would sum vectors of different lengths, so it becomes 0 before the sum;
  one that is None everywhere is None again after it.
- Sums. By default it averages, which rounds unless the number of ranks is a power of two.
- Parameters that are whole without a pass. `full_state` puts whole ones in place, so one rank alone can compute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from penstock.hooks.contracts import Batch, Layered, ObjectiveOutput, Schedule
from penstock.hooks.problems import Problem, ProblemError
from penstock.train import shards
from penstock.train.engines.ddp import DataParallelEngine
from penstock.train.engines.local import LocalEngine
from penstock.train.engines.norm import row_norms
from penstock.train.memory import return_freed_memory
from penstock.train.optimizer_state import cut_state
from penstock.train.staging import Files


class ShardedEngine(DataParallelEngine):
    """See `penstock.hooks.contracts.Engine`, `RankGroup` for the minutes, and `ShardedConfig` for `least_layer`."""

    def __init__(
        self, *, device: torch.device, timeout: float = 60, stacks_after: float = 5, least_layer: int = 1_000_000
    ) -> None:
        super().__init__(device=device, timeout=timeout, stacks_after=stacks_after)
        self._least_layer = least_layer

    def prepare(self, module: Any, make_optimizer: Callable[[Any], torch.optim.Optimizer], schedule: Schedule) -> None:
        super().prepare(module, lambda whole: make_optimizer(self._cut(whole)), schedule)

    def evaluate(self, batch: Batch) -> ObjectiveOutput:
        try:
            return super().evaluate(batch)
        finally:
            self._root.reshard()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._last = last
        self._zeros: set[str] = set()
        self._root.set_requires_gradient_sync(last)
        with self._between_ranks():
            LocalEngine.backward(self, _Before.apply(self._fill_all, loss), last=last)
        if last:
            self._forget_zeros()

    def step(self, progress: float) -> dict[str, float]:
        with self._between_ranks():  # an optimizer may bring the rows of a matrix together
            return super().step(progress)

    def save(self, folder: Path) -> dict[str, str]:
        """Rank 0 writes what all ranks share, and each rank its share of what the optimizer keeps."""
        return {**super().save(folder), **shards.write(folder, "optimizer", self.rank, self._parts())}

    def stage(self) -> _StagedParts:
        parts = self._parts()
        files, tensors = self._buffers.copied((self._files(), {name: part.tensor for name, part in parts.items()}))
        copies = {name: replace(part, tensor=tensors[name]) for name, part in parts.items()}
        return _StagedParts(files, self.rank, copies)

    def _parts(self) -> dict[str, shards.Part]:
        return shards.parts_of(cut_state(self.optimizer, self.names), self.rank)

    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        """On all ranks; each keeps its share of what was written there. The model can be called on one rank alone."""
        for group in self._groups:
            group.reshard()
        places = list(_places(self.module))
        cut = {id(parameter): parameter for _, _, parameter in places}
        with self._between_ranks():
            whole = {key: nn.Parameter(each.full_tensor().detach(), each.requires_grad) for key, each in cut.items()}
        with _in_places(places, whole), _without_hooks(self._root), super().full_state() as state:
            yield state
        with torch.no_grad():
            for key, parameter in cut.items():
                parameter.to_local().copy_(_share(whole[key], parameter))

    def _cut(self, module: Any) -> Any:
        """The same module, whose parameters are `DTensor`s from now on."""
        mesh = init_device_mesh(self.device.type, (self.ranks,))
        blocks = blocks_of_their_own(module, self._least_layer)
        root = _Root(module)
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                what = f"'fsdp2' cuts parameters by rows, and '{name}' is one number"
                fix = "give the parameter a dimension, or use train.engine=ddp"
                raise ProblemError(Problem("unsupported", what, "train.engine", fix))
        self._groups: list[Any] = [fully_shard(each, mesh=mesh) for each in (*blocks, root)]
        self._root: Any = root
        for group in self._groups:
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for block in blocks:
            self._fill_before_the_sum(block, [names[id(parameter)] for parameter in block.parameters()])
        return_freed_memory(sum(each.nbytes for each in module.parameters()))
        return module

    def _run(self, batch: Batch, *, routings_only: bool = False) -> Any:
        with self._between_ranks():
            loss, output = self._root(batch, routings_only=routings_only)
        return output() if loss is None else replace(output(), loss=loss)

    def _without_gradients(self) -> AbstractContextManager[Any]:
        return torch.no_grad()  # parameters that were gathered in inference mode could not be trained afterwards

    def _fill_before_the_sum(self, block: nn.Module, names: Sequence[str]) -> None:
        """Fills missing gradients of a block at the end of its backward, which is where it reads its input."""

        def fill() -> None:
            if self._last:
                self._fill(dict(zip(names, block.parameters(), strict=True)))

        def read(_: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any]) -> tuple[Any, Any]:
            return _through_first(lambda each: _After.apply(fill, each), inputs, more)

        block.register_forward_pre_hook(read, with_kwargs=True)

    def _fill_all(self) -> None:
        """Fills missing gradients of all that is not summed yet, at the end of the backward pass."""
        if self._last:
            self._fill(dict(cast(nn.Module, self.module).named_parameters()))

    def _fill(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if parameter.requires_grad and parameter.grad is None and not isinstance(parameter, DTensor):
                parameter.grad = torch.zeros_like(parameter)
                self._zeros.add(name)

    def _forget_zeros(self) -> None:
        trained = {n: p for n, p in cast(nn.Module, self.module).named_parameters() if p.requires_grad}
        absent = self.total(torch.tensor([name in self._zeros for name in trained], device=self.device).long())
        for parameter, ranks in zip(trained.values(), absent.tolist(), strict=True):
            if ranks == self.ranks:
                parameter.grad = None

    def _gradients(self) -> list[Tensor]:
        return [cast(DTensor, gradient).to_local() for gradient in super()._gradients()]

    def _row_norms(self) -> Tensor:
        """Each rank writes the norms of its rows to their places, and 0 elsewhere: the sum over ranks is exact."""
        places: list[Tensor] = []
        for gradient, own in zip(super()._gradients(), self._gradients(), strict=True):
            rows, width = (gradient.shape[0], math.prod(gradient.shape[1:-1]))
            place_R = torch.zeros(rows * width, dtype=torch.float32, device=self.device)
            norm_R = row_norms(own).flatten()
            first = min(self.rank * -(-rows // self.ranks), rows) * width
            place_R[first : first + len(norm_R)] = norm_R
            places.append(place_R)
        return self._summed(torch.cat(places)) if places else torch.zeros(0)

    def _between_ranks(self) -> AbstractContextManager[None]:
        """Computing that gathers or sums parameters: where the connection fails, another rank is gone."""
        return self.group.together(computing=True)


@dataclass(frozen=True, slots=True)
class _StagedParts(Files):
    """A copy of what `save` writes."""

    rank: int
    parts: Mapping[str, shards.Part]

    def write(self, folder: Path) -> dict[str, str]:
        return {**Files.write(self, folder), **shards.write(folder, "optimizer", self.rank, self.parts)}


class _Root(nn.Module):
    """What is called from outside. `fully_shard` watches each tensor that it finds in an output, and warns of views:
    it is shown the loss alone, whose backward is the first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch, *, routings_only: bool) -> tuple[Any, ...]:
        output = self.module(batch, routings_only=routings_only)
        return None if routings_only else output.loss.clone(), lambda: output


class _Calling(torch.autograd.Function):
    """The tensor as it is, with a function that its backward calls."""

    @staticmethod
    def forward(ctx: Any, call: Callable[[], None], tensor: Tensor) -> Tensor:
        ctx.call = call
        return tensor.view_as(tensor)


class _After(_Calling):
    """Calls a function in the backward pass, when all that was computed from the tensor is done."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.call()
        return None, gradients[0]


class _Before(_Calling):
    """Has a function called at the end of the backward pass, before those that are registered later."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        engine: Any = Variable._execution_engine
        engine.queue_callback(ctx.call)
        return None, gradients[0]


def blocks_of_their_own(module: nn.Module, least: int) -> list[nn.Module]:
    """The layers of at least so many parameters that share none with another module and run once a pass."""
    model: Any = module.model
    runs = list[nn.Module](model.blocks()) if isinstance(model, Layered) else []
    within = {id(each) for block in runs for each in block.modules()}
    outside = [each for each in module.modules() if id(each) not in within]
    uses = Counter(id(parameter) for each in outside for parameter in each.parameters(recurse=False))
    uses.update(id(parameter) for block in runs for parameter in block.parameters())
    large = [block for block in runs if sum(each.numel() for each in block.parameters()) >= least]
    return [block for block in large if all(uses[id(each)] == 1 for each in block.parameters())]


def _places(module: nn.Module) -> Iterator[tuple[nn.Module, str, DTensor]]:
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            yield owner, name, cast(DTensor, parameter)


@contextmanager
def _in_places(places: Sequence[tuple[nn.Module, str, DTensor]], whole: Mapping[int, nn.Parameter]) -> Iterator[None]:
    """Puts whole parameters, by the id of the cut one, in the places of cut ones."""
    for owner, name, parameter in places:
        setattr(owner, name, whole[id(parameter)])
    try:
        yield
    finally:
        for owner, name, parameter in places:
            setattr(owner, name, parameter)


def _share(whole: Tensor, cut: DTensor) -> Tensor:
    """The rows of a whole tensor that this rank holds."""
    like = distribute_tensor(whole.detach(), cut.device_mesh, cut.placements, src_data_rank=None)
    return like.to_local()


@contextmanager
def _without_hooks(root: nn.Module) -> Iterator[None]:
    """Without what `fully_shard` does before and after forward passes, and after a state is loaded."""
    tables: list[Any] = [
        each
        for module in root.modules()
        for each in (module._forward_pre_hooks, module._forward_hooks, module._load_state_dict_post_hooks)
    ]
    kept = [dict(table) for table in tables]
    for table in tables:
        for key, hook in list(table.items()):
            owner = type(hook.__self__) if hasattr(hook, "__self__") else hook
            if str(owner.__module__).startswith("torch.distributed"):
                del table[key]
    try:
        yield
    finally:
        for table, hooks in zip(tables, kept, strict=True):
            table.clear()
            table.update(hooks)


def _through_first(
    change: Callable[[Tensor], Tensor], inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named inputs, of which the first tensor that requires a gradient is changed."""
    given: dict[int | str, Any] = {**dict(enumerate(inputs)), **named}
    for place, each in given.items():
        if isinstance(each, Tensor) and each.requires_grad:
            given[place] = change(each)
            break
    return tuple(given[place] for place in range(len(inputs))), {name: given[name] for name in named}
