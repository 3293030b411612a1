"""Trains small models of many kinds as one process with two micro-batches, and as two ranks that hold half of each
parameter; prints every bit that they end with, as digests. One pair of ranks serves all cases: `test_sharded.py`
compares. The ranks are forks of the process that trained alone, so nothing is imported twice."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from penstock.conformance.ranks import torchrun_variables
from penstock.hooks import Registry
from penstock.hooks.contracts import Batch, Inputs, ObjectiveOutput
from penstock.run.config import load_run_config
from penstock.train.balancing import Balancing
from penstock.train.compose import compose_model, compose_optimizer
from penstock.train.engines.ddp import DataParallelEngine
from penstock.train.engines.fsdp2 import ShardedEngine
from penstock.train.engines.local import LocalEngine
from penstock.train.layers import layer_passes
from penstock.train.objectives.next_token import NextToken
from penstock.train.step_module import StepModule

CONFIGS = Path(__file__).parents[1] / "configs"
VOCABULARY, ROWS, LENGTH, STEPS, CLIP = 64, 2, 12, 3, 0.005

GLM = (
    "model.hidden_size=32",
    "model.num_hidden_layers=3",
    "model.first_k_dense_replace=1",
    "model.head_dim=16",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "model.intermediate_size=48",
    "model.moe_intermediate_size=16",
    "model.sharing=[]",
    "model.balance=[{use: loss-free, rate: 0.01}, {use: global-loss, weight: 0.1}]",
)
GPT = ("model.hidden_size=32", "model.num_hidden_layers=3", "model.num_attention_heads=2")
BASE = (
    "{use: glm-moe, hidden_size: 32, num_hidden_layers: 3, first_k_dense_replace: 3, num_attention_heads: 2, "
    "num_key_value_heads: 1, head_dim: 16, intermediate_size: 48}"
)
MIXTRAL = (
    "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 48, "
    "num_local_experts: 4, num_experts_per_tok: 2}"
)
FROZEN = (f"model.base={BASE}", "model.layers=[1, 2]", "model.experts=4", "data.tokenizer={vocab_size: 300}")
ADAMW = "train.optimizer={use: adamw, lr: 0.01}"
FORMATS = "embedding: int8, head: int8"


class Labels:
    """A label for each text; the target is the first token's."""

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        logits = model.task_logits(batch.inputs)
        return ObjectiveOutput(nn.functional.cross_entropy(logits, batch.target_BS[:, 0] % 2, reduction="sum"), {})


class Sometimes(nn.Module):
    """A layer with a scale that only some micro-batches use, and a parameter that none does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.used = layer, False
        self.scale, self.never = nn.Parameter(torch.ones(32)), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor, *rest: Any) -> Any:
        out = self.layer(x, *rest)
        return out * self.scale if self.used else out


def with_a_parameter_that_is_not_always_used(model: Any) -> None:
    model.layers[1] = Sometimes(model.layers[1])


def as_it_is(model: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """`uncounted` is the micro-batch of the second step of which nothing counts. A case that is `resumed` ends its last
    step in another model and optimizer, which continue from what the ranks saved."""

    config: str
    overrides: tuple[str, ...] = ()
    objective: Any = field(default_factory=NextToken)
    change: Callable[[Any], None] = as_it_is
    torch_optimizer: bool = False
    uncounted: int | None = None
    resumed: bool = False


CASES = {
    "glm": Case("quickstart.yaml", GLM),
    "resumed": Case("quickstart.yaml", (*GLM, "model.sharing=[tied-embeddings]"), resumed=True),
    "adamw": Case("quickstart.yaml", (*GLM, ADAMW)),
    "bf16": Case("quickstart.yaml", (*GLM, "train.dtype=bf16")),
    "tied": Case("quickstart.yaml", (*GLM, "model.sharing=[tied-embeddings]")),
    "gains": Case("quickstart.yaml", (*GLM, "model.sharing=[tied-embeddings, tied-gains]")),
    "shared-layers": Case("quickstart.yaml", (*GLM, "model.sharing=[{use: cross-layer, norms: true}]")),
    "factorised": Case("quickstart.yaml", (*GLM, "model.sharing=[{use: factorised-embedding, rank: 8}]")),
    "ternary": Case("quickstart.yaml", (*GLM, f"model.quantizer={{weights: ternary-learned, {FORMATS}}}")),
    "online-router": Case("quickstart.yaml", (*GLM, ADAMW, "model.router={use: cluster, k: 2}", "model.balance=[]")),
    "checkpointed": Case("quickstart.yaml", (*GLM, "train.activation_checkpointing=full")),
    "no-counted-token": Case("quickstart.yaml", GLM, uncounted=1),
    "gpt": Case("gpt.yaml", GPT),
    "compiled": Case("gpt.yaml", (*GPT, "model.num_hidden_layers=2", "train.compile_layers=true")),
    "some-gradients": Case("gpt.yaml", GPT, change=with_a_parameter_that_is_not_always_used, torch_optimizer=True),
    "labels": Case("bert-sst2.yaml", (*GPT, "model.intermediate_size=48", "model.dropout=0.0"), objective=Labels()),
    "transformers": Case("quickstart.yaml", (f"model={{use: hf, model_type: mixtral, settings: {MIXTRAL}}}",)),
    "frozen-beside": Case("frozen-base.yaml", (*FROZEN, "model.expert_size=16")),
    "frozen-in-place": Case("frozen-base.yaml", (*FROZEN, "model.place=in_place")),
}


def batch_of(step: int, part: int, case: Case) -> Batch:
    """The second row is padded; of the others, each micro-batch counts another share."""
    generator = torch.Generator().manual_seed(100 * step + part)
    window_BS = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    real_BS = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    real_BS[1, 7:] = False
    counted_BS = torch.rand(ROWS, LENGTH, generator=generator) < 0.3 + 0.6 * part
    if (step, part) == (1, case.uncounted):
        counted_BS[:] = False
    return Batch(Inputs(window_BS[:, :-1], real_BS), window_BS[:, 1:], int((counted_BS & real_BS).sum()), counted_BS)


THREE = ["glm", "gpt"]  # of which three ranks train half as much again
WHOLE = ["compiled", "checkpointed", "some-gradients", "frozen-beside"]  # that ranks of ddp train too
ENGINES: dict[str, Callable[..., Any]] = {"fsdp2": partial(ShardedEngine, least_layer=0), "ddp": DataParallelEngine}


class Run:
    """A case that one engine trains; `parts` micro-batches on each rank."""

    def __init__(self, case: Case, engine: Any, parts: int) -> None:
        config = load_run_config(CONFIGS / case.config, case.overrides, Registry.discover())[0]
        self.case, self.engine, self.parts = case, engine, parts
        self.composition = compose_model(config, VOCABULARY)
        case.change(self.composition.model)
        with torch.no_grad():  # what begins at zero would hide a difference
            for parameter in self.composition.module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)

        def optimizer(module: Any) -> torch.optim.Optimizer:
            if not case.torch_optimizer:
                return compose_optimizer(config, module.model, self.composition.shared.roles())
            return torch.optim.AdamW([{"params": [*module.parameters()], "lr": 0.01, "initial_lr": 0.01}])

        passes = layer_passes(self.composition.model, config.train)
        module = StepModule(self.composition.model, case.objective, passes)
        engine.prepare(module, optimizer, lambda progress: 1.0)
        self.balancing = Balancing(
            self.composition.model,
            self.composition.losses,
            self.composition.balancers,
            parts=parts,
            ranks=engine.ranks,
            total=engine.total,
            routings=engine.routings,
        )

    def step(self, number: int) -> Iterator[str]:
        """The losses, the norm and the load of a step, as texts that hold every bit."""
        engine, own = self.engine, range(self.engine.rank * self.parts, (self.engine.rank + 1) * self.parts)
        batches = [batch_of(number, part, self.case) for part in own]
        units = int(engine.total(torch.tensor(sum(batch.units for batch in batches))))
        self.balancing.begin(((batch, batch.inputs.real_BS) for batch in batches), tokens=2 * ROWS * LENGTH - 10)
        for part, batch in zip(own, batches, strict=True):
            self._use_the_scale(part == 1 and number < 2)
            result = engine.forward(batch)
            loss, real_BS = result.loss / units, batch.inputs.real_BS
            assert real_BS is not None
            penalty, _ = self.balancing.penalty(result.routings, sequences=ROWS, mask_T=real_BS.flatten())
            engine.backward(loss if penalty is None else loss + penalty, last=part == own[-1])
        yield engine.clip(CLIP).hex()
        self.held = bytes_held(engine)
        engine.step((number + 0.5) / STEPS)
        load, _ = self.balancing.finish(tokens_seen=number)
        yield str(load.counts_LE.tolist())
        self._use_the_scale(False)
        yield engine.evaluate(batch_of(99, 0, self.case)).loss.item().hex()

    def _use_the_scale(self, used: bool) -> None:
        for module in self.composition.module.modules():
            if isinstance(module, Sometimes):
                module.used = used

    def bits(self) -> dict[str, str]:
        """A digest of each weight, buffer and state of the optimizer, by name."""
        with self.engine.full_state() as state:
            found = {name: digest(tensor) for name, tensor in state.items()}
        for name, values in zip(self.engine.names, self._states(), strict=True):
            found |= {f"{name}.{key}": digest(each) for key, each in values.items() if isinstance(each, Tensor)}
        return found

    def _states(self) -> Iterator[dict[str, Any]]:
        optimizer = self.engine.optimizer
        for group in optimizer.param_groups:
            yield from (optimizer.state.get(parameter, {}) for parameter in group["params"])


def digest(tensor: Tensor) -> str:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return hashlib.sha256(whole.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def bytes_held(engine: Any) -> int:
    """Of this rank's parameters, gradients and optimizer state."""
    parameters = list(engine.module.parameters())
    held = [*parameters, *(each.grad for each in parameters if each.grad is not None)]
    held += [each for values in engine.optimizer.state.values() for each in values.values() if isinstance(each, Tensor)]
    return sum((each.to_local() if isinstance(each, DTensor) else each).nbytes for each in held)


def trained(case: Case, engine: Any, parts: int, folder: Path) -> dict[str, Any]:
    """What a run has said and ended with. `folder` is for what ranks save."""
    run = Run(case, engine, parts)
    said: list[list[str]] = []
    for number in range(STEPS):
        if case.resumed and engine.ranks > 1 and number == STEPS - 1:
            run = continued(run, folder)
        said.append(list(run.step(number)))
    return {"said": said, "bits": run.bits(), "bytes": run.held, "centroids": centroids(run)}


def continued(run: Run, folder: Path) -> Run:
    engine = run.engine
    if engine.rank == 0:
        folder.mkdir()
    engine.barrier()
    engine.save(folder)
    with engine.full_state() as state:
        kept = {name: tensor.clone() for name, tensor in state.items()}
    engine.barrier()
    other = Run(run.case, engine, run.parts)
    with torch.no_grad(), engine.full_state() as state:
        for name, tensor in state.items():
            tensor.copy_(kept[name])
    engine.load(folder)
    return other


def centroids(run: Run) -> list[float]:
    """Of routers that learn outside the gradient, from sums over tokens: ranks add them in another order."""
    named = run.composition.module.named_buffers()
    return [number for name, each in named if name.endswith("centroid_ED") for number in each.flatten().tolist()]


def as_ranks(ranks: int, names: list[str], results: Path, engine_name: str = "fsdp2") -> None:
    """Each rank writes what it ended with to a file of its own."""
    group = ranks if engine_name == "fsdp2" else engine_name
    children: list[int] = []
    for variables in torchrun_variables(ranks):
        if child := os.fork():
            children.append(child)
            continue
        status = 1
        try:
            os.environ.update(variables)
            engine = ENGINES[engine_name](device=torch.device("cpu"), timeout=1)
            found = {name: trained(CASES[name], engine, 1, results / f"{ranks}-{name}") for name in names}
            (results / f"{group}-{engine.rank}.json").write_text(json.dumps(found))
            engine.close()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        sys.exit(1)


def main(results: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.compile = partial(torch.compile, backend="aot_eager")  # graphs, without a C++ compiler
    names = names or list(CASES)
    alone = {name: trained(CASES[name], LocalEngine(device=torch.device("cpu")), 2, results) for name in names}
    (results / "alone.json").write_text(json.dumps(alone))
    as_ranks(2, names, results)
    as_ranks(3, THREE, results)
    as_ranks(2, WHOLE, results, "ddp")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
