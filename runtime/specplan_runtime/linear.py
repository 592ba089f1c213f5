"""Matrix products that write into a given place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from specplan.dtypes import INT4_GROUP
from specplan_runtime.groups import Groups
from specplan_runtime.nibbles import store_codes
from specplan_runtime.packing import Product

#: Up to this many rows, float32 products on a CPU are faster as W·xᵀ: the library then streams the weights once.
_MAX_SWAPPED_ROWS = 16


class Linear(Protocol):
    """y = x Wᵀ + b for x of shape [rows, in]."""

    @property
    def out_features(self) -> int:
        """Rows of W."""

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product, [rows, out]: in ``place`` (flat, rows·out elements) where one is given and the kernel can write
        there, else in fresh memory, which the ledger counts as ``kernel_output``.
        """


@dataclass(slots=True)
class FloatLinear:
    """Weights in the compute dtype.

    Attributes:
        weight: [out, in].
        bias: [out] or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product; its strides depend on which orientation is faster."""
        rows, out = x.shape[0], self.weight.shape[0]
        if place is None:
            place = x.new_empty(rows * out)
        if rows <= _MAX_SWAPPED_ROWS and x.dtype == torch.float32 and x.device.type == "cpu":
            y = place[: rows * out].view(out, rows)
            torch.mm(self.weight, x.t(), out=y)
            y = y.t()
        else:
            y = place[: rows * out].view(rows, out)
            torch.mm(x, self.weight.t(), out=y)
        if self.bias is not None:
            y.add_(self.bias)
        return y


@dataclass(slots=True)
class PackedLinear:
    """Float32 weights in the order of the CPU's matrix library, whose kernel allocates its own output.

    Verifying a few rows then costs hardly more than one (packing.py).

    Attributes:
        weight: [out/k, in, k], k rows side by side.
        product: with them.
        bias: [out] or None.
    """

    weight: torch.Tensor
    product: Product
    bias: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """Rows of the matrix."""
        return self.weight.shape[0] * self.weight.shape[2]

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product of contiguous rows; copied where a place is given."""
        y = self.product(x, self.bias)
        return y if place is None else place[: y.numel()].view(y.shape).copy_(y)

    def store(self, row: int, rows: torch.Tensor) -> None:
        """Put rows [n, in] of the matrix at ``row``."""
        k, done = self.weight.shape[2], 0
        while done < len(rows):
            block, first = divmod(row + done, k)
            count = min(k - first, len(rows) - done)
            self.weight[block, :, first : first + count].copy_(rows[done : done + count].t())
            done += count

    def unpacked(self) -> torch.Tensor:
        """A copy in plain order, [out, in]."""
        return self.weight.transpose(1, 2).reshape(self.out_features, -1)


@dataclass(slots=True)
class Int8Linear:
    """Int8 weights with one scale per output row; PyTorch's kernel allocates its own output.

    Attributes:
        weight: int8 [out, in].
        scale: [out], in the compute dtype.
        bias: [out] or None.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product in fresh memory; ``place`` is not used."""
        y = torch._weight_int8pack_mm(x, self.weight, self.scale)
        if self.bias is not None:
            y.add_(self.bias)
        return y


@dataclass(slots=True)
class Int4Linear:
    """4-bit weights in groups of 32 along a row; PyTorch's kernel for CPUs allocates its own output.

    Attributes:
        codes: uint8 [out, in/2], in the kernel's order (nibbles.py).
        scales: [in/32, out, 2], scale and zero point of each group, in the compute dtype.
        bias: [out] or None.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        """Rows of the matrix."""
        return self.codes.shape[0]

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product of contiguous rows in fresh memory; ``place`` is not used."""
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.codes, INT4_GROUP, self.scales)
        if self.bias is not None:
            y.add_(self.bias)
        return y

    def store(self, row: int, rows: Groups) -> None:
        """Put rows of the matrix at ``row``; their scales and zero points are rounded."""
        store_codes(self.codes, row, rows.codes)
        for index, values in enumerate((rows.scale, rows.zero)):
            self.scales[:, row : row + len(values), index].copy_(values.t())
