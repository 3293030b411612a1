"""How a model continues prompts: with the likeliest tokens, several prompts at once, up to where the last of them
stops; with drawn tokens, each prompt alone.

Shape suffixes: B prompts, S positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.eval_suite.likelihood import device_of
from penstock.eval_suite.rows import Row, up_to
from penstock.hooks.contracts import Inputs, LanguageModel, Tokenizer
from penstock.hooks.problems import ProblemError


def generated(model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[list[int]]:
    """The new tokens of each row, without the end of text. All rows are continued alike: by as many tokens, up to the
    same stops, at the same temperature. Prompts of unequal length are padded on the left."""
    first = rows[0]
    if first.temperature > 0:
        return [_drawn(model, tokenizer, row) for row in rows]
    if not first.stop:
        continued_BS = _continued(model, tokenizer, _inputs(model, rows), first)
        return [_before(new, tokenizer.end_of_text) for new in continued_BS]
    return _up_to_stops(model, tokenizer, _inputs(model, rows), first)


@torch.no_grad()
def takes_padding(model: LanguageModel) -> bool:
    """Whether the model reads prompts of unequal length at once; one that does not refuses them by name."""
    token_BS = torch.zeros(2, 2, dtype=torch.int64, device=device_of(model))
    real_BS = torch.tensor([[True, True], [False, True]], device=token_BS.device)
    try:
        model(Inputs(token_BS, real_BS))
    except ProblemError:
        return False
    return True


def _drawn(model: LanguageModel, tokenizer: Tokenizer, row: Row) -> list[int]:
    (new,) = _continued(model, tokenizer, _inputs(model, [row]), row, temperature=row.temperature, seed=row.seed)
    return _before(new, tokenizer.end_of_text)


def _continued(
    model: LanguageModel, tokenizer: Tokenizer, inputs: Inputs | Tensor, row: Row, **sampling: Any
) -> list[list[int]]:
    stop_token = tokenizer.end_of_text
    options = {"temperature": 0.0, "stop_token": stop_token, **sampling}
    continued_BS = model.generate(inputs, tokens=row.new_tokens, **options)
    return continued_BS[:, Inputs.of(inputs).token_BS.shape[1] :].tolist()


def _up_to_stops(model: LanguageModel, tokenizer: Tokenizer, inputs: Inputs | Tensor, row: Row) -> list[list[int]]:
    """The likeliest tokens until each row has written a stop or the end of text."""
    known = Inputs.of(inputs)
    token_BS, real_BS = known.token_BS, known.real_BS
    cache = model.new_cache(len(token_BS), token_BS.shape[1] + row.new_tokens)
    new: list[list[int]] = [[] for _ in token_BS]
    running = [True] * len(new)
    for _ in range(row.new_tokens):
        hidden_BSD = model(inputs, cache=cache).hidden_BSD
        next_B = model.logits(hidden_BSD[:, -1]).argmax(dim=-1)
        for number, token in enumerate(next_B.tolist()):
            if running[number]:
                running[number] = token != tokenizer.end_of_text
                new[number] += [token] if running[number] else []
                running[number] = running[number] and not _stops(row.stop, tokenizer.decode(new[number]))
        if not any(running):
            break
        token_BS = torch.cat((token_BS, next_B[:, None]), dim=1)
        real_BS = None if real_BS is None else torch.nn.functional.pad(real_BS, (0, 1), value=True)
        inputs = next_B[:, None] if cache is not None else _known(token_BS, real_BS)
    return new


def _stops(stops: Sequence[str], text: str) -> bool:
    return up_to(stops, text) != text


def _before(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _inputs(model: LanguageModel, rows: Sequence[Row]) -> Inputs | Tensor:
    lengths = np.array([len(row.token_S) for row in rows])
    real_BS = np.arange(lengths.max()) >= lengths.max() - lengths[:, None]
    token_BS = np.zeros(real_BS.shape, dtype=np.int64)
    token_BS[real_BS] = np.concatenate([row.token_S for row in rows])
    device = device_of(model)
    return _known(
        torch.from_numpy(token_BS).to(device), None if real_BS.all() else torch.from_numpy(real_BS).to(device)
    )


def _known(token_BS: Tensor, real_BS: Tensor | None) -> Inputs | Tensor:
    return token_BS if real_BS is None else Inputs(token_BS, real_BS)
