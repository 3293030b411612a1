"""Laws of training in low precision: what is packed is what was trained, a resumed run continues the warm-up, and a
weight that cannot be stored ends the run by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click import Abort

from penstock.hooks import Registry
from penstock.hooks.contracts import PackedFormat, ParameterRole, StoragePlan
from penstock.hooks.problems import ProblemError
from penstock.moe_core.layers.site import NamedSite
from penstock.run.config import load_run_config, read_run_config
from penstock.train.checks import Planned, the_model_fits_together
from penstock.train.compose import Composition, stored_tensors
from penstock.train.loop import Trainer
from penstock.train.restore import restore

WARM = "{tokens: 700, shape: cosine}"
MIXED = "{{weights: {{use: {name}{more}}}, embedding: int8, head: int8}}"


def overrides(name: str, more: str = "") -> list[str]:
    return [f"model.quantizer={MIXED.format(name=name, more=more)}", "model.sub_norm=true"]


def assert_packed_as_trained(composition: Composition) -> None:
    """Every quantized matrix, unpacked, is what the forward pass computes with; and every role has some."""
    storage, found = composition.storage, set[ParameterRole]()
    for name, site in cast(Any, composition.model).weight_sites().items():
        assert isinstance(site, NamedSite)
        packed = storage.formats[site.role]
        assert isinstance(packed, PackedFormat)
        with torch.no_grad():
            used = site.layout.matrices(site.effective())
        for matrix, weight in site.layout.matrices(site.weight).items():
            arrays = packed.pack(weight, site.site.quantizers[matrix], name=name)
            unpacked = torch.from_numpy(packed.unpack(arrays, tuple(weight.shape)))
            assert torch.equal(unpacked, used[matrix]), name
        found.add(site.role)
    assert found == set(storage.formats)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ternary", ", group: 64, activations: int8"),
        ("ternary-learned", f", warmup: {WARM}"),
        ("int4", ""),
        ("fp16", ""),
    ],
)
def test_what_is_packed_is_what_was_trained(command, config_file, tmp_path, name: str, more: str):
    settings = [*overrides(name, more), "train.tokens=1024"]
    result = command("train", config_file, *settings, "--runs", tmp_path)
    assert_packed_as_trained(restore(Path(result["run_dir"]), Registry.discover()).composition)


def test_a_resumed_run_continues_the_warm_up_bit_for_bit(command, config_file, tmp_path, monkeypatch):
    settings = [*overrides("ternary-learned", f", warmup: {WARM}, activations: int8"), "train.checkpoint_every=2"]
    whole = command("train", config_file, *settings, "--runs", tmp_path / "whole")["run_dir"]
    after_step = Trainer._after_step

    def stop_after_three(trainer: Trainer, *, last: bool, stop: bool) -> None:
        after_step(trainer, last=last, stop=trainer.step == 3)

    monkeypatch.setattr(Trainer, "_after_step", stop_after_three)
    with pytest.raises(Abort):
        command("train", config_file, *settings, "--runs", tmp_path / "stopped")
    monkeypatch.undo()
    (stopped,) = (tmp_path / "stopped" / "quickstart").glob("2*")
    halfway = restore(stopped, Registry.discover()).composition.added_state()
    shares = {float(tensor) for key, tensor in halfway.items() if key.endswith(".share")}
    assert len(shares) == 1
    assert 0 < shares.pop() < 1
    command("train", config_file, *settings, "--resume", stopped, "--runs", tmp_path / "stopped")
    one, other = (restore(Path(run), Registry.discover()).composition for run in (whole, stopped))
    assert one.added_state().keys() == other.added_state().keys()
    states = zip(one.module.state_dict().items(), other.module.state_dict().values(), strict=True)
    assert [name for (name, tensor), continued in states if not torch.equal(tensor, continued)] == []


def test_a_weight_that_cannot_be_stored_ends_the_run_by_name(command, config_file, tmp_path, monkeypatch):
    whole_step = Trainer._train_step

    def spoil(trainer: Trainer) -> dict[str, float]:
        metrics = whole_step(trainer)
        gain = trainer.composition.module.get_parameter("layers.1.mlp.experts.gate_up_site.quantizers.up.log_gain")
        with torch.no_grad():
            gain[2, 3] = -200.0  # e^-200 is 0 in fp32
        return metrics

    monkeypatch.setattr(Trainer, "_train_step", spoil)
    settings = [*overrides("ternary-learned"), "train.tokens=128"]
    message = r"'layers\.1\.mlp\.experts\.gate_up_proj' has a learned scale of 0 times .* at step 1"
    with pytest.raises(ProblemError, match=message):
        command("train", config_file, *settings, "--runs", tmp_path)
    assert not list(tmp_path.glob("quickstart/2*/checkpoints/step-*"))


def test_a_plan_of_one_quantizer_serves_the_roles_that_it_names():
    registry = Registry.discover()
    plan = StoragePlan.of(registry.build("quantizer", {"use": "int8", "roles": ["head"]}))
    assert plan.formats.keys() == {ParameterRole.HEAD}


def test_the_size_of_a_plan_is_the_sum_of_its_packed_tensors_and_explain_says_who_chose_it(
    command, config_file, tmp_path, read_json
):
    storage = "model.quantizer={weights: {use: ternary, group: 64}, embedding: int8, head: int8}"
    result = command("train", config_file, storage, "train.tokens=128", "--runs", tmp_path)
    composition = restore(Path(result["run_dir"]), Registry.discover()).composition
    row = read_json(Path(result["run_dir"]) / "sizes.json")[-1]
    assert row["format"] == "ternary-base3-g64 (matrix, expert), int8-rows (embedding, head), rest fp32"
    stored = stored_tensors(composition)
    assert row["bytes"] == sum(each.bytes for each in stored)
    assert {each.parameter for each in stored} == {name for name, _ in composition.module.named_parameters()}
    explained = command("config", "explain", config_file, "storage", "--set", storage)
    rows = {each["path"]: (each["value"], each["source"]) for each in explained}
    assert rows["storage.expert.group"] == (64, "command line, override 1 (model.quantizer.weights)")
    assert rows["storage.head.use"][0] == "penstock-quant158:int8"
    assert rows["storage.norm"] == ("fp32", "no quantizer")
    with pytest.raises(ProblemError, match=r"the model stores no 'storage\.heads'"):
        command("config", "explain", config_file, "storage.heads")


def test_a_quantizer_whose_roles_the_built_model_lacks_is_refused_before_the_run(config_file, tmp_path):
    """What settings tell is found earlier, and only the model itself has the last word."""
    dense = ["model.first_k_dense_replace=3", "model.balance=[]", "model.quantizer={matrix: int8, expert: ternary}"]
    config, _ = read_run_config(config_file, dense, Registry.discover())
    with pytest.raises(ProblemError, match=r"model\.quantizer\.expert: 'ternary' finds no parameter of its role"):
        the_model_fits_together(Planned(config, tmp_path))


def test_the_example_fits_together(tmp_path):
    example = Path(__file__).parents[1] / "configs" / "ternary.yaml"
    config, _ = load_run_config(example, [], Registry.discover())
    planned = Planned(config, tmp_path)
    the_model_fits_together(planned)
    formats = {each.format for each in stored_tensors(planned.composition)}
    assert formats == {"ternary-base3-g128", "int8-rows", "fp32"}
