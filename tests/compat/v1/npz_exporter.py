"""An exporter for whoever has numpy and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import LanguageModel


class NpzExporter:
    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        weights, config = folder / "weights.npz", folder / "config.json"
        state = model.export_state(materialize=True)
        np.savez(weights, **{name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()})
        config.write_text(json.dumps(model.export_config()))
        return [weights, config, Path(shutil.copy(tokenizer_file, folder))]


@hookimpl
def exporters() -> list[Component]:
    return [
        Component(kind="exporter", name="npz", target="npz_exporter:NpzExporter", summary="numpy arrays", contract=1)
    ]
