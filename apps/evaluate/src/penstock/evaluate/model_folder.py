"""A folder of transformers as something to evaluate: `config.json`, safetensors and tokenizer of a causal model.

An architecture of ours reads it where it computes the same; any other model is read by transformers, through the plugin
`penstock-hf-models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from penstock.data_prep.hub_tokenizer import HubTokenizer
from penstock.hooks.architecture import architecture_settings, layer_routers, promised_positions
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run import messages
from penstock.train.checkpoint import MANIFEST, sha256
from penstock.train.compose import build_architecture, pick_device

OURS = {"gpt2": "gpt", "glm4_moe": "glm-moe"}
"""Our architectures that read folders of a type of transformers."""
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How classes that predict the next token end."""


def is_model_folder(path: Path) -> bool:
    return (path / "config.json").is_file() and not (path / "config.resolved.yaml").exists()


@dataclass(frozen=True)
class ModelFolder:
    """A folder of which nothing is loaded yet but config and tokenizer. `positions` is the longest text that its model
    reads, None if the config does not say."""

    path: Path
    architecture: Choice
    tokenizer: HubTokenizer
    positions: int | None

    @classmethod
    def open(cls, path: Path, registry: Registry) -> ModelFolder:
        """Raises `ProblemError` for a folder without weights or tokenizer, for a model that does not predict the next
        token, for one that nothing installed can read, and for a tokenizer of another model."""
        config = _config(path)
        _require_causal(config, path)
        if not list(path.glob("*.safetensors")):
            what, fix = "the folder has no weights (*.safetensors)", "write them with save_pretrained of transformers"
            raise ProblemError(Problem("missing-file", what, str(path), fix))
        architecture = _architecture(config, path, registry)
        tokenizer = HubTokenizer.load(path, _end_of_text(config))
        rows = architecture_settings(architecture).vocab_size
        if rows is not None and tokenizer.vocabulary_size > rows:
            what = f"its tokenizer has {tokenizer.vocabulary_size} tokens, but the model has only {rows} embeddings"
            raise ProblemError(Problem("vocabulary-mismatch", what, str(path), "use the model's own tokenizer"))
        if not tokenizer.lossless:
            what = "its tokenizer changes text, so bits per byte are approximate where a task counts tokens' bytes"
            messages.note(f"{path}: {what}")
        return cls(path, architecture, tokenizer, promised_positions(config))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def load(self) -> LanguageModel:
        """The model with its weights, in evaluation mode; raises `ProblemError` for weights that are damaged or those
        of another model."""
        settings = architecture_settings(self.architecture)
        routers = layer_routers(settings, settings.expert_layers)
        model = build_architecture(
            self.architecture,
            pick_device("auto"),
            make_router=lambda layer, **context: routers[layer].build(**context),
            quantizer=None,
        )
        cast(nn.Module, model).eval()
        return model

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of the files that the weights are in, and of the config, by name."""
        return {
            file.name: sha256(file) for file in [self.path / "config.json", *sorted(self.path.glob("*.safetensors"))]
        }


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if (path / MANIFEST).is_file() and (path / "trainer.pt").is_file():
        what, fix = "a checkpoint of a run, whose weights may need its config", f"give the run, {path.parent.parent}"
        raise ProblemError(Problem("bad-value", what, str(path), fix))
    try:
        config = parse_json(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ProblemError(Problem("damaged-file", f"not JSON ({error})", str(file), "download it again")) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        what, fix = "does not say the type of its model (model_type)", "give a folder that transformers wrote"
        raise ProblemError(Problem("unsupported-model", what, str(file), fix))
    return cast("dict[str, Any]", config)


def _require_causal(config: Mapping[str, Any], path: Path) -> None:
    classes = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if classes and not any(name.endswith(CAUSAL) for name in classes):
        what = f"the model is {' and '.join(classes)}, which does not predict the next token"
        raise ProblemError(Problem("wrong-task", what, str(path), "give a causal model, such as GPT2LMHeadModel"))


def _architecture(config: Mapping[str, Any], path: Path, registry: Registry) -> Choice:
    kind = config["model_type"]
    try:
        return registry.choose("architecture", {"use": OURS.get(kind, "hf"), "pretrained": str(path)}, str(path))
    except ProblemError as error:
        if kind in OURS and registry.lookup("architecture", "hf") is not None:
            return registry.choose("architecture", {"use": "hf", "pretrained": str(path)}, str(path))
        needed = f"reads the type '{kind}' of transformers through "
        told = [
            replace(each, what=f"{needed}{each.what}") if each.code == "unknown-component" else each
            for each in error.problems
        ]
        raise ProblemError(told, error.exit_code) from error


def _end_of_text(config: Mapping[str, Any]) -> int | None:
    ends = config.get("eos_token_id")
    first = next(iter(ends), None) if isinstance(ends, list) else ends
    return first if type(first) is int else None
