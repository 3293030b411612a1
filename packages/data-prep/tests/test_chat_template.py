"""Chat templates, written and encoded as transformers does it."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.data_prep.chat_template import OWN, chat_template
from penstock.data_prep.tokenizer import tokenizer_files, train_tokenizer, write_tokenizer
from penstock.hooks import ProblemError
from penstock.hooks.contracts import ChatTemplate, Message

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if tools is not none %}tools{% endif %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CHAT = [
    Message("system", "Be short."),
    Message("user", "Is it?"),
    Message("assistant", "\u6c34"),
    Message("user", "So?"),
]


@pytest.fixture(scope="module")
def serialized() -> bytes:
    trained = train_tokenizer(["the gate feeds the turbine"] * 4, vocabulary_size=300)
    return write_tokenizer(trained)["tokenizer.json"]


@pytest.fixture
def folder(tmp_path: Path, serialized: bytes) -> Path:
    """A model's folder without a template."""
    for name, content in tokenizer_files(serialized).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def configure(folder: Path, **changes: Any) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


def in_config(folder: Path) -> str:
    configure(folder, chat_template=TEMPLATE)
    return OWN


def in_a_list(folder: Path) -> str:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    configure(folder, chat_template=named)
    return OWN


def beside_config(folder: Path) -> str:
    configure(folder, chat_template="no")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return OWN


def in_a_file(folder: Path) -> str:
    (folder / "mine.jinja").write_text(TEMPLATE)
    return str(folder / "mine.jinja")


def in_another_config(folder: Path) -> str:
    (folder / "other.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return str(folder / "other.json")


@pytest.mark.parametrize("place", [in_config, in_a_list, beside_config, in_a_file, in_another_config])
def test_a_template_is_written_and_encoded_as_transformers_does(folder: Path, serialized: bytes, place: Any) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    configure(folder, bos_token={"__type": "AddedToken", "content": "<|endoftext|>", "special": True})
    chat: ChatTemplate = chat_template(place(folder), folder, serialized)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    given = [{"role": each.role, "content": each.content} for each in CHAT]
    text = chat.write(CHAT)
    how = {"chat_template": TEMPLATE, "add_generation_prompt": True}
    assert text == theirs.apply_chat_template(given, tokenize=False, **how)
    assert chat.encode(text) == theirs.apply_chat_template(given, return_dict=False, **how)


def test_the_hash_is_of_template_and_special_tokens(folder: Path, serialized: bytes) -> None:
    given = in_a_file(folder)
    first, again = (chat_template(given, folder, serialized).sha256 for _ in range(2))
    configure(folder, eos_token="</s>")
    other = chat_template(given, folder, serialized).sha256
    assert first == again != other


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (OWN, "the model has no chat template"),
        ("absent.jinja", r"absent\.jinja: file not found"),
        ("broken.jinja", r"broken\.jinja: the chat template fails"),
        ("empty.json", r"empty\.json: has no 'chat_template'"),
        ("damaged.json", r"damaged\.json: not valid JSON"),
        ("list.json", r"list\.json: not a JSON object"),
        ("binary.jinja", r"binary\.jinja: cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(folder: Path, serialized: bytes, given: str, said: str) -> None:
    files = {"broken.jinja": "{% for %}", "empty.json": "{}", "damaged.json": "{", "list.json": "[]"}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ProblemError, match=said):
        chat_template(given if given == OWN else str(folder / given), folder, serialized)


def test_an_artifact_which_has_no_folder_has_no_template_of_its_own(serialized: bytes) -> None:
    with pytest.raises(ProblemError, match="the model: the model has no chat template"):
        chat_template(OWN, None, serialized)
