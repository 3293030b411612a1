"""A tiny GPT-2 that transformers wrote, which both the harness's own backend and our architecture read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from penstock_lm_eval.opening import Opened, opened
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from penstock.data_prep.tokenizer import BpeTokenizer, train_tokenizer

POSITIONS = 64


@dataclass(frozen=True, slots=True)
class Twins:
    """The folder that transformers reads, and the same weights and tokenizer as ours."""

    folder: Path

    def ours(self, **arguments: Any) -> Opened:
        """What `--model_args run=FOLDER` opens."""
        return opened({"run": str(self.folder), **arguments})

    def theirs(self, dtype: str = "float32", batch_size: int = 1, **arguments: Any) -> Any:
        """The harness's backend for transformers."""
        from lm_eval.models.huggingface import HFLM

        backend: Any = HFLM
        return backend(pretrained=str(self.folder), dtype=dtype, device="cpu", batch_size=batch_size, **arguments)


def write_twins(folder: Path) -> Twins:
    words = " ".join(f"gate {number} of the mill is open, the wheel turns" for number in range(60))
    trained = train_tokenizer([words], vocabulary_size=320)
    trained.save(str(folder / "tokenizer.json"))
    tokenizer = BpeTokenizer.load(folder)
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=end, pad_token=end)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": POSITIONS,
        "vocab_size": tokenizer.vocabulary_size,
    }
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=tokenizer.end_of_text, eos_token_id=tokenizer.end_of_text))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return Twins(folder)


def write_beginning_twins(folder: Path) -> Twins:
    """A Llama, whose tokenizer puts a token of its own before every text, and another one ends it."""
    words = " ".join(f"gate {number} of the mill is open, the wheel turns" for number in range(60))
    spelled = Tokenizer(models.BPE())
    spelled.pre_tokenizer, spelled.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    spelled.train_from_iterator([words], trainer)
    spelled.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=spelled, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "vocab_size": spelled.get_vocab_size(),
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return Twins(folder)
