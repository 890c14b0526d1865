"""Keys and values of several sequences on Ascend, for the operators in model/kernels/ascend_decoding.py."""

from dataclasses import dataclass

import mindspore as ms
from mindspore import mint

from dscoder_exp.device.memory import views_of

# Rows after those of the slots, for tokens that only fill up a shape. No operator reads them: they may hold NaN, and a
# mask doesn't help, since 0 times NaN is NaN.
SPARE = 16


@dataclass(frozen=True)
class SlotCache:
    """One block's cache: rows of keys, SPARE rows, and the same of values, [2 (slots S + SPARE), k d]; and views of it.

    Attributes:
        keys, values: [slots, S, k d].
        parts: each slot's keys and values, [1, S, k d].
    """

    rows: ms.Tensor
    keys: ms.Tensor
    values: ms.Tensor
    parts: list[tuple[ms.Tensor, ms.Tensor]]

    @classmethod
    def zeros(cls, slots: int, positions: int, width: int, dtype: ms.Type) -> "SlotCache":
        """
        Args:
            positions: S.
            width: k d.
        """
        count = 2 * (slots * positions + SPARE)
        flat = mint.zeros((count * width,), dtype=dtype)
        (rows,) = views_of(flat, [(count, width)])
        keys, _, values, _ = views_of(flat, [(slots, positions, width), (SPARE, width)] * 2)
        parts = views_of(flat, [*[(1, positions, width)] * slots, (SPARE, width)] * 2)
        return cls(rows, keys, values, list(zip(parts[:slots], parts[slots + 1 : -1], strict=True)))

    def grown(self, positions: int) -> "SlotCache":
        """A cache of more positions, with the same contents."""
        slots, old, width = self.keys.shape
        larger = SlotCache.zeros(slots, positions, width, self.rows.dtype)
        added = mint.zeros((slots, positions - old, width), dtype=self.rows.dtype)
        larger.keys.copy_(mint.cat((self.keys, added), 1))
        larger.values.copy_(mint.cat((self.values, added), 1))
        return larger

    def copy(self, source: int, target: int) -> None:
        """Copy all of a slot to another one."""
        for old, new in zip(self.parts[target], self.parts[source], strict=True):
            old.copy_(new)

    def of_all(self) -> list[ms.Tensor]:
        """What run_step takes."""
        return [self.rows, self.keys, self.values]

    def of_slot(self, slot: int) -> list[ms.Tensor]:
        """What run_chunk takes."""
        return [self.rows, *self.parts[slot]]
