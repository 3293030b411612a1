"""The conventions of WikiText against the code that published figures come from, run as it is or written plainly."""

import importlib.util
import lzma
import math
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from penstock.eval_suite.concatenated import overlapping, whole
from penstock.eval_suite.lm_eval_pages import Page, detokenized, pages_of
from penstock.eval_suite.runner import prepare, run_task
from penstock.eval_suite.wikitext import WikiText2, WikiText103
from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import Likelihood, LossOutput, ModelOutput, Rolling, TaskContext

TEXT = (
    " \n = Mills = \n \n The mill 's gate ( of oak ) shut . \n = = Dams = = \n It held 1 @,@ 000 t . \n"
    " = Sails = \n Cloth . \n"
)
CONTEXT = 48


@cache
def lm_eval_file(name: str) -> ModuleType:
    """A file of lm-evaluation-harness, without the rest, which takes ten seconds to import."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm-eval is not installed")
    spec = importlib.util.spec_from_file_location(f"lm_eval_{Path(name).stem}", Path(package.origin).parent / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data_folder() -> Path:
    folder = Path(os.environ.get("PENSTOCK_DATA", "absent"))
    if not (folder / "wikitext2").is_dir():
        pytest.skip("PENSTOCK_DATA is not set, or has no WikiText-2")
    return folder


class Gpt2(nn.Module):
    """A model of transformers as a `LanguageModel`, in fp64."""

    def __init__(self, vocabulary_size: int) -> None:
        transformers = pytest.importorskip("transformers")
        super().__init__()
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=vocabulary_size, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5
        )
        self.vocabulary_size = vocabulary_size
        self.model = transformers.GPT2LMHeadModel(config).double()
        self.eval()

    def forward(self, token_BS: torch.Tensor, *, cache: Any = None) -> ModelOutput:
        return ModelOutput(self.model.transformer(token_BS).last_hidden_state, {})

    def logits(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(hidden_BSD)

    def next_token_loss(
        self, token_BS: torch.Tensor, target_BS: torch.Tensor, mask_BS: torch.Tensor | None = None
    ) -> LossOutput:
        logits_BSV = self.logits(self(token_BS).hidden_BSD)
        nll_BS = nn.functional.cross_entropy(logits_BSV.transpose(1, 2), target_BS, reduction="none")
        nll_BS = nll_BS if mask_BS is None else torch.where(mask_BS, nll_BS, 0.0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), {})


@pytest.fixture(scope="module")
def gpt2() -> Gpt2:
    return Gpt2(257)


def wikitext2_raw() -> str:
    return lzma.decompress((data_folder() / "wikitext2" / "wiki.test.raw.xz").read_bytes()).decode()


def measured(model, tokenizer, tmp_path, text: str, window: int = CONTEXT, **settings: Any) -> dict[str, float]:
    path = tmp_path / "wiki.test.raw"
    path.write_bytes(text.encode())
    result = run_task(WikiText2(path, sha256=None, **settings), model, TaskContext(tokenizer, None, window))
    return {name.split("@")[0]: value for name, value in result.metrics.items()}


def start_of_wikitext() -> str:
    return wikitext2_raw()[:3_000] + wikitext2_raw()[-1_000:]  # the beginning of an article, and the end of another


def test_lm_evals_own_code_finds_the_same(gpt2, tokenizer, tmp_path):
    """Its detokeniser, its windows, and its counts of words and bytes, on a random GPT-2."""
    harness, utils = lm_eval_file("tasks/wikitext/preprocess_wikitext.py"), lm_eval_file("utils.py")
    text, likelihood, words, byte_count = start_of_wikitext(), 0.0, 0, 0
    for _, page in pages_of(text):
        tokens = tokenizer.encode(harness.wikitext_detokenizer({"page": page}))
        windows = utils.get_rolling_token_windows(tokens, tokenizer.end_of_text, max_seq_len=CONTEXT, context_len=1)
        for context, continuation in map(utils.make_disjoint_window, windows):
            with torch.no_grad():
                logits_SV = gpt2.model(torch.tensor([[*context, *continuation][:-1]])).logits[0, -len(continuation) :]
            likelihood += float(logits_SV.log_softmax(-1)[range(len(continuation)), continuation].sum())
        counted = harness.process_results({"page": page}, [(likelihood, False)])
        words += counted["word_perplexity"][1]
        byte_count += counted["byte_perplexity"][1]
    assert measured(gpt2, tokenizer, tmp_path, text, convention="lm-eval") == {
        "wikitext2.word_perplexity": pytest.approx(math.exp(-likelihood / words), rel=1e-6),
        "wikitext2.byte_perplexity": pytest.approx(math.exp(-likelihood / byte_count), rel=1e-6),
        "wikitext2.bits_per_byte": pytest.approx(-likelihood / byte_count / math.log(2), rel=1e-6),
    }


@pytest.mark.parametrize("stride", [None, 20, 47, 1])
def test_the_loop_of_transformers_documentation_finds_the_same(gpt2, tokenizer, tmp_path, stride):
    """The loop as it is documented: its windows, its labels, and its weights."""
    text = start_of_wikitext()[: 400 if stride == 1 else None]
    rows = [line + "\n" if line.strip() else "" for line in text.split("\n")[:-1]]
    rows += [text.split("\n")[-1]] if text.split("\n")[-1] else []
    input_1S = torch.tensor([tokenizer.encode("\n\n".join(rows))])
    size, nll_sum, counted, previous_end = input_1S.shape[1], 0.0, 0, 0
    for begin in range(0, size, stride or CONTEXT):
        end = min(begin + CONTEXT, size)
        window_1S = input_1S[:, begin:end]
        label_1S = window_1S.clone()
        label_1S[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            loss = gpt2.model(window_1S, labels=label_1S).loss
        tokens = int((label_1S != -100).sum()) - 1
        if tokens:  # the mean of no tokens is no number
            nll_sum, counted = nll_sum + float(loss) * tokens, counted + tokens
        previous_end = end
        if end == size:
            break
    found = measured(gpt2, tokenizer, tmp_path, text, convention="concat", stride=stride)
    assert found == {"wikitext2.token_perplexity": pytest.approx(math.exp(nll_sum / counted), rel=1e-6)}


def test_the_loop_of_gptq_finds_the_same(gpt2, tokenizer, tmp_path):
    text = start_of_wikitext()
    rows = [line + "\n" if line.strip() else "" for line in text.split("\n")[:-1]]
    input_1S = torch.tensor([tokenizer.encode("\n\n".join([*rows, *filter(None, text.split("\n")[-1:])]))])
    nlls = []
    for number in range(input_1S.numel() // CONTEXT):
        window_1S = input_1S[:, number * CONTEXT : (number + 1) * CONTEXT]
        with torch.no_grad():
            logits_1SV = gpt2.model(window_1S).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits_1SV.flatten(0, 1), window_1S[:, 1:].flatten())
        nlls.append(float(loss) * CONTEXT)
    expected = math.exp(sum(nlls) / (len(nlls) * CONTEXT))
    found = measured(gpt2, tokenizer, tmp_path, text, convention="gptq")
    assert found == {"wikitext2.token_perplexity": pytest.approx(expected, rel=1e-6)}


def test_spacing_is_removed_as_lm_eval_does_on_all_of_wikitext():
    harness = lm_eval_file("tasks/wikitext/preprocess_wikitext.py")
    pages = [page for _, page in pages_of(wikitext2_raw())]
    assert [detokenized(page) for page in pages] == [harness.wikitext_detokenizer({"page": page}) for page in pages]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*" \n\t=@-,.:;!?()[]{}'\"°N0s", "s '", " '", "/' 1/", "ab"])).map("".join))
def test_spacing_is_removed_as_lm_eval_does_on_any_text(text):
    assert detokenized(text) == lm_eval_file("tasks/wikitext/preprocess_wikitext.py").wikitext_detokenizer(
        {"page": text}
    )


def test_wikitext2_has_the_62_articles_of_lm_eval():
    text = wikitext2_raw()
    pages = list(pages_of(text))
    assert len(pages) == 62
    assert "\n".join(page for _, page in pages) == text.removeprefix(" \n")
    assert pages[0][0] == "Robert Boulter"


def test_an_article_has_a_line_with_one_sign_at_each_end():
    assert [title for title, _ in pages_of(TEXT)] == ["Mills", "Sails"]
    assert [title for title, _ in pages_of("no title")] == [""]


def test_conventions_by_hand(uniform_model, tokenizer, tmp_path):
    """A uniform model needs the same nats for every token, so figures tell what is counted."""
    lines = [" \n", " = Mills = \n"]  # the first is blank, so the hub's row is empty
    text = "".join(lines)
    page = text.removeprefix(" \n")
    nats = len(detokenized(page)) * math.log(257)  # one a byte, the first after the end of text
    found = measured(uniform_model, tokenizer, tmp_path, text, 8, convention="lm-eval")
    assert found["wikitext2.word_perplexity"] == pytest.approx(math.exp(nats / 5))  # "", "=", "Mills", "=", ""
    assert found["wikitext2.byte_perplexity"] == pytest.approx(math.exp(nats / len(page)))
    for convention in ("concat", "gptq"):
        found = measured(uniform_model, tokenizer, tmp_path, text, 8, convention=convention)
        assert found == {"wikitext2.token_perplexity": pytest.approx(257)}


@pytest.mark.parametrize(
    ("changes", "length", "convention"),
    [
        ({"convention": "lm-eval"}, 1024, "lm-eval-{}1024"),
        ({"convention": "concat"}, 64, "concat-{}64"),
        ({"convention": "concat", "window": 32, "stride": 16}, 64, "concat-{}32-stride-16"),
        ({"convention": "concat", "window": 32, "stride": 32}, 64, "concat-{}32"),
        ({"convention": "gptq", "window": 16}, 64, "gptq-{}16"),
        ({"convention": "raw", "window": 16}, 64, "raw-{}disjoint-16"),
        ({"convention": "concat", "max_bytes": 40}, 64, "concat-{}first-16-bytes-64"),
    ],
)
def test_the_name_has_the_convention(uniform_model, tokenizer, tmp_path, changes, length, convention):
    path = tmp_path / "wiki.test.raw"
    path.write_text(TEXT)
    for task, name in (
        (WikiText2(path, sha256=None, **changes), "wikitext2"),
        (WikiText103(path, sha256=None, **changes), "wikitext103"),
    ):
        names = run_task(task, uniform_model, TaskContext(tokenizer, None, length)).metrics
        assert {each.split("@")[1] for each in names} == {convention.format("d7c5c4ac-")}
        assert all(each.startswith(f"{name}.") for each in names)


@given(st.integers(0, 60), st.integers(2, 12), st.integers(1, 12))
def test_overlapping_windows_predict_each_token_once(tokens, window, stride):
    """Except where windows do not overlap: their first tokens are context only."""
    parts = overlapping(tokens, window, min(stride, window))
    predicted = [token for part in parts for token in range(part.first, part.end)]
    assert len(predicted) == len(set(predicted))
    context_only = set(range(0, tokens, window)) if stride >= window else {0}
    assert set(predicted) == set(range(tokens)) - context_only
    assert all(part.end - part.begin <= window for part in parts)
    assert {part.end - part.begin for part in whole(tokens, window)} <= {window}
    assert len(whole(tokens, window)) == tokens // window


def test_the_last_window_of_an_article_is_full(tokenizer):
    page = Page.of("abcdefghij", tokenizer, 4)
    stream, last = page.requests()
    assert isinstance(stream, Rolling)
    assert isinstance(last, Likelihood)
    assert len(stream.token_N) == 9  # end of text and abcdefgh
    assert tokenizer.decode(last.context) == "fgh"  # e is read too, and was predicted before
    assert tokenizer.decode(last.continuation) == "ij"
    assert len(Page.of("abcdefgh", tokenizer, 4).requests()) == 1
    assert len(Page.of("abc", tokenizer, 4).requests()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convention": "lm-eval", "stride": 4}, "convention 'lm-eval' has windows that do not overlap"),
        ({"convention": "gptq", "stride": 4}, "convention 'gptq' has windows that do not overlap"),
        ({"convention": "concat", "window": 65}, "windows of 65 tokens, but the model reads 64"),
        ({"convention": "concat", "window": 8, "stride": 9}, "a stride of 9 is longer than the sequence length 8"),
        ({"convention": "gptq", "max_bytes": 3}, "the text has 3 tokens, too few for a window of 64"),
    ],
)
def test_windows_that_there_are_not_are_refused(tokenizer, tmp_path, changes, message):
    path = tmp_path / "wiki.test.raw"
    path.write_text("ab\n" + TEXT)
    with pytest.raises(ProblemError, match=message):
        prepare(WikiText2(path, sha256=None, **changes), TaskContext(tokenizer, None, 64))


@pytest.mark.parametrize("convention", ["raw", "lm-eval", "concat", "gptq"])
def test_a_text_without_anything_to_predict_is_named(tokenizer, tmp_path, convention):
    path = tmp_path / "wiki.test.raw"
    for text, message in ((" \n", r"wiki\.test\.raw: has no text"), ("x", "token")):
        path.write_text(text)
        if (text, convention) != ("x", "lm-eval"):  # which predicts the first token after the end of text
            with pytest.raises(ProblemError, match=message):
                prepare(WikiText2(path, sha256=None, convention=convention), TaskContext(tokenizer, None, 64))


def test_only_articles_can_be_limited(tokenizer, tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(TEXT)
    limited = TaskContext(tokenizer, None, 64, limit=1)
    assert len(prepare(WikiText2(path, sha256=None, convention="lm-eval"), limited).asked) == 1
    with pytest.raises(ProblemError, match="no items to limit"):
        prepare(WikiText2(path, sha256=None, convention="concat"), limited)


def test_a_clone_and_a_file_of_the_hub_are_the_raw_text(tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    rows = [{"text": f"{line}\n" if line.strip() else ""} for line in TEXT.split("\n")[:-1]]
    folder = tmp_path / "wikitext" / "wikitext-2-raw-v1"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / "test-00000-of-00001.parquet")
    (tmp_path / "wikitext" / "README.md").write_text(
        "---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n"
        "  - split: test\n    path: wikitext-2-raw-v1/test-*\n---\n"
    )
    (tmp_path / "wiki.test.raw").write_text(TEXT)
    given = TaskContext(tokenizer, None, 64)
    items = [
        [(item.id, item.document.words) for item in WikiText2(path, sha256=None, convention="lm-eval").items(given)]
        for path in (tmp_path / "wiki.test.raw", tmp_path / "wikitext", folder / "test-00000-of-00001.parquet")
    ]
    assert items[0] == items[1] == items[2]
    assert len(items[0]) == 2


def test_the_components_are_built_by_name():
    assert isinstance(Registry.discover().build("task", {"use": "wikitext103", "convention": "lm-eval"}), WikiText103)
