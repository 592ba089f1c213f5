"""4-bit codes in the order in which PyTorch's kernel for CPUs reads them.

Rows lie together in blocks, whose last one may be shorter; a block has its codes column by column, two rows to a byte.
Which two, and how many rows a block has, depends on the machine's vectors, so both are asked of PyTorch's own packing.
Packed is then row by row where the codes are to lie: rows come in tiles, and a fused matrix in parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from specplan.errors import UnsupportedError

#: No vector makes larger blocks.
_MOST_ROWS = 256
_LOW, _SHIFT = 15, 4


@dataclass(frozen=True, slots=True)
class Order:
    """Rows of one block, byte by byte.

    Attributes:
        low, high: int64 [rows/2], the rows whose codes are the low and the high half of a column's bytes.
    """

    low: torch.Tensor
    high: torch.Tensor

    def packed(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [rows, in] as bytes [in, rows/2]."""
        return (codes[self.low] | (codes[self.high] << _SHIFT)).t()

    def unpacked(self, data: torch.Tensor) -> torch.Tensor:
        """The codes of bytes."""
        codes = data.new_empty(2 * data.shape[1], data.shape[0])
        codes[self.low], codes[self.high] = (data & _LOW).t(), (data >> _SHIFT).t()
        return codes


def store_codes(place: torch.Tensor, row: int, codes: torch.Tensor) -> None:
    """Put rows of codes where the kernel looks for them.

    Args:
        place: uint8 [out, in/2], contiguous, of the whole matrix.
        row: of the matrix that the first row is.
        codes: uint8 [rows, in], 0 to 15.
    """
    total, columns = place.shape[0], codes.shape[1]
    size, done = _block_rows(), 0
    while done < len(codes):
        start = (row + done) // size * size
        rows = min(size, total - start)
        first = row + done - start
        count = min(rows - first, len(codes) - done)
        order, part = _order(rows), codes[done : done + count]
        data = place.view(-1)[start * columns // 2 : (start + rows) * columns // 2].view(columns, rows // 2)
        if count < rows:
            whole = order.unpacked(data)
            whole[first : first + count] = part
            part = whole
        data.copy_(order.packed(part))
        done += count


def codes_of(place: torch.Tensor) -> torch.Tensor:
    """All codes of a matrix, uint8 [out, in], from where they lie."""
    size = _block_rows()
    blocks = (place[start : start + size] for start in range(0, len(place), size))
    return torch.cat([_order(len(block)).unpacked(block.reshape(-1, len(block) // 2)) for block in blocks])


@lru_cache(maxsize=1)
def _block_rows() -> int:
    """The second column of the first block begins where the first one ends."""
    probe = torch.zeros(_MOST_ROWS, 2, dtype=torch.int32)
    probe[0, 1] = 1
    return 2 * int(_pack(probe).nonzero())


@lru_cache(maxsize=16)
def _order(rows: int) -> Order:
    """Of a block with so many rows: each is told by its number's two digits to the base of 16."""
    numbers = torch.zeros(rows, 2, dtype=torch.int32)
    numbers[:, 0] = torch.arange(rows)
    ones, sixteens = (_pack(digits)[: rows // 2].long() for digits in (numbers % 16, numbers // 16))
    order = Order((ones & _LOW) + 16 * (sixteens & _LOW), (ones >> _SHIFT) + 16 * (sixteens >> _SHIFT))
    if sorted([*order.low.tolist(), *order.high.tolist()]) != list(range(rows)):
        raise UnsupportedError("dtype int4: this PyTorch packs matrices in an order that is not known")
    return order


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """As PyTorch does it, flat."""
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
    return packed.view(-1)
