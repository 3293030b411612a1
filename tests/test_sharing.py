"""Shared weights from training to the artifact: one tensor in count, optimizer, quantizer and file."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from crash import differences, outcome
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.generate.model import Sampling
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.quant158.decoder import Decoder
from penstock.run.config import load_run_config
from penstock.sharing.plan import plan_of
from penstock.train.compose import compose_model, compose_optimizer, stored_tensors
from penstock.train.restore import restore

Command = Callable[..., Any]
REGISTRY = Registry.discover()
CONFIGS = Path(__file__).parents[1] / "configs"
TERNARY = "model.quantizer={weights: {use: ternary, group: row, activations: int8}, embedding: int8, head: int8}"
# Changes of the shared config, one run each, and what the decoder lacks of it.
RUNS: dict[str, tuple[list[str], str | None]] = {
    "all layers one, norms too": (
        ["model.first_k_dense_replace=0", "model.sharing=[tied-embeddings, {use: cross-layer, norms: true}]", TERNARY],
        None,
    ),
    "two distinct, alternating": (
        [
            "model.first_k_dense_replace=0",
            "model.sharing=[{use: attention, pattern: alternate, distinct: 2}, {use: feed-forward, interval: 2}]",
            TERNARY,
        ],
        None,
    ),
    "a factorised embedding": (
        ["model.sharing=[tied-embeddings, {use: factorised-embedding, rank: 8}, attention]", TERNARY],
        "product of two matrices",
    ),
    "parameters of each use": (
        [
            "model.sharing=[{use: cross-layer, "
            "per_use: {gains: true, low_rank: 2, loop_embedding: true, norms: true}}]",
            "model.first_k_dense_replace=0",
            TERNARY,
        ],
        "its layer changes",
    ),
    "a learned plan": (
        [
            "model.sharing=[{use: learned-sharing, budget: 2, temperature: {until: 0.5}}]",
            "model.first_k_dense_replace=0",
            TERNARY,
        ],
        None,
    ),
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request: pytest.FixtureRequest, workplace: Path, config_file: Path) -> tuple[str, Path, Path]:
    """A trained run, and its artifact."""
    name = f"sharing-{list(RUNS).index(request.param)}"
    overrides = [f"name={name}", "train.tokens=512", *RUNS[request.param][0]]
    arguments = ["train", str(config_file), *overrides, "--runs", str(workplace / "sharing"), "--json"]
    run = Path(run_command(arguments)["run_dir"])
    path = workplace / "sharing" / f"{name}.penstock"
    run_command(["export", str(run), "--format", "penstock", "--out", str(path), "--json"])
    return request.param, run, path


def tokens(model: Any) -> Tensor:
    return torch.arange(3 * 32).view(3, 32) % model.vocabulary_size


@torch.no_grad()
def logits_of(path: Path) -> Tensor:
    model: Any = restore(path, REGISTRY).model
    return model.logits(model(tokens(model)).hidden_BSD)


def test_an_artifact_computes_what_the_run_does(exported: tuple[str, Path, Path]) -> None:
    _, run, path = exported
    assert torch.equal(logits_of(run), logits_of(path))


def test_what_is_one_parameter_is_stored_once_and_restored_as_one_object(exported: tuple[str, Path, Path]) -> None:
    _, run, path = exported
    of_run, of_artifact = restore(run, REGISTRY).composition, restore(path, REGISTRY).composition
    groups = of_run.stored_plan.groups
    assert groups
    artifact = Artifact.open(path)
    for composition in (of_run, of_artifact):
        modules = composition.module
        for first, *others in named_groups(of_run.module):
            assert all(modules.get_parameter(name) is modules.get_parameter(first) for name in others)
            assert all(alias_of(artifact, name) == first for name in others)
    assert sum(each.numel() for each in of_artifact.module.parameters()) == parameters_of(run)


def named_groups(module: torch.nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def alias_of(artifact: Artifact, name: str) -> str:
    aliases = {tensor.partition(":")[0]: one.partition(":")[0] for tensor, one in artifact.header.aliases.items()}
    return aliases[name]


def parameters_of(run: Path) -> int:
    return json.loads((run / "status.json").read_text())["parameters"]["total"]


def they_part_at_equal_tokens(model: Any, one: list[int], two: list[int]) -> bool:
    """Whether the first tokens that differ are as likely as one another: which is drawn first of such is rounding."""
    at = next(number for number, (own, other) in enumerate(zip(one, two, strict=True)) if own != other)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([one[:at]])).hidden_BSD)[0, -1].double()
    return bool((logits[one[at]] - logits[two[at]]).abs() < 1e-4)


def test_a_text_is_the_same_from_the_run_and_the_artifact_whatever_decodes_it(
    exported: tuple[str, Path, Path], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run, path = exported
    of_run, of_artifact = load(run), load(path)
    lacks = RUNS[name][1]
    assert isinstance(of_artifact.model, Decoder) == (lacks is None)
    for sampling in (Sampling(temperature=0.0), Sampling(seed=3), Sampling(temperature=1.5, top_p=0.6)):
        prompt = list(of_run.prompt_tokens("def "))
        texts = [[*prompt, *model.next_tokens(prompt, sampling, 12)] for model in (of_run, of_artifact)]
        assert texts[0] == texts[1] or they_part_at_equal_tokens(of_run.model, *texts), sampling
    capsys.readouterr()
    command("generate", path, "--prompt", "def ", "--tokens", 4)
    assert (lacks or "tokens/s") in capsys.readouterr().err


@pytest.fixture(scope="module")
def deep(workplace: Path, config_file: Path) -> Path:
    """A run in full precision of a model that transformers has, with everything shared that its layout cannot say."""
    sharing = (
        "[tied-embeddings, {use: factorised-embedding, rank: 8}, {use: feed-forward, interval: 2}, "
        "{use: attention, per_use: {gains: true, low_rank: 2}}]"
    )
    overrides = [f"model.sharing={sharing}", "model.first_k_dense_replace=0", "name=deep"]
    arguments = ["train", str(config_file), *overrides, "--runs", str(workplace / "sharing"), "--json"]
    return Path(run_command(arguments)["run_dir"])


def test_transformers_computes_the_same_with_all_written_out(deep: Path, command: Command, tmp_path: Path) -> None:
    command("export", deep, "--out", tmp_path / "hf", "--format", "{use: hf, dtype: float32}")
    model: Any = restore(deep, REGISTRY).model
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        expected, found = model.logits(model(tokens(model)).hidden_BSD), exported(tokens(model)).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_size_table_says_what_writing_everything_out_costs(deep: Path, command: Command, tmp_path: Path) -> None:
    command("export", deep, "--out", tmp_path / "hf", "--format", "{use: hf, dtype: float32}")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    sizes = {row["format"]: row["bytes"] for row in json.loads((deep / "sizes.json").read_text())}
    written_out = sum(4 * tensor.numel() for tensor in tensors.values())
    assert sizes["fp32 for transformers, shared tensors repeated and factors multiplied"] == written_out
    assert written_out > 1.2 * sizes["fp32"]


def test_a_vector_of_each_use_is_refused_by_layouts_without_it(
    workplace: Path, config_file: Path, command: Command, tmp_path: Path
) -> None:
    own = "model.sharing=[{use: attention, per_use: {loop_embedding: true}}]"
    run = command("train", config_file, own, "train.tokens=128", "--runs", tmp_path)["run_dir"]
    assert json.loads(next(Path(run).glob("checkpoints/*/config.json")).read_text())["model_type"] == "penstock_glm_moe"
    with pytest.raises(ProblemError, match="no transformers class has a vector added to the input of a block"):
        command("export", run, "--out", tmp_path / "hf")


REFUSED: dict[str, tuple[str, str, bool]] = {
    "two strategies": (
        "[attention, {use: cross-layer, parts: [q, up]}]",
        "q are shared by model.sharing.0 (attention) and by model.sharing.1 (cross-layer)",
        True,
    ),
    "a group of no layer": (
        "[{use: cross-layer, pattern: sparse, groups: [[0, 9]]}]",
        "the group names no parameter: the model has no layer 9, only 0 to 2",
        True,
    ),
    "a layer in two groups": (
        "[{use: attention, pattern: sparse, groups: [[0, 1], [1, 2]]}]",
        "layer 1 is in group 0 already",
        True,
    ),
    "a layer twice in a group": (
        "[{use: attention, pattern: sparse, groups: [[0, 1, 1]]}]",
        "the group names a layer twice",
        True,
    ),
    "a pattern without its number": ("[{use: attention, pattern: alternate}]", "needs the number of layers", True),
    "a rank that saves nothing": ("[{use: factorised-embedding, rank: 32}]", "the model is 32 wide", True),
    "an embedding that two strategies factorise": (
        "[{use: factorised-embedding, rank: 8}, {use: factorised-embedding, rank: 2}]",
        "model.sharing.1: another strategy factorises 'embed_tokens.weight' already",
        False,
    ),
    "a budget of all layers": ("[{use: learned-sharing, budget: 3}]", "leaves nothing to share", True),
    "a part that no layer has": ("[{use: cross-layer, parts: [positions]}]", "not 'positions'", True),
    "a vector of a layer from two strategies": (
        "[{use: attention, per_use: {loop_embedding: true}}, {use: feed-forward, per_use: {norms: true}}]",
        "has a vector or a norm of its own from another strategy",
        False,
    ),
    "layers without a partner": (
        "[{use: cross-layer, parts: [experts], pattern: sparse, groups: [[0, 1]]}]",
        "no two layers have a parameter",
        False,
    ),
    "two owners of every matrix": (
        "[tied-gains, attention]",
        "q, k, v, o are shared by model.sharing.0 (tied-gains) and by model.sharing.1 (attention)",
        True,
    ),
    "two owners that only names tell": (
        "[{use: tied-gains, match: ['*o_proj*']}, attention]",
        "model.sharing.0 (tied-gains) and model.sharing.1 (attention): 'layers.0.self_attn.o_proj.weight' is claimed",
        False,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shared_is_refused_before_any_work(
    case: str, config_file: Path, command: Command, tmp_path: Path
) -> None:
    sharing, expected, known_from_settings = REFUSED[case]
    asked = [["train", config_file, f"model.sharing={sharing}", "--dry-run", "--runs", tmp_path]]
    asked += [["config", "validate", config_file, f"model.sharing={sharing}"]] if known_from_settings else []
    for arguments in asked:
        with pytest.raises(ProblemError) as caught:
            command(*arguments)
        assert expected in str(caught.value)
        assert caught.value.exit_code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("gpt.yaml", "embedding and head of the model are one tensor already (model.tie_word_embeddings)"),
        ("bert-sst2.yaml", "a model that predicts a label for each text has no head of the vocabulary to tie"),
    ],
)
def test_tying_is_refused_where_there_is_no_head_to_tie(config: str, expected: str, command: Command) -> None:
    with pytest.raises(ProblemError) as caught:
        command("config", "validate", CONFIGS / config, "model.sharing=[tied-embeddings]")
    assert expected in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


SMALL: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 3,
    "model.first_k_dense_replace": 0,
    "model.head_dim": 16,
    "model.num_attention_heads": 2,
    "model.num_key_value_heads": 1,
}


def built(sharing: list[Any], quantizer: str = "null", changes: Mapping[str, Any] = SMALL) -> Any:
    """A small model in full precision with everything that a run puts into it."""
    overrides = [f"{name}={value}" for name, value in {**SMALL, **changes}.items()]
    overrides += [f"model.sharing={json.dumps(sharing)}", f"model.quantizer={quantizer}"]
    config = load_run_config(CONFIGS / "quickstart.yaml", overrides, REGISTRY)[0]
    return config, compose_model(config, 64)


def test_muon_steps_a_shared_matrix_once_with_the_summed_gradient() -> None:
    """The oracle is a model whose layers have copies of the weights: their gradients are added by hand."""
    config, shared = built([{"use": "cross-layer", "norms": True}])
    _, apart = built([])
    apart.module.load_state_dict(shared.module.state_dict())
    token_BS = torch.arange(3 * 16).view(3, 16) % 64
    for composition in (shared, apart):
        composition.model.next_token_loss(token_BS, token_BS).loss.backward()
    names = [f"layers.{layer}.self_attn.q_proj.weight" for layer in range(3)]
    copies = [apart.module.get_parameter(name) for name in names]
    (one,) = {shared.module.get_parameter(name) for name in names}
    total = torch.stack([copy.grad for copy in copies]).sum(dim=0)
    torch.testing.assert_close(one.grad, total)
    copies[0].grad = total
    optimizers = [compose_optimizer(config, each.model, each.shared.roles()) for each in (shared, apart)]
    held = [each for group in optimizers[0].param_groups for each in group["params"]]
    assert sum(each is one for each in held) == 1
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(one, copies[0])


def test_a_shared_matrix_is_quantized_to_one_set_of_codes_whatever_its_uses_add() -> None:
    uses = {"gains": True, "low_rank": 2}
    _, composition = built([{"use": "attention", "per_use": uses}], "ternary")
    sites = [composition.model.weight_sites()[f"layers.{layer}.self_attn.q_proj.weight"] for layer in range(3)]
    with torch.no_grad():
        for name, parameter in composition.module.named_parameters():
            if ".uses." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    shared, effective = [site.shared() for site in sites], [site.effective() for site in sites]
    assert torch.equal(shared[0], shared[1])
    assert len(shared[0].unique()) == 3
    assert not torch.equal(effective[0], effective[1])
    counted = {each.name for each in stored_tensors(composition)}
    assert {name for name in counted if "q_proj.weight" in name} == {"layers.0.self_attn.q_proj.weight"}


def test_uses_add_nothing_at_the_start_except_their_norm() -> None:
    token_BS = torch.arange(3 * 16).view(3, 16) % 64
    plain = built([{"use": "cross-layer"}])[1].model
    uses = {"gains": True, "low_rank": 2, "loop_embedding": True}
    added = built([{"use": "cross-layer", "per_use": uses}])[1].model
    assert torch.equal(plain(token_BS).hidden_BSD, added(token_BS).hidden_BSD)
    copied = copy.deepcopy(added)
    with torch.no_grad():
        copied.get_parameter("layers.1.per_use.loop_embedding").add_(1.0)
    assert not torch.equal(copied(token_BS).hidden_BSD, added(token_BS).hidden_BSD)


def test_what_a_use_adds_is_its_own_whatever_else_is_shared() -> None:
    uses = {"gains": True, "low_rank": 1, "norms": True, "loop_embedding": True}
    sharing = [{"use": "attention", "norms": True, "biases": True}, {"use": "feed-forward", "norms": True}]
    _, composition = built([{**sharing[0], "per_use": uses}, {**sharing[1], "per_use": {"gains": True}}])
    parameters = dict(composition.module.named_parameters(remove_duplicate=False))
    added = {name: each for name, each in parameters.items() if ".uses." in name or ".per_use." in name}
    assert {name.split(".")[1] for name in added} == {"0", "1", "2"}
    assert len({id(each) for each in added.values()}) == len(added)
    norms = [parameters[f"layers.{layer}.input_layernorm.weight"] for layer in range(3)]
    assert norms[0] is norms[1] is norms[2]


def test_an_assignment_is_soft_then_that_of_the_largest_logits_and_stays_within_its_budget() -> None:
    learned = {"use": "learned-sharing", "budget": 2, "temperature": {"start": 2.0, "end": 0.5, "until": 0.5}}
    _, composition = built([learned], changes={"model.num_hidden_layers": 4})
    shared, module = composition.shared, composition.module
    logits = next(each for name, each in module.named_parameters() if name.endswith("assignment.logits"))
    site = composition.model.weight_sites()["layers.2.mlp.experts.down_proj"]
    sets = [module.get_parameter(f"layers.{layer}.mlp.experts.down_proj") for layer in (0, 2)]
    with torch.no_grad():
        logits.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]))
    shares = (logits[2] / 2.0).softmax(dim=0)
    torch.testing.assert_close(site.effective(), shares[0] * sets[0] + shares[1] * sets[1])
    assert shared.hardened() is None
    shared.end_step(0.25, torch.clone)
    shares = logits[2].softmax(dim=0)
    torch.testing.assert_close(site.effective(), shares[0] * sets[0] + shares[1] * sets[1])
    shared.end_step(0.5, torch.clone)
    chosen = [module.get_parameter(f"layers.{layer}.mlp.experts.down_proj") for layer in range(4)]
    assert [each is sets[1] for each in chosen] == [True, False, False, True]
    assert torch.equal(site.effective(), sets[0])
    groups = shared.hardened().groups
    assert ("layers.0.mlp.experts.down_proj", "layers.3.mlp.experts.down_proj") in groups
    assert composition.stored_plan == plan_of(composition.model.export_state())
    assert not any("assignment" in name for name, _ in module.named_parameters())


def test_a_run_that_was_interrupted_anywhere_resumes_bit_equal(
    config_file: Path, command: Command, tmp_path: Path
) -> None:
    """Of six steps the second has a checkpoint with a soft assignment, the fourth one with a hard one."""
    learned = "model.sharing=[{use: learned-sharing, budget: 2, temperature: {until: 0.6}}, tied-embeddings]"
    sizes = ["model.first_k_dense_replace=0", "train.tokens=768", "train.checkpoint_every=2"]
    arguments = ["train", config_file, learned, *sizes, TERNARY, "--runs", tmp_path]
    run = Path(command(*arguments)["run_dir"])
    expected = outcome(run)
    assert json.loads((run / "sharing.json").read_text())["groups"]
    for kept in ("step-00000004", "step-00000002"):
        for name in sorted(path.name for path in (run / "checkpoints").glob("step-*")):
            if name > kept:
                shutil.rmtree(run / "checkpoints" / name)
        command(*arguments, "--resume", run)
        assert differences(outcome(run), expected) == []
