"""From the settings of the architecture `hf` to a model: `hf_model` is the component's target."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto

from penstock.hooks.contracts import Quantizer, RouterFactory
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock_hf_models.model import CausalModel, HfModel, MaskedModel, SequenceToSequenceModel
from penstock_hf_models.weights import loaded

TASKS: dict[str, tuple[type[HfModel], Any, Any]] = {
    "causal": (CausalModel, AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "masked": (MaskedModel, AutoModelForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "seq2seq": (
        SequenceToSequenceModel,
        AutoModelForSeq2SeqLM,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    ),
}


def hf_model(
    *,
    task: Literal["causal", "masked", "seq2seq"] = "causal",
    model_type: str | None = None,
    settings: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    pretrained: str | None = None,
    revision: str | None = None,
    vocab_size: int | None = None,
    eos_token_id: int | list[int] | None = None,
    make_router: RouterFactory | None = None,
    quantizer: Quantizer | None = None,
) -> HfModel:
    """A model with random weights, drawn from the global torch generator, or pretrained ones.

    `make_router` is part of the contract of architectures and is never called: the model brings its own routers. A
    `quantizer` is a `ProblemError`. A pretrained model keeps its vocabulary, which may be larger than `vocab_size`.
    On the meta device no weights are read.
    """
    origins = {"pretrained": pretrained, "config_file": config_file}
    if quantizer is not None:
        what = "quantizers are not supported in transformers models"
        raise ProblemError(Problem("unsupported", what, "model.quantizer", "remove it, or use glm-moe"))
    if pretrained is not None:
        config = _published(pretrained, revision)
        _require_rows(config, vocab_size)
    else:
        config = _config(model_type, config_file, dict(settings or {}), vocab_size)
    if eos_token_id is not None:
        config.eos_token_id = eos_token_id
    wrapper, auto, supported = TASKS[task]
    if config.model_type not in supported:
        raise ProblemError(_other_task(task, config.model_type))
    if task == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = True  # an encoder such as BERT would see the tokens that it is to predict
    origin = next((name for name, given in origins.items() if given is not None), "settings")
    return wrapper(_network(auto, config, pretrained, revision, f"model.{origin}"))


def _network(
    auto: Any, config: PreTrainedConfig, pretrained: str | None, revision: str | None, origin: str
) -> PreTrainedModel:
    if pretrained is not None and not torch.empty(0).is_meta:
        return loaded(auto, str(_local(pretrained)), config=config, **_at(revision))
    try:
        return auto.from_config(config, dtype=torch.float32)
    except Exception as error:  # of whatever the class computes with its config's numbers and names
        what = f"{config.model_type} cannot be built ({type(error).__name__}: {' '.join(str(error).split())})"
        raise ProblemError(Problem("bad-value", what, origin, "correct the settings or the config.json")) from error


def _published(pretrained: str, revision: str | None) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(str(_local(pretrained)), **_at(revision))
    except (OSError, ValueError) as error:
        what = f"model not found ({str(error).splitlines()[0]})"
        fix = "name a folder with config.json and safetensors, or a reachable model on the hub"
        raise ProblemError(Problem("missing-model", what, "model.pretrained", fix)) from error
    except Exception as error:  # of whatever the config's class computes with its fields
        what = f"its config.json cannot be used ({' '.join(str(error).split())})"
        raise ProblemError(Problem("bad-value", what, "model.pretrained", "save or download it again")) from error


def _config(
    model_type: str | None, config_file: Path | None, settings: dict[str, Any], vocab_size: int | None
) -> PreTrainedConfig:
    """Random weights: the config of a type or of a file, with what the settings say."""
    given: dict[str, Any] = {}
    if config_file is not None:
        if not os.path.exists(expanded(config_file)):
            raise ProblemError(Problem("missing-file", "file not found", str(config_file), "name a config.json"))
        given = _published(str(config_file), None).to_dict()
        model_type = given.pop("model_type")
    if model_type is None or model_type not in CONFIG_MAPPING:
        what = f"transformers has no model type '{model_type}'"
        raise ProblemError(
            Problem("bad-value", what, "model.model_type", did_you_mean(str(model_type), CONFIG_MAPPING))
        )
    kind = CONFIG_MAPPING[model_type]
    _require_known(kind, settings)
    rows = {} if vocab_size is None else {"vocab_size": vocab_size}
    try:
        config = kind(**{**given, **settings, **rows})
    except Exception as error:  # of whatever the config's class computes with its fields
        what = " ".join(str(error).split())
        named = (
            what
            if isinstance(error, (StrictDataclassError, TypeError, ValueError))
            else f"{type(error).__name__}: {what}"
        )
        raise ProblemError(
            Problem("bad-value", f"{model_type} refuses its config ({named})", "model.settings")
        ) from error
    _forget_tokens_beyond(config)
    return config


def _require_known(kind: type[PreTrainedConfig], settings: Mapping[str, Any]) -> None:
    """transformers accepts any field name; one that neither config nor model reads is a typo.
    Some models read fields that their config does not declare (head_dim of qwen3_moe)."""
    declared = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    sources = Path(inspect.getfile(kind)).parent.glob("modeling_*.py")
    read = {word for source in sources for word in re.findall(r"\w+", source.read_text(encoding="utf-8"))}
    problems = [
        Problem(
            "unknown-field",
            f"{kind.model_type} has no field '{name}'",
            f"model.settings.{name}",
            did_you_mean(name, declared),
        )
        for name in settings
        if name not in declared | read
    ]
    if problems:
        raise ProblemError(problems)


def _forget_tokens_beyond(config: PreTrainedConfig) -> None:
    """Default special tokens are those of the type's published tokenizer and may lie outside a small vocabulary."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, int) and token >= getattr(config, "vocab_size", token + 1):
            setattr(config, name, None)


def _require_rows(config: PreTrainedConfig, vocab_size: int | None) -> None:
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if vocab_size is not None and rows is not None and rows < vocab_size:
        what = f"the tokenizer has {vocab_size} tokens, but the pretrained model has {rows} embeddings"
        fix = "use the model's own tokenizer"
        raise ProblemError(Problem("vocabulary-mismatch", what, "data.tokenizer.file", fix))


def _other_task(task: str, model_type: str) -> Problem:
    others = [name for name, (_, _, supported) in TASKS.items() if model_type in supported]
    fix = f"write `task: {others[0]}`" if others else "it is not a language model"
    return Problem("bad-value", f"transformers has no {task} model of type {model_type}", "model.task", fix)


def _local(name: str) -> Path | str:
    """A local folder if it exists, otherwise a name on the hub."""
    path = expanded(name)
    return path if os.path.exists(path) else name


def _at(revision: str | None) -> dict[str, str]:
    return {} if revision is None else {"revision": revision}
