"""Small models and a byte tokenizer: real, and easy to compute by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Inputs, LossOutput, ModelOutput


class GruModel(nn.Module):
    """A `LanguageModel` whose prediction depends on all tokens before; `limit` is the longest input it takes."""

    def __init__(self, vocabulary_size: int, width: int = 8, limit: int | None = None) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.limit = limit
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, vocabulary_size)
        self.widths: list[int] = []

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        Inputs.of(inputs).require_only("a GRU")
        token_BS = Inputs.of(inputs).token_BS
        assert self.limit is None or token_BS.shape[1] <= self.limit
        self.widths.append(token_BS.shape[1])
        hidden_BSD, _ = self.gru(self.embedding(token_BS))
        return ModelOutput(self.dropout(hidden_BSD), {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return self.head(hidden_BSD)

    def next_token_loss(self, token_BS: Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        logits_BSV = self.logits(self(token_BS).hidden_BSD)
        nll_BS = nn.functional.cross_entropy(logits_BSV.transpose(1, 2), target_BS, reduction="none")
        if mask_BS is not None:
            nll_BS = torch.where(mask_BS, nll_BS, 0.0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), {})

    def new_cache(self, batch: int, capacity: int) -> None:
        """The model keeps nothing between passes."""

    @torch.no_grad()
    def generate(
        self, token_BS: Tensor, *, tokens: int, temperature: float = 0.0, seed: int = 0, **sampling: Any
    ) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        for _ in range(tokens):
            logits_BV = self.logits(self(token_BS).hidden_BSD[:, -1])
            next_B1 = logits_BV.argmax(dim=-1, keepdim=True)
            if temperature > 0:
                next_B1 = (logits_BV / temperature).softmax(dim=-1).multinomial(1, generator=source)
            token_BS = torch.cat((token_BS, next_B1), dim=1)
        return token_BS


class UniformModel(GruModel):
    """Gives every token the same probability."""

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return torch.zeros(*hidden_BSD.shape[:-1], self.vocabulary_size)


class ByteTokenizer:
    """Token b + 1 is byte b; token 0 is end of text."""

    vocabulary_size, end_of_text = 257, 0

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    def decode(self, tokens) -> str:
        return bytes(token - 1 for token in tokens if token).decode(errors="replace")

    def byte_lengths(self) -> np.ndarray:
        return np.array([0] + [1] * 256)


@pytest.fixture(scope="session")
def make_gru():
    def make(vocabulary_size: int = 11, **arguments: Any) -> GruModel:
        torch.manual_seed(0)
        return GruModel(vocabulary_size, **arguments)

    return make


@pytest.fixture
def uniform_model() -> UniformModel:
    return UniformModel(257)


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
