"""`penstock export` refuses what it cannot do before it writes anything."""

from __future__ import annotations

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "hff"], "unknown exporter 'hff', did you mean 'hf'"),
        (["--format", "{use: hf, dtyp: float32}"], "dtyp: unknown field, did you mean 'dtype'"),
        (["--for", "gguf"], "--for: unknown engine 'gguf', known: llama-cpp, sglang, transformers, vllm"),
        (["--for", "llama-cpp", "--format", "hf"], "llama-cpp does not read what the exporter 'hf' writes"),
        (["--verify", "vlm"], "unknown server 'vlm', did you mean 'vllm'"),
        (["--verify", "{use: vllm, pyton: a}"], "pyton: unknown field, did you mean 'python'"),
        (
            ["--for", "vllm", "--format", "penstock"],
            "--for: exporter 'penstock' has no setting engine, leave --for out",
        ),
        (["--compress", "lzma"], "--compress: exporter 'hf' has no setting compress, leave --compress out, or use"),
        (["--for", "vllm", "--format", "{use: hf, dtyp: float32}"], "dtyp: unknown field"),
        ([], "not a run directory"),
    ],
)
def test_a_wrong_request_is_named_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(ProblemError, match=message):
        run(["export", str(tmp_path), *arguments])
    assert list(tmp_path.iterdir()) == []
