"""`penstock export`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.hooks.architecture import architecture_settings, require_next_token
from penstock.hooks.contracts import PartlyFrozen, Prediction, RunExporter
from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Choice, Registry
from penstock.run.directory import RunDirectory

if TYPE_CHECKING:
    from penstock.deploy.verify import Verification
    from penstock.train.restore import RestoredRun

TRANSFORMERS = "transformers"
"""The engine of exports that reads encoders too; the others serve what comes next."""
FORMATS = {TRANSFORMERS: "hf", "vllm": "hf", "sglang": "hf", "llama-cpp": "gguf"}
"""The exporter that writes what an engine reads."""


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "exporter",
    help="Exporter: NAME or {use: NAME, ...}, such as '{use: hf, dtype: float32}'. Default: hf, or what --for reads.",
)
@click.option(
    "--for",
    "engine",
    metavar="ENGINE",
    help="What the export is for: transformers (default), vllm, sglang or llama-cpp.",
)
@click.option(
    "--verify",
    "server",
    metavar="SERVER",
    help="Start this server with the export, and compare its greedy texts with the model's: NAME or {use: NAME, ...}, "
    "such as '{use: vllm, python: ENV/bin/python}'. Implies --for.",
)
@click.option(
    "--compress",
    type=click.Choice(["lzma"]),
    help="Store the weights of the format penstock entropy-coded where that is smaller: slower to load. Short for "
    "`compress` of the exporter.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write (default: RUN/export-NAME), or file where the format is one (default: RUN/model.NAME).",
)
@output.json_option
@click.pass_obj
def export(
    registry: Registry,
    run_path: Path,
    exporter: str | None,
    engine: str | None,
    server: str | None,
    compress: str | None,
    out: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Export RUN's newest checkpoint for other software; the format `hf` loads in transformers.

    The format `penstock` is one file with packed weights, config and tokenizer: evaluate, generate, chat and profile
    take it in place of RUN.
    """
    from penstock.train.restore import restore_run

    asked: Any = None if server is None else parse_value(server, "--verify")[0]
    verifier = None if asked is None else registry.choose("server", asked, "--verify")
    if verifier is not None and engine is None and verifier.entry.component.name in FORMATS:
        engine = verifier.entry.component.name
    choice = _chosen(registry, exporter, engine, compress)
    served_by = engine or getattr(choice.settings, "engine", TRANSFORMERS)
    if served_by != TRANSFORMERS or verifier is not None:
        require_next_token(RunDirectory.open(run_path).config(registry).model, f"an export for {served_by}", "--for")
    restored = restore_run(run_path, registry)
    contract = choice.entry.component.contract
    files = _export_model(choice, restored, out) if contract < 2 else _export_run(choice, restored, out)
    result = _result(choice, files)
    if verifier is None:
        output.print_result(result, as_json, lambda: _text(result))
        return result
    written = Path(result.get("artifact", result["folder"]))
    verification = _verified(verifier, restored, written, result["dtype"])
    result["verified"] = asdict(verification)
    output.print_result(result, as_json, lambda: f"{_text(result)}\n\n{verification.text()}")
    verification.require_equal()
    return result


def _export_model(choice: Choice, restored: RestoredRun, out: Path | None) -> list[Path]:
    folder = out or restored.path / f"export-{choice.entry.component.name}"
    from penstock.data_prep.tokenizer import beginning_with_end_of_text

    model = restored.model.merged() if isinstance(restored.model, PartlyFrozen) else restored.model
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = Path(temporary) / "tokenizer.json"
        encoder = architecture_settings(restored.config.model).predicts != Prediction.NEXT_TOKEN
        tokenizer.write_bytes(beginning_with_end_of_text(restored.tokenizer_json, ending=encoder))
        return choice.build().export(model, tokenizer, folder)


def _export_run(choice: Choice, restored: RestoredRun, out: Path | None) -> list[Path]:
    from penstock.cli.stage_progress import StageProgress
    from penstock.train.restore import trained_model

    exporter: RunExporter = choice.build()
    default = f"model{exporter.suffix}" if exporter.suffix else f"export-{choice.entry.component.name}"
    path = out or restored.path / default
    if exporter.suffix and path.suffix != exporter.suffix:
        what, fix = f"'{path.name}' does not end in {exporter.suffix}", f"write --out {path}{exporter.suffix}"
        raise ProblemError(Problem("bad-value", what, "--out", fix))
    with StageProgress() as progress:
        return exporter.export(
            trained_model(restored), path, lambda done, total: progress("bytes written", done, total)
        )


def _chosen(registry: Registry, exporter: str | None, engine: str | None, compress: str | None) -> Choice:
    """The exporter of --format, with the engine of --for and the coding of --compress among its settings."""
    if engine is not None and engine not in FORMATS:
        problem = Problem("bad-value", f"unknown engine '{engine}'", "--for", did_you_mean(engine, FORMATS))
        raise ProblemError(problem)
    format = FORMATS[engine or TRANSFORMERS]
    value: Any = parse_value(exporter or format, "--format")[0]
    alone = registry.choose("exporter", value, "--format")
    if format == "gguf" and alone.entry.component.name != format:
        what = f"{engine} does not read what the exporter '{alone.entry.component.name}' writes"
        raise ProblemError(Problem("bad-value", what, "--for", "leave --format out, or use --format gguf"))
    short: dict[str, Any] = {}
    for option, name, setting, only in (
        ("--for", "engine", engine if format == "hf" else None, "hf"),
        ("--compress", "compress", compress, "penstock"),
    ):
        if setting is not None:
            _require_setting(alone, name, option, only)
            short[name] = setting
    given = {"use": value} if isinstance(value, str) else value
    return registry.choose("exporter", {**given, **short}, "--format") if short else alone


def _require_setting(exporter: Choice, name: str, option: str, format: str) -> None:
    if name not in getattr(type(exporter.settings), "model_fields", {}):
        what = f"exporter '{exporter.entry.component.name}' has no setting {name}"
        raise ProblemError(Problem("bad-value", what, option, f"leave {option} out, or use --format {format}"))


def _result(choice: Choice, files: list[Path]) -> dict[str, Any]:
    from penstock.quant158.artifact.reader import begins_like_artifact

    single = files[0] if len(files) == 1 and begins_like_artifact(files[0]) else None
    return {
        "folder": str(files[0].parent),
        "format": choice.entry.component.name,
        "dtype": choice.arguments().get("dtype"),
        "files": {file.name: file.stat().st_size for file in files},
        "bytes": sum(file.stat().st_size for file in files),
        **({} if single is None else {"artifact": str(single), "sizes": _sizes(single)}),
    }


def _sizes(artifact: Path) -> dict[str, Any]:
    from penstock.quant158.artifact import Artifact
    from penstock.quant158.artifact.sizes import size_of

    return size_of(Artifact.open(artifact)).to_json()


def _text(result: dict[str, Any]) -> str:
    if "sizes" in result:
        return f"{result['artifact']}: {output.human_bytes(result['bytes'])}\n\n{_table(result['sizes'])}"
    line = f"{result['folder']}: {output.human_bytes(result['bytes'])} in {len(result['files'])} files"
    return line if result["dtype"] is None else f"{line}, weights in {result['dtype']}"


def _verified(server: Choice, restored: RestoredRun, written: Path, dtype: str | None) -> Verification:
    """Whether the server says what the model says."""
    from tokenizers import Tokenizer

    from penstock.data_prep.tokenizer import beginning_with_end_of_text
    from penstock.deploy import verify

    name, model = server.entry.component.name, restored.model
    tokenizer = Tokenizer.from_str(beginning_with_end_of_text(restored.tokenizer_json).decode())
    longest = max(len(tokenizer.encode(prompt).ids) for prompt in verify.PROMPTS)
    positions = architecture_settings(restored.config.model).max_positions
    most = verify.TOKENS if positions is None else min(verify.TOKENS, positions - longest)
    texts = list(verify.expected(model, tokenizer, _ends(restored), most))
    tie, log = verify.TIES[dtype or "float32"], written.with_name(f"{written.name}.{name}.log")
    return verify.verified(server.build(), name, written, tokenizer, texts, tie=tie, log=log)


def _ends(restored: RestoredRun) -> frozenset[int]:
    """The tokens that end a text."""
    ids = restored.model.export_config().get("eos_token_id")
    own = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return frozenset((restored.tokenizer.end_of_text, *own))


def _table(sizes: dict[str, Any]) -> str:
    """Every byte of the file once."""
    columns = ("format", "weights", "codes", "scales", "bits_per_weight")
    rows = [
        tuple(f"{each[name]:,}" if name != "format" else each[name] for name in columns) for each in sizes["formats"]
    ]
    rest = {**sizes["files"], **{name: sizes[name] for name in ("header", "hashes", "padding")}}
    rows += [(name, "", f"{size:,}", "", "") for name, size in rest.items()]
    table = output.table(("stored as", "weights", "bytes", "scales", "bits a weight"), rows)
    said = [table]
    if (ternary := sizes["bits_per_ternary_weight"]) is not None:
        said.append(f"{ternary:.4f} bits a ternary weight, codes and scales")
    if saved := sizes["weights_decoded"] - sizes["weights"]:
        said.append(f"lzma saves {saved:,} bytes, {saved / sizes['weights_decoded']:.2%} of the weights")
    return "\n\n".join(said)
