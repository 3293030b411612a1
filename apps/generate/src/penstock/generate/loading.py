"""From a path to a model that generates: a run, one of its checkpoints, or a folder in the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from penstock.data_prep.chat_template import folder_template, special_tokens, tokenizer_config
from penstock.data_prep.published import PublishedTokenizer
from penstock.generate.model import TRAINED_SPECIAL, TextModel
from penstock.generate.torch_tokens import tokens_of
from penstock.hooks.architecture import architecture_settings, layer_routers, require_next_token
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Choice, Registry
from penstock.quant158 import native
from penstock.run.config import RESOLVED
from penstock.run.directory import RunDirectory, newest_run
from penstock.train.artifact import OpenedArtifact
from penstock.train.checkpoint import MANIFEST, verify_checkpoint
from penstock.train.compose import build_architecture, pick_device
from penstock.train.restore import Restored, restore_artifact, restore_run

GENERATING = "text generation"
OWN_ARCHITECTURES = {"bert": "bert", "glm4_moe": "glm-moe"}
"""Model types of the Hugging Face layout that we build ourselves; `hf` builds the others with transformers."""


def load_model(path: Path, registry: Registry) -> TextModel:
    """The model of a run, checkpoint or folder, in torch; see `penstock.generate.load`."""
    if (path / RESOLVED).is_file():
        return _of_run(path, registry)
    if (path.resolve().parent.parent / RESOLVED).is_file() and (path / MANIFEST).is_file():
        return _of_run(path.resolve().parent.parent, registry, path)
    if run := newest_run(path):
        return _of_run(run, registry)
    if (path / MANIFEST).is_file() and (path / "trainer.pt").is_file():
        what, fix = "a checkpoint without its run, whose config says how to read it", "give the run's folder"
        raise failed("not-a-model", what, str(path), fix)
    if not (path / "config.json").is_file():
        what = "not a run, nor a folder with config.json" if path.exists() else "folder not found"
        fix = "give a run, such as runs/quickstart, or a folder in the Hugging Face layout"
        raise ProblemError(Problem("not-a-model", what, str(path), fix))
    return _of_folder(path, registry)


def _of_run(path: Path, registry: Registry, checkpoint: Path | None = None) -> TextModel:
    """Of the newest checkpoint, or of a given one. An encoder is refused before any weight is read."""
    require_next_token(RunDirectory.open(path).config(registry).model, GENERATING, str(path))
    return _of_trained(restore_run(path, registry, None if checkpoint is None else verify_checkpoint(checkpoint)))


def load_artifact(path: Path, registry: Registry) -> tuple[TextModel, str]:
    """The model of an artifact, in torch, and what computes it, such as "torch with the kernel avx2"."""
    opened = OpenedArtifact.open(path, registry)
    require_next_token(opened.config.model, GENERATING, str(path))
    restored = restore_artifact(opened, packed=True)
    module = cast(nn.Module, restored.model)
    if any(parameter.is_meta for parameter in module.parameters()):
        return _of_trained(restored), f"torch with the kernel {native.kernel().name}"
    device = next(module.parameters()).device
    dtype = restored.config.train.dtype
    return _of_trained(restored), f"torch in {dtype}{'' if device.type == 'cpu' else f' on {device}'}"


def _of_trained(restored: Restored) -> TextModel:
    end = restored.tokenizer.end_of_text
    _require_next_token(restored.model)
    return TextModel(
        name=str(restored.path),
        model=restored.model,
        next_tokens=tokens_of(restored.model),
        vocabulary_size=restored.model.vocabulary_size,
        tokenizer=PublishedTokenizer.of_trained(restored.tokenizer_json),
        config=restored.config,
        begins=(end,),  # as documents did in training
        ends=frozenset((end, *_ids(restored.model.export_config().get("eos_token_id")))),
        positions=architecture_settings(restored.config.model).max_positions,
        special=dict(TRAINED_SPECIAL),
    )


def _of_folder(folder: Path, registry: Registry) -> TextModel:
    config, of_tokenizer = _json(folder / "config.json"), tokenizer_config(folder)
    kind = str(config.get("model_type"))
    if kind.startswith("penstock_"):
        what, fix = f"a model of Penstock's own kind '{kind}', which only its run can build", "give the run's folder"
        raise failed("not-a-model", what, str(folder), fix)
    use = OWN_ARCHITECTURES.get(kind, "hf")
    tokenizer = PublishedTokenizer.of_model(str(folder))
    with _at(folder):
        choice = registry.choose("architecture", {"use": use, "pretrained": str(folder)})
        require_next_token(choice, GENERATING, str(folder))
        model = _built(choice)
    cast(nn.Module, model).eval()
    _require_next_token(model)
    special = special_tokens(of_tokenizer)
    end = tokenizer.prompt(special.get("eos_token", ""), spelled=True)
    ends = {
        *_ids(_json(folder / "generation_config.json").get("eos_token_id")),
        *_ids(config.get("eos_token_id")),
        *(end if len(end) == 1 else ()),  # text of several tokens is no special token of this vocabulary
    }
    return TextModel(
        name=str(folder),
        model=model,
        next_tokens=tokens_of(model),
        vocabulary_size=model.vocabulary_size,
        tokenizer=tokenizer,
        config=None,
        begins=(),  # what the tokenizer puts before a text is what the model was trained with
        ends=frozenset(ends),
        positions=architecture_settings(choice).max_positions,
        template=folder_template(folder, of_tokenizer),
        special=special,
    )


def _built(choice: Choice) -> LanguageModel:
    settings = architecture_settings(choice)
    routers = layer_routers(settings, settings.expert_layers)
    return build_architecture(
        choice,
        pick_device("auto"),
        vocab_size=settings.vocab_size,
        eos_token_id=settings.eos_token_id,
        make_router=lambda layer, **context: routers[layer].build(**context),
        quantizer=None,
    )


def _require_next_token(model: LanguageModel) -> None:
    """A model that predicts anything but the next token says so when it is asked to generate."""
    device = next(cast(nn.Module, model).parameters()).device
    model.generate(torch.zeros(1, 1, dtype=torch.int64, device=device), tokens=1)


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is no file."""
    try:
        value = parse_json(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise failed("damaged-file", f"not valid JSON ({error})", str(path), "save or download it again") from error
    if not isinstance(value, dict):
        raise failed("damaged-file", "not a JSON object", str(path), "save or download it again")
    return value


def _ids(value: Any) -> list[int]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]


@contextmanager
def _at(folder: Path) -> Iterator[None]:
    """Reports errors at the folder instead of at a config that nobody wrote."""
    try:
        yield
    except ProblemError as error:
        problems = [
            problem if str(folder) in problem.where else replace(problem, where=str(folder))
            for problem in error.problems
        ]
        raise ProblemError(problems, error.exit_code) from error
