"""Exporters that break one law each; the good one writes config, tokenizer and weights as they are."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from broken.described import described
from penstock.hooks.problems import Problem, ProblemError


class Good:
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        save_file(self.weights(model), folder / "model.safetensors")
        (folder / "config.json").write_text(self.config(model))
        shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
        return [folder / name for name in ("config.json", "model.safetensors", "tokenizer.json")]

    def config(self, model: Any) -> str:
        return json.dumps(model.export_config())

    def weights(self, model: Any) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in model.export_state(materialize=True).items()}


class Silent(Good):
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        super().export(model, tokenizer_file, folder)


class Forgetful(Good):
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        return super().export(model, tokenizer_file, folder)[:-1]


class Littering(Good):
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        (folder.parent / "weights.tmp").touch()
        return super().export(model, tokenizer_file, folder)


class NotANumber(Good):
    def config(self, model: Any) -> str:
        return json.dumps({**model.export_config(), "scale": float("nan")})


class Renaming(Good):
    def config(self, model: Any) -> str:
        return json.dumps({**model.export_config(), "vocab_size": 64})


class Masters(Good):
    def weights(self, model: Any) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in model.export_state().items()}


class Freezing(Good):
    def weights(self, model: Any) -> dict[str, torch.Tensor]:
        return super().weights(model.requires_grad_(False))


class Numbered(Good):
    def config(self, model: Any) -> str:
        return json.dumps({**model.export_config(), "id": uuid.uuid4().hex})


class Appending(Good):
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        log = folder / "exports.txt"
        files = super().export(model, tokenizer_file, folder)
        log.write_text((log.read_text() if log.exists() else "") + "exported\n")
        return [*files, log]


class Emptying(Good):
    def export(self, model: Any, tokenizer_file: Path, folder: Path) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return super().export(model, tokenizer_file, folder)


class GoodRun:
    """Of contract 2: one file, whole or not at all."""

    suffix = ".txt"

    def export(self, trained: Any, path: Path, progress: Any = None) -> Any:
        if path.exists() and not path.read_text().startswith("tiny\n"):
            raise ProblemError(Problem("file-not-ours", "not an export", str(path), "choose another file"))
        lines = [f"{name} {tensor.tolist()}" for name, tensor in trained.state.items()]
        for number in range(len(lines)):
            self.tell(progress, number + 1, len(lines))
        path.write_text("\n".join(["tiny", *lines]))
        return [path]

    def tell(self, progress: Any, done: int, total: int) -> None:
        if progress:
            progress(done, total)


class Hasty(GoodRun):
    def export(self, trained: Any, path: Path, progress: Any = None) -> Any:
        if path.exists():
            return super().export(trained, path, progress)
        path.write_text("tiny\n")
        return super().export(trained, path, progress)


class Endless(GoodRun):
    def tell(self, progress: Any, done: int, total: int) -> None:
        super().tell(progress, done, total + 1)


new = described("exporter", "An exporter of contract 2 that breaks one law", contract=2)
of = described("exporter", "An exporter that breaks one law")
GOOD = of(Good)
BROKEN = {
    "exporter/files-are-returned": of(Silent),
    "exporter/every-file-is-in-the-folder": of(Forgetful),
    "exporter/nothing-else-is-written": of(Littering),
    "exporter/documents-are-json": of(NotANumber),
    "exporter/the-config-is-that-of-the-model": of(Renaming),
    "exporter/weights-are-those-that-the-model-computes-with": of(Masters),
    "exporter/the-model-stays": of(Freezing),
    "exporter/equal-models-give-equal-files": of(Numbered),
    "exporter/an-export-over-an-earlier-one-is-the-same-or-refused": of(Appending),
    "exporter/files-of-others-are-kept": of(Emptying),
    "exporter/an-export-that-is-stopped-leaves-what-was-there": new(Hasty),
    "exporter/progress-ends-at-its-total": new(Endless),
}
