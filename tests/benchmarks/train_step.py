"""A full training step (forward, backward, AdamW) of `GlmMoe` against transformers' `Glm4MoeForCausalLM`.

Both have the same sizes and, through the hub's layout, the same weights; both take the same tokens, and the losses are
compared before anything is timed. transformers runs with SDPA attention and each experts implementation that is a
match (`batched_mm`, 25 times slower than the others on a CPU, is not), and the best of them counts. Both step fused
AdamW. `products alone` is the time of the matrix products of linear layers, experts and head, forward and backward,
with equally loaded experts: as long as torch's libraries need for these matrices, and no program is faster.

Peak memory is that of a process that builds one program and steps it: its growth over what the imports take.

`--device cuda` computes in bf16, for natural and for forced balanced routing, and prints the model FLOPs utilisation
against `--peak-tflops`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds
from torch import Tensor, nn
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from penstock.hooks.contracts import Routing
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.moe_core.layers.matmul import rows_times_transposed
from penstock.routers.topk import SigmoidTopK

# Experts, experts a token, hidden width of an expert.
SETTINGS = {"E8 k2 H256": (8, 2, 256), "E32 k4 H128": (32, 4, 128)}
BATCH, SEQUENCE, VOCABULARY, WIDTH, LAYERS = 8, 256, 8192, 256, 6
HEADS, KEY_VALUE_HEADS, HEAD_DIM, DENSE_LAYERS, DENSE_HIDDEN = 4, 2, 64, 1, 1024
OURS, FLOOR = "penstock", "products alone"
THEIRS = {f"transformers {name}": name for name in ("eager", "grouped_mm")}


# ---------------------------------------------------------------------------------------------- the two programs


class RoundRobin(nn.Module):
    """Forced balance: token t takes experts t*k, t*k + 1, ... The gate is still computed."""

    e_score_correction_bias = None

    def __init__(self, gate: nn.Module, experts: int, k: int) -> None:
        super().__init__()
        self.gate, self.experts, self.k = gate, experts, k

    def choice(self, tokens: int, device: torch.device) -> Tensor:
        return torch.arange(tokens * self.k, device=device).view(tokens, self.k) % self.experts

    def forward(self, hidden: Tensor) -> Any:
        decided = self.gate(hidden)
        if isinstance(decided, Routing):
            return Routing(self.choice(*_rows(hidden)), decided.weight_TK, decided.logits_TE, decided.score_TE)
        logits, weights, _ = decided
        return logits, weights, self.choice(*_rows(hidden))


def _rows(hidden: Tensor) -> tuple[int, torch.device]:
    return hidden.numel() // hidden.shape[-1], hidden.device


def build_ours(experts: int, k: int, hidden: int) -> Any:
    torch.manual_seed(0)
    config = GlmMoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        first_k_dense_replace=DENSE_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=DENSE_HIDDEN,
        moe_intermediate_size=hidden,
        n_routed_experts=experts,
    )
    model = GlmMoe(config, make_router=lambda layer, **sizes: SigmoidTopK(**sizes, k=k))
    for parameter in model.parameters():  # what starts at zero would hide a difference between the two programs
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=0.02)
    return model


def build_theirs(ours: Any, experts_implementation: str) -> Any:
    """transformers' model with the weights of ours."""
    known: dict[str, Any] = {name: value for name, value in ours.export_config().items() if name != "architectures"}
    known.update(attn_implementation="sdpa", experts_implementation=experts_implementation)
    config = Glm4MoeConfig(**known)
    twin = Glm4MoeForCausalLM(config).train()
    twin.load_state_dict(_stacked(ours.export_state(), twin.state_dict()))
    return twin


def _stacked(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hub's one entry an expert, stacked as transformers keeps them in memory."""
    stacked = {name: tensor for name, tensor in state.items() if name in own}
    for name in own.keys() - stacked.keys():
        prefix, matrix = name.rsplit(".", 1)
        parts = ("gate_proj", "up_proj") if matrix == "gate_up_proj" else ("down_proj",)
        stacked[name] = torch.stack(
            [torch.cat([state[f"{prefix}.{e}.{part}.weight"] for part in parts]) for e in range(len(own[name]))]
        )
    return stacked


def our_loss(model: Any, token_BS: Tensor) -> Tensor:
    return model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).loss / token_BS[:, 1:].numel()


def their_loss(model: Any, token_BS: Tensor) -> Tensor:
    target_BS = token_BS[:, 1:].contiguous()
    return model(input_ids=token_BS[:, :-1], labels=target_BS, shift_labels=target_BS, use_cache=False).loss


def stepper(model: nn.Module, loss_of: Callable[[Any, Tensor], Tensor], token_BS: Tensor) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        loss = loss_of(model, token_BS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()  # on a GPU this waits for the step

    return step


def programs(setting: str, names: Sequence[str], device: str, forced: bool = False) -> dict[str, Callable[[], float]]:
    experts, k, hidden = SETTINGS[setting]
    token_BS = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE + 1), generator=torch.Generator().manual_seed(0))
    steps: dict[str, Callable[[], float]] = {}
    for name in names:
        model, loss = build_ours(experts, k, hidden), our_loss
        if name != OURS:
            model, loss = build_theirs(model, THEIRS[name]), their_loss
        for layer in (model if name == OURS else model.model).layers[DENSE_LAYERS:] if forced else ():
            layer.mlp.gate = RoundRobin(layer.mlp.gate, experts, k)
        if device == "cuda" and name == OURS:
            model.compute_dtype = torch.bfloat16
        elif device == "cuda":
            model = model.bfloat16()  # grouped_mm does not follow autocast
        steps[name] = stepper(model.to(device), loss, token_BS.to(device))
    return steps


# ---------------------------------------------------------------------------------------------- floor and memory


def products(experts: int, k: int, hidden: int) -> list[tuple[int, int, int, int]]:
    """(count, rows, inputs, outputs) of every matrix product of a forward pass."""
    tokens, moe_layers = BATCH * SEQUENCE, LAYERS - DENSE_LAYERS
    rows = tokens * k // experts
    return [
        (LAYERS, tokens, WIDTH, (HEADS + 2 * KEY_VALUE_HEADS) * HEAD_DIM),
        (LAYERS, tokens, HEADS * HEAD_DIM, WIDTH),
        (DENSE_LAYERS, tokens, WIDTH, 2 * DENSE_HIDDEN),
        (DENSE_LAYERS, tokens, DENSE_HIDDEN, WIDTH),
        (moe_layers, tokens, WIDTH, experts),
        (moe_layers, tokens, WIDTH, 2 * hidden),
        (moe_layers, tokens, hidden, WIDTH),
        (moe_layers * experts, rows, WIDTH, 2 * hidden),
        (moe_layers * experts, rows, hidden, WIDTH),
        (1, tokens, WIDTH, VOCABULARY),
    ]


def floor(device: str, *setting: int) -> Callable[[], Any]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def operands(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
        sizes = ((rows, inputs), (outputs, inputs), (rows, outputs))
        x, weight, grad = (torch.randn(size, dtype=dtype, device=device) for size in sizes)
        return x, weight, grad

    cases = [(count, *operands(*sizes)) for count, *sizes in products(*setting)]
    last = torch.zeros((), device=device)

    def run() -> float:
        for count, x, weight, grad in cases:
            for _ in range(count):
                rows_times_transposed(x, weight)
                rows_times_transposed(grad, weight.T)
                torch.mm(grad.T, x)
        return last.item()

    return run


def flops(*setting: int) -> float:
    """Of a step: three times the products of the forward pass, and causal attention (half of all pairs)."""
    linear = sum(2 * count * rows * inputs * outputs for count, rows, inputs, outputs in products(*setting))
    return 3 * (linear + 2 * LAYERS * BATCH * HEADS * SEQUENCE * SEQUENCE * HEAD_DIM)


def peak_mebibytes(setting: str, name: str) -> float:
    """In a process of its own; Linux."""
    command = [sys.executable, __file__, "--peak-of", setting, name]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _grown_mebibytes(setting: str, name: str) -> float:
    before = status("VmRSS")
    (step,) = programs(setting, [name], "cpu").values()
    for _ in range(3):
        step()
    return (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


# ---------------------------------------------------------------------------------------------- the comparison


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--peak-tflops", type=float, default=989.0, show_default=True, help="Of the GPU, dense bf16 (H100, H200)."
)
@click.option("--peak-of", type=(str, str), hidden=True)
@rounds(9)
@json_option
def main(device: str, peak_tflops: float, peak_of: tuple[str, str] | None, rounds: int, as_json: bool) -> None:
    if peak_of is not None:
        click.echo(_grown_mebibytes(*peak_of))
        return
    rows, bars = [], []
    for setting, numbers in SETTINGS.items():
        for forced in (False, True) if device == "cuda" else (False,):
            steps = programs(setting, [OURS, *THEIRS], device, forced)
            losses = {name: step() for name, step in steps.items()}
            if max(losses.values()) - min(losses.values()) > (1e-4 if device == "cpu" else 5e-2):
                raise click.ClickException(f"the programs do not compute the same loss: {losses}")
            seconds = interleaved({**steps, FLOOR: floor(device, *numbers)}, rounds=rounds)
            label = setting + (" forced balance" if forced else "")
            for name, each in seconds.items():
                row: dict[str, Any] = {"sizes": label, "program": name, "ms a step": 1000 * each}
                row["times the products"] = each / seconds[FLOOR]
                if device == "cuda":
                    row["MFU %"] = 100 * flops(*numbers) / each / (peak_tflops * 1e12)
                elif name != FLOOR:
                    row["peak MiB"] = peak_mebibytes(setting, name)
                rows.append(row)
            best = min(THEIRS, key=lambda name: seconds[name])
            bars.append(Bar(f"{label}: speed against {best}", seconds[best] / seconds[OURS], 1.35))
            if device == "cpu":
                peak = {row["program"]: row["peak MiB"] for row in rows if row["sizes"] == label and "peak MiB" in row}
                least = min(peak[name] for name in THEIRS)
                bars.append(Bar(f"{label}: peak memory against transformers'", peak[OURS] / least, 1.0, at_least=False))
    finish("train_step", rows, bars, as_json, device=device, threads=torch.get_num_threads(), torch=torch.__version__)


if __name__ == "__main__":
    main()
