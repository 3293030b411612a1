from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from penstock.hooks.json_lines import is_json_lines, json_rows, json_rows_or_problems
from penstock.hooks.problems import Problem, ProblemError


def written(folder: Path, content: bytes) -> Path:
    path = folder / "a.jsonl"
    path.write_bytes(content)
    return path


def test_each_object_has_the_number_of_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": "\xe6\xb0\xb4"}')
    assert list(json_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": "水"})]
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row for _, row in json_rows(packed)] == [{"a": 1}, {"a": "水"}]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (b'{"a": ', "invalid-json", "not valid JSON"),
        (b"[1]", "invalid-json", "expected a JSON object, got list"),
        (b'{"a": "one", "b": 2, "a": "two"}', "invalid-json", "the key 'a' occurs twice"),
        (b'{"a": {"b": 1, "b": 1}}', "invalid-json", "the key 'b' occurs twice"),
        (b"null", "invalid-json", "got NoneType"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid-json", "4300 digits"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid-json", "nested too deep"),
        (b'{"a": "caf\xe9"}', "not-text", "0xe9 at byte 10 of the line"),
        ('{"a": 1}'.encode("utf-16"), "not-text", "0xff at byte 0"),
        ('{"a": 1}'.encode("utf-16-le"), "not-text", "as in UTF-16"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong_and_what_to_do(
    tmp_path: Path, line: bytes, code: str, said: str
) -> None:
    path = written(tmp_path, b'{"a": 0}\n' + line + b'\n{"a": 2}')
    with pytest.raises(ProblemError) as caught:
        list(json_rows(path))
    (problem,) = caught.value.problems
    assert (problem.code, problem.where, bool(problem.fix)) == (code, f"{path}:2", True)
    assert said in problem.what


@pytest.mark.parametrize(("suffix", "expected"), [("", True), (".zst", True), (".bak", False), ("~", False)])
def test_a_backup_is_no_file_of_json_lines(suffix: str, expected: bool) -> None:
    assert is_json_lines(Path(f"folder/train.jsonl{suffix}")) == expected


def test_all_bad_lines_can_be_had_at_once(tmp_path: Path) -> None:
    rows = [row for _, row in json_rows_or_problems(written(tmp_path, b'{"\n{"a": 1}\n[]'))]
    assert [type(row) for row in rows] == [Problem, dict, Problem]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"a": 1}, {"a": 2}]', "the file is a JSON array, not JSON lines"),
        (b'\xef\xbb\xbf[\n  {"a": 1},\n  {"a": 2}\n]\n', "the file is a JSON array, not JSON lines"),
        (b'{\n  "data": [1]\n}\n', "the file is JSON over several lines, not JSON lines"),
    ],
)
def test_a_file_of_other_json_is_one_problem_that_says_how_to_convert_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = written(tmp_path, content)
    ((_, problem),) = json_rows_or_problems(path)
    assert isinstance(problem, Problem)
    assert (problem.where, problem.what) == (str(path), said)
    assert "jq -c" in problem.fix
