# pyright: basic
"""Laws of engines: `Engine`, which holds the model in training.

They are held with a small model that has a router, a buffer that counts its passes, and dropout where a law asks for
it. An engine that must be started by torchrun is started as its only rank, and for the last law as two.

Shape suffixes: B batch, S sequence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.conformance.law import Subject, Violation, expect, law, laws_in
from penstock.conformance.parts import VOCABULARY, TinyModel, TopKRouter, random_state
from penstock.conformance.process import told_by_ranks, torchrun_variables
from penstock.hooks.contracts import Batch, Inputs, ModelOutput, ObjectiveOutput, Routing
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice

ENGINE = "engine"
RATE = 0.5


@law(ENGINE)
def forward_is_the_module_s(subject: Subject) -> None:
    """`forward(batch)` returns the module's output for the batch, with gradient.

    Call the module given to `prepare`, or its wrapper, not its attributes.
    """
    with prepared(subject) as engine:
        expected, found = engine_module().forward(batch_of(0)), engine.forward(batch_of(0))
        expect(isinstance(found, ObjectiveOutput), f"forward returns a {type(found).__name__}")
        expect(torch.equal(found.loss, expected.loss), f"the loss is {found.loss}, and the module's {expected.loss}")
        expect(found.loss.requires_grad, "the loss has no gradient")
        expect(list(found.routings) == [0], f"routings are of layers {list(found.routings)}")


FORWARD = (forward_is_the_module_s,)


@law(ENGINE, needs=FORWARD)
def gradients_of_micro_batches_add_up(subject: Subject) -> None:
    """After `backward` of several micro-batches, a step uses the gradient of their sum.

    Accumulate without dividing: each loss is already part of a sum.
    """
    expected = gradients_at(engine_module(), 0, 1)
    with prepared(subject) as engine:
        accumulate(engine, 0, 1)
        expect_moved(engine, expected, 0.0)


GRADIENTS = (gradients_of_micro_batches_add_up,)


@law(ENGINE, needs=GRADIENTS)
def clip_returns_the_norm_and_bounds_it(subject: Subject) -> None:
    """`clip(limit)` returns the norm before clipping and limits it to `limit`; None does not clip.

    Compute one norm over all parameters.
    """
    gradients = gradients_at(engine_module(), 0)
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    with prepared(subject) as engine:
        accumulate(engine, 0)
        said = [engine.clip(limit) for limit in (None, norm * 2, norm / 4)]
        expect(all(abs(each - norm) <= 1e-3 * norm for each in said), f"the norm is {norm}, but clip returned {said}")
        expect_moved(engine, {name: gradient / 4 for name, gradient in gradients.items()}, 0.0)


@law(ENGINE, needs=GRADIENTS)
def a_step_follows_the_schedule(subject: Subject) -> None:
    """`step(progress)` uses `initial_lr` times the schedule's factor, returns floats, and clears the gradients.

    Set `lr` of every group before each step.
    """
    plain = engine_module()
    with prepared(subject) as engine:
        for progress in (0.25, 0.5):
            accumulate(engine, 0)
            gradients = gradients_at(plain, 0)
            said = expect_moved(engine, gradients, progress)
            expect(all(isinstance(value, float) for value in said.values()), f"it says {said}")
            with torch.no_grad():
                for name, parameter in plain.model.named_parameters():
                    parameter.sub_(RATE * falling(progress) * gradients[name])


STEPS = (a_step_follows_the_schedule,)


@law(ENGINE, needs=FORWARD)
def an_evaluation_leaves_no_trace(subject: Subject) -> None:
    """`evaluate` runs without dropout and gradient, draws no random numbers, and leaves the module in training mode.

    Evaluate under `torch.inference_mode()` and `fork_rng`, and restore training mode in a `finally`.
    """
    with prepared(subject, dropout=0.25) as engine:
        before = random_state()
        first, second = engine.evaluate(batch_of(0)).loss, engine.evaluate(batch_of(0)).loss
        expect(torch.equal(first, second), "two evaluations of one batch differ")
        expect(not first.requires_grad, "the loss has a gradient")
        expect(random_state() == before, "random numbers were drawn")
        losses = {engine.forward(batch_of(0)).loss.item() for _ in range(4)}
        expect(len(losses) > 1, "after an evaluation the module no longer has dropout")


@law(ENGINE, needs=FORWARD)
def routings_are_those_of_the_passes_that_follow(subject: Subject) -> None:
    """`routings(batches)` yields the routings that the step's forward passes then choose, without gradient, and
    restores buffers and random state.

    Run all micro-batches in a row, and restore random state and buffers after the last.
    """
    batches = [batch_of(seed) for seed in range(3)]
    with prepared(subject, dropout=0.25) as engine:
        ahead = list(engine.routings(batches))
        passes = values_of(engine)["passes"].item()
        expect(passes == 0, f"a buffer has counted {passes} passes")
        expect(not any(routing[0].score_TE.requires_grad for routing in ahead), "a routing has a gradient")
        for number, batch in enumerate(batches):
            same = torch.equal(engine.forward(batch).routings[0].expert_TK, ahead[number][0].expert_TK)
            expect(same, f"micro-batch {number} is routed differently in the step")


@law(ENGINE, needs=FORWARD)
def the_full_state_is_the_model_s(subject: Subject) -> None:
    """`full_state()` yields every parameter and buffer of the model under its name, unsharded; writes to them persist.

    Gather sharded tensors, and write them back at the end.
    """
    with prepared(subject) as engine:
        expected = engine_module().model.state_dict()
        with torch.no_grad(), engine.full_state() as state:
            expect(state.keys() == expected.keys(), f"the names are {sorted(state)}")
            other = [name for name, value in state.items() if not torch.equal(value, expected[name])]
            expect(not other, f"{', '.join(other)} is a different tensor")
            state["middle"].zero_()
        with engine.full_state() as state:
            expect(not state["middle"].any(), "what was written is gone")


@law(ENGINE, needs=(*STEPS, the_full_state_is_the_model_s))
def what_is_saved_continues(subject: Subject) -> None:
    """An engine that loads another's save continues bit for bit: optimizer, random state and settings.

    Save the optimizer state and the random state; return the SHA-256 of each file.
    """
    with prepared(subject, dropout=0.25) as engine:
        train(engine, 0)
        digests = engine.save(subject.folder)
        files = {name: hashlib.sha256((subject.folder / name).read_bytes()).hexdigest() for name in digests}
        expect(files == digests, f"the digests {digests} are not those of the files")
        weights = {name: value.clone() for name, value in values_of(engine).items()}
        train(engine, 1)
        expected = {name: value.clone() for name, value in values_of(engine).items()}
    with prepared(subject, dropout=0.25) as other:
        with other.full_state() as state:
            for name, value in state.items():
                value.copy_(weights[name])
        torch.manual_seed(1234)
        other.load(subject.folder)
        train(other, 1)
        different = [name for name, value in values_of(other).items() if not torch.equal(value, expected[name])]
        expect(not different, f"{', '.join(different)} differs after the next step")


@law(ENGINE)
def one_rank_agrees_with_itself(subject: Subject) -> None:
    """On one rank, `total`, `share` and `gather` return the value, `agree` returns the flag, and a total is a new
    tensor.

    Keep integers as integers: counts are exact.
    """
    with prepared(subject) as engine:
        expect((engine.rank, engine.ranks) == (0, 1), f"it is rank {engine.rank} of {engine.ranks}")
        counts = torch.tensor([2**40, 3])
        total = engine.total(counts)
        expect(total.dtype == torch.int64 and total.tolist() == [2**40, 3], f"the total of {counts} is {total}")
        total.zero_()
        expect(counts.tolist() == [2**40, 3], "the total is the tensor that was given")
        said = (engine.share({"path": "runs"}), engine.gather(5), engine.agree(True), engine.agree(False))
        expect(said == ({"path": "runs"}, [5], True, False), f"share, gather and agree say {said}")
        engine.barrier()


@law(ENGINE, needs=(*STEPS, one_rank_agrees_with_itself), capability="several-ranks")
def two_ranks_train_as_one(subject: Subject) -> None:
    """Two processes started by torchrun have the weights, norm and totals of one process with two micro-batches,
    identical on both.

    Sum gradients over ranks after the last micro-batch; a mean of means is a different objective.
    """
    if not subject.claims("several-ranks") and _builds_alone(subject):
        raise Violation("it is one process, whoever starts it")
    first, second = map(json.loads, told_by_ranks(train_as_rank, subject.choice(), 2))
    expect(first == second, f"rank 0 ends with {first}, rank 1 with {second}")
    with prepared(subject) as engine:
        expected = [train(engine, 2 * step, 2 * step + 1) for step in range(3)]
        weights = flat(values_of(engine))
    expect(first["ranks"] == 2 and first["total"] == [3, 2**41], f"two ranks say {first['ranks']}, {first['total']}")
    said = (first["share"], first["gather"], first["agree"])
    expect(said == (0, [0, 1], [True, False]), f"share, gather and agree say {said}")
    close = torch.allclose(torch.tensor(first["norms"]), torch.tensor(expected), rtol=1e-4)
    expect(close, f"the norms are {first['norms']}, of one process {expected}")
    gap = (torch.tensor(first["weights"]) - weights).abs().max().item()
    expect(gap < 1e-5, f"weights are up to {gap:.2g} from those of one process")


def train_as_rank(choice: Choice) -> str:
    """Three steps of a rank, and what it then has, as JSON."""
    torch.manual_seed(0)
    engine = choice.build(device=torch.device("cpu"))
    engine.prepare(engine_module(), sgd, falling)
    norms = [train(engine, 2 * step + engine.rank) for step in range(3)]
    result = {
        "ranks": engine.ranks,
        "norms": norms,
        "weights": flat(values_of(engine)).tolist(),
        "total": engine.total(torch.tensor([engine.rank + 1, 2**40])).tolist(),
        "share": engine.share(engine.rank),
        "gather": engine.gather(engine.rank),
        "agree": [engine.agree(engine.rank == 1), engine.agree(False)],
    }
    engine.barrier()
    engine.close()
    return json.dumps(result)


# ---------------------------------------------------------------------------------------------- parts


class RoutedModel(TinyModel):
    """With a router whose weights scale the hidden states, a buffer that counts passes, and dropout."""

    passes: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.gate = TopKRouter(8, 4, 2)
        with torch.no_grad():
            self.gate.weight.copy_(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.dropout = dropout

    @property
    def routers(self) -> Mapping[int, Any]:
        return {0: self.gate}

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        token_BS = Inputs.of(inputs).token_BS
        if self.training:
            self.passes += 1
        hidden_BSD = F.dropout(F.embedding(token_BS, self.embedding), self.dropout, self.training)
        routing: Routing = self.gate(hidden_BSD.flatten(0, 1))
        scale_BS1 = (routing.weight_TK.square().sum(-1)).view(*token_BS.shape, 1)
        return ModelOutput((hidden_BSD @ self.middle.T) * scale_BS1, {0: routing})


class Module(nn.Module):
    """A `StepModule` of the model and the next token's loss."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.model = RoutedModel(dropout)

    def forward(self, batch: Batch, *, routings_only: bool = False) -> Any:
        output = self.model(batch.inputs.token_BS)
        if routings_only:
            return output.routings
        logits_BSV = self.model.logits(output.hidden_BSD)
        loss = F.cross_entropy(logits_BSV.flatten(0, 1), batch.target_BS.flatten(), reduction="sum")
        return ObjectiveOutput(loss / 32, output.routings)


def engine_module(dropout: float = 0.0) -> Module:
    return Module(dropout)


def sgd(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(module.parameters()), "lr": RATE, "initial_lr": RATE}])


def falling(progress: float) -> float:
    return 1.0 - progress


@dataclass(frozen=True, slots=True)
class _Variables:
    """Environment variables that are set for a while; None unsets one."""

    values: Mapping[str, str | None]

    @contextmanager
    def set(self) -> Iterator[None]:
        before = {name: os.environ.get(name) for name in self.values}
        try:
            self._put(self.values)
            yield
        finally:
            self._put(before)

    @staticmethod
    def _put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def prepared(subject: Subject, *, dropout: float = 0.0) -> Iterator[Any]:
    """The engine as the only rank, with the model of the laws; torch's generator begins at a seed, and is restored."""
    with _Variables(torchrun_variables(1)[0]).set(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        engine = subject.build(device=torch.device("cpu"))
        try:
            engine.prepare(engine_module(dropout), sgd, falling)
            yield engine
        finally:
            engine.close()


def _builds_alone(subject: Subject) -> bool:
    unset = dict.fromkeys(torchrun_variables(1)[0])
    with _Variables(unset).set():
        try:
            subject.build(device=torch.device("cpu")).close()
        except ProblemError:
            return False
    return True


def batch_of(seed: int) -> Batch:
    window_BS = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    return Batch(Inputs(window_BS[:, :-1]), window_BS[:, 1:], 16)


def accumulate(engine: Any, *seeds: int) -> None:
    for seed in seeds:
        engine.backward(engine.forward(batch_of(seed)).loss, last=seed == seeds[-1])


def gradients_at(module: Module, *seeds: int) -> dict[str, Tensor]:
    """The gradient of the sum over some batches, by plain autograd."""
    module.zero_grad()
    for seed in seeds:
        module(batch_of(seed)).loss.backward()
    return {name: value.grad.clone() for name, value in module.model.named_parameters() if value.grad is not None}


def expect_moved(engine: Any, gradients: Mapping[str, Tensor], progress: float) -> dict[str, float]:
    """A step goes along these gradients, at the rate of the schedule."""
    before = values_of(engine)
    said = engine.step(progress)
    after = values_of(engine)
    for name, gradient in gradients.items():
        wanted = before[name] - RATE * falling(progress) * gradient
        expect(torch.allclose(after[name], wanted, atol=1e-5), f"{name} has not moved by its rate times the gradient")
    return said


def train(engine: Any, *seeds: int) -> float:
    """One step of these micro-batches; the norm."""
    accumulate(engine, *seeds)
    norm = engine.clip(1.0)
    engine.step(0.25)
    return norm


def values_of(engine: Any) -> dict[str, Tensor]:
    with engine.full_state() as state:
        return {name: value.detach().clone() for name, value in state.items()}


def flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([values[name].flatten() for name in sorted(values) if values[name].is_floating_point()])


LAWS = laws_in(globals())
