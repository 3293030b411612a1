"""The cache of a server: keys and values of texts that begin, grow and end at different times, each in a slot.

Shape suffixes: B rows of a pass, S new positions, C positions that a pass reads, M key/value heads, h head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.hooks.contracts import Inputs
from penstock.moe_core.layers.positions import Positions


class SlotCache:
    """Takes the place of `KeyValueCache` in a pass over selected slots: one with any number of new positions, or many
    with one each.

    `lengths` are the positions that each slot holds. The memory is zero at first, because what lies behind the end of a
    text is multiplied with 0.
    """

    real_BC: Tensor | None = None  # no text has padding

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        key_value_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._stored = torch.zeros(layers, 2, slots, key_value_heads, capacity, head_dim, dtype=dtype, device=device)
        self.capacity = capacity
        self.lengths = [0] * slots
        self.select([0])

    def select(self, slots: Sequence[int]) -> None:
        """The slots of the rows of the next pass, in their order."""
        self.slots = list(slots)
        device = self._stored.device
        starts = [self.lengths[slot] for slot in slots]
        self.length = max(starts)
        self.position_B1 = torch.tensor(starts, device=device)[:, None]
        self.slot_B = torch.tensor(self.slots, device=device)
        self._even = min(starts) == self.length
        first = self.slots[0]
        self._run = slice(first, first + len(slots)) if self.slots == [*range(first, first + len(slots))] else None

    def positions(self, inputs: Inputs) -> Positions:
        """See `penstock.moe_core.layers.positions.positions`."""
        inputs.require_only("a server's cache")
        new = inputs.token_BS.shape[1]
        self._require_room(new)
        device = self._stored.device
        if len(self.slots) > 1:
            return Positions(self.position_B1, self.visible())
        end = self.length + new
        position_S = torch.arange(self.length, end, device=device)
        alone = self.length == 0 or new == 1
        return Positions(position_S, None if alone else position_S[:, None] >= torch.arange(end, device=device))

    def visible(self) -> Tensor | None:
        """For one new position a row, [B, 1, 1, C]: which positions it sees; None: all."""
        if self._even:
            return None
        return (torch.arange(self.length + 1, device=self._stored.device) <= self.position_B1)[:, None, None]

    def _require_room(self, new: int) -> None:
        if len(self.slots) > 1 and new != 1:
            raise ValueError(f"{new} new positions for each of {len(self.slots)} slots: read them one after the other")
        if self.length + new > self.capacity:
            raise ValueError(f"a slot holds {self.capacity} positions, but {self.length + new} are needed")

    def extend(self, layer: int, key_BMSh: Tensor, value_BMSh: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values, and returns all that the rows read, [B, M, C, h] each."""
        keys, values = self._stored[layer]
        end = self.length + key_BMSh.shape[2]
        if len(self.slots) == 1:
            slot = self.slots[0]
            keys[slot, :, self.length : end] = key_BMSh[0]
            values[slot, :, self.length : end] = value_BMSh[0]
        else:
            keys[self.slot_B, :, self.position_B1[:, 0]] = key_BMSh[:, :, 0]
            values[self.slot_B, :, self.position_B1[:, 0]] = value_BMSh[:, :, 0]
        if self._run is not None:
            return keys[self._run, :, :end], values[self._run, :, :end]
        return keys[:, :, :end].index_select(0, self.slot_B), values[:, :, :end].index_select(0, self.slot_B)

    def advance(self, positions: int, real_BC: Tensor | None = None) -> None:
        """Ends a pass over that many positions of each selected slot."""
        for slot in self.slots:
            self.lengths[slot] += positions

    def cut(self, slot: int, length: int) -> None:
        """Forgets all but the first `length` positions of a slot."""
        self.lengths[slot] = min(self.lengths[slot], length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` positions of `source` the text of `target`."""
        if length > self.lengths[source]:
            raise ValueError(f"slot {source} holds {self.lengths[source]} positions, and {length} are to be copied")
        self._stored[:, :, target, :, :length] = self._stored[:, :, source, :, :length]
        self.lengths[target] = length
