"""BERT against transformers' classes, in value and gradient, and its checkpoints in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from penstock.hooks.contracts import Inputs, ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.moe_core.bert.huggingface import from_hub_names, to_hub_names
from penstock.moe_core.bert.model import Bert, BertForMaskedLM, BertForTask, bert
from penstock.moe_core.layers.site import own_state

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "vocab_size": 60,
}
HEADS: dict[str, dict[str, Any]] = {
    "masked-lm": {},
    "classification": {"labels": 3},
    "tags": {"labels": 5},
    "spans": {},
}
LENGTHS = (9, 4, 7)


def build(task: str = "masked-lm", seed: int = 0, **settings: Any) -> Bert:
    torch.manual_seed(seed)
    model = bert(**SIZES, **settings, head={"task": task, **HEADS[task]})
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, so that each of them shows
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def reference(model: Bert) -> Any:
    """transformers' model with the same weights, as it loads an export of ours."""
    config = transformers.AutoConfig.for_model(**model.export_config())
    theirs = getattr(transformers, model.export_config()["architectures"][0])(config).eval()
    state = {name: tensor.clone() for name, tensor in model.export_state().items()}
    missing, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown
    assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # the two ties
    theirs.tie_weights()
    return theirs


def padded_pairs() -> Inputs:
    """Two texts a row, the second of type 1, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    token_BS = torch.randint(0, 60, (len(LENGTHS), max(LENGTHS)), generator=generator)
    column_S = torch.arange(max(LENGTHS))
    real_BS = column_S < torch.tensor(LENGTHS)[:, None]
    return Inputs(token_BS, real_BS=real_BS, type_BS=((column_S >= 3) & real_BS).long())


def given(inputs: Inputs) -> dict[str, Tensor]:
    assert inputs.real_BS is not None
    assert inputs.type_BS is not None
    return {"input_ids": inputs.token_BS, "attention_mask": inputs.real_BS.long(), "token_type_ids": inputs.type_BS}


def test_masked_language_modelling_has_the_logits_loss_and_gradients_of_transformers() -> None:
    model, inputs = build(), padded_pairs()
    assert isinstance(model, BertForMaskedLM)
    theirs, real_BS = reference(model), inputs.real_BS
    assert real_BS is not None
    mask_BS = (torch.arange(inputs.token_BS.numel()).view_as(inputs.token_BS) % 3 == 0) & real_BS
    target_BS = torch.where(mask_BS, (inputs.token_BS + 1) % 60, -100)
    expected = theirs(**given(inputs), labels=target_BS)
    assert (model.logits(model(inputs).hidden_BSD) - expected.logits)[real_BS].abs().max() < 1e-5
    output = model.masked_token_loss(inputs, target_BS, mask_BS)
    assert torch.allclose(output.loss / mask_BS.sum(), expected.loss, rtol=1e-6)
    assert torch.allclose(output.nll_BS.sum(), output.loss, rtol=1e-6)
    assert not output.nll_BS[~mask_BS].any()
    (output.loss / mask_BS.sum()).backward()
    expected.loss.backward()
    require_equal_gradients(model, theirs)


@pytest.mark.parametrize("task", ["classification", "tags", "spans"])
def test_a_task_has_the_logits_and_gradients_of_transformers(task: str) -> None:
    model, inputs = build(task), padded_pairs()
    assert isinstance(model, BertForTask)
    theirs, real_BS = reference(model), inputs.real_BS
    output = theirs(**given(inputs))
    expected = torch.stack((output.start_logits, output.end_logits), -1) if task == "spans" else output.logits
    found = model.task_logits(inputs)
    counted = torch.ones(len(LENGTHS), dtype=torch.bool) if task == "classification" else real_BS
    assert (found - expected)[counted].abs().max() < 1e-5
    for logits in (found, expected):
        F.cross_entropy(logits[counted], torch.zeros_like(logits[counted][..., 0]).long()).backward()
    require_equal_gradients(model, theirs)


def require_equal_gradients(model: Bert, theirs: Any) -> None:
    """Within 1e-5 of the largest of each tensor, tied ones by their one name. The bias of keys has no gradient: it
    moves all scores of a query alike, and what is left is rounding."""
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    found = to_hub_names(grads)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        largest = 1.0 if name.endswith("key.bias") else float(expected[name].abs().max())
        assert (gradient - expected[name]).abs().max() <= 1e-5 * largest, name


def test_the_head_is_tied_in_weight_and_bias() -> None:
    model = build()
    assert model.tied
    assert not any(name.startswith("cls.predictions.decoder") for name in model.export_state())
    assert "lm_head.weight" not in model.parameter_roles()
    untied = build(tie_word_embeddings=False)
    assert not untied.tied
    assert "cls.predictions.decoder.weight" in untied.export_state()
    assert untied.export_config()["tie_word_embeddings"] is False


@pytest.mark.parametrize("task", HEADS)
def test_a_state_goes_out_and_in_bit_for_bit(task: str) -> None:
    model, other = build(task), build(task, seed=1)
    other.load_export_state(model.export_state())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_names_of_any_age_are_read() -> None:
    model = build()
    state = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): each for name, each in model.export_state().items()}
    state = {name.replace("LayerNorm.bias", "LayerNorm.beta"): each for name, each in state.items()}
    state |= {
        "bert.embeddings.position_ids": torch.arange(24)[None],
        "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": state["cls.predictions.bias"],
    }
    loaded = from_hub_names(state, tied=True)
    assert loaded.keys() == own_state(model).keys()
    bare = {name.removeprefix("bert."): each for name, each in build("classification").export_state().items()}
    assert from_hub_names(bare, tied=False).keys() == own_state(build("classification")).keys()


def test_a_tie_that_does_not_hold_is_refused() -> None:
    state = build().export_state()
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"] + 1
    with pytest.raises(ProblemError, match=r"'cls\.predictions\.decoder\.bias' differs from 'cls\.predictions\.bias'"):
        build().load_export_state(state)
    state = build().export_state()
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"] + 1
    with pytest.raises(ProblemError, match=r"'cls\.predictions\.decoder\.weight' differs from 'bert\.emb.* remove cls"):
        build().load_export_state(state)


def test_a_head_that_is_not_tied_keeps_its_bias_in_transformers(tmp_path: Path) -> None:
    """Which adds the bias of the decoder then, and none other."""
    model: Any = build(tie_word_embeddings=False)
    save_file(model.published_state(), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(model.published_config()))
    token_BS = torch.arange(12).view(2, 6)
    expected = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()(token_BS).logits
    torch.testing.assert_close(model.logits(model(token_BS).hidden_BSD), expected, atol=1e-5, rtol=1e-5)
    build(tie_word_embeddings=False, seed=1).load_export_state(load_file(tmp_path / "model.safetensors"))


def write(folder: Path, model: Any) -> Path:
    """A folder that transformers wrote."""
    model.save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_gives_sizes_and_weights(tmp_path: Path) -> None:
    theirs = reference(build())
    folder = write(tmp_path / "bert", theirs)
    model = bert(pretrained=folder)
    assert isinstance(model, BertForMaskedLM)
    inputs = padded_pairs()
    expected = theirs(**given(inputs)).logits
    assert (model.eval().logits(model(inputs).hidden_BSD) - expected)[inputs.real_BS].abs().max() < 1e-5


def test_a_head_that_the_folder_lacks_starts_fresh_and_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", reference(build()))
    model = bert(pretrained=folder, head={"task": "classification", "labels": 4})
    assert isinstance(model, BertForTask)
    fresh, left = model.start_notes
    assert "fresh weights of pooler, classifier" in fresh
    assert "lm_head, masked_lm.norm, masked_lm.transform of the checkpoint is left out" in left
    body = load_file(folder / "model.safetensors")["bert.encoder.layer.1.output.dense.weight"]
    assert torch.equal(model.get_parameter("layers.1.mlp.down_proj.weight"), body)


def test_a_folder_of_the_body_alone_is_read(tmp_path: Path) -> None:
    model = build("classification")
    state = {name.removeprefix("bert."): each.clone() for name, each in model.export_state().items() if "bert" in name}
    (tmp_path / "config.json").write_text(json.dumps({**model.export_config(), "architectures": ["BertModel"]}))
    save_file(state, tmp_path / "model.safetensors")
    loaded = bert(pretrained=tmp_path, head={"task": "classification", "labels": 2})
    assert "fresh weights of classifier" in loaded.start_notes[0]
    assert torch.equal(loaded.get_parameter("pooler.weight"), model.get_parameter("pooler.weight"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "roberta"}, "type 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_a_folder_that_is_no_such_encoder_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**build().export_config(), **changes}))
    with pytest.raises(ValueError, match=said):
        bert(pretrained=tmp_path)


def test_a_body_that_does_not_fit_is_refused_with_its_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", reference(build()))
    state = load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ProblemError, match=r"layers\.1\.mlp\.down_proj\.weight.* missing"):
        bert(pretrained=folder)


def test_dropout_changes_training_and_not_evaluation() -> None:
    model, token_BS = build(dropout=0.1), padded_pairs().token_BS
    plain = build()
    assert torch.equal(model(token_BS).hidden_BSD, plain(token_BS).hidden_BSD)
    torch.manual_seed(0)
    first, second = model.train()(token_BS).hidden_BSD, model(token_BS).hidden_BSD
    assert not torch.equal(first, second)


def test_roles_are_those_of_the_matrices_they_are() -> None:
    roles = build("classification").parameter_roles()
    assert roles["classifier.weight"] == ParameterRole.HEAD
    assert roles["pooler.weight"] == ParameterRole.MATRIX
    assert roles["embed_types.weight"] == ParameterRole.EMBEDDING
    assert roles["layers.0.mlp_norm.weight"] == ParameterRole.NORM
    assert roles["layers.0.mlp_norm.bias"] == ParameterRole.BIAS
    assert all(roles[name] == site.role for name, site in build("classification").weight_sites().items())


def test_the_base_size_has_the_parameters_of_bert_base() -> None:
    with torch.device("meta"):
        model = bert(preset="bert-base", head={"task": "classification", "labels": 2})
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(size for name, size in sizes.items() if not name.startswith("classifier")) == 109_482_240


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"task": "next-token"}, "an encoder sees the next token"),
        ({"task": "classification"}, "classification needs the number of labels"),
        ({"task": "spans", "labels": 2}, "spans has no labels"),
    ],
)
def test_a_head_that_cannot_be_is_refused(head: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bert(**SIZES, head=head)


def test_a_position_without_an_embedding_is_named() -> None:
    with pytest.raises(ProblemError, match="position 24 has no embedding: the model has 24, counted from 0"):
        build()(torch.zeros(1, 25, dtype=torch.long))
