"""Matrix products that write into a given place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

#: Up to this many rows, float32 products on a CPU are faster as W·xᵀ: the library then streams the weights once.
_MAX_SWAPPED_ROWS = 16


class Linear(Protocol):
    """y = x Wᵀ + b for x of shape [rows, in]."""

    @property
    def out_features(self) -> int:
        """Rows of W."""

    def __call__(self, x: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The product, [rows, out]; a view of ``place`` (flat, rows·out elements) where the kernel can write there."""


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
        """The product in ``place``; its strides depend on which orientation is faster."""
        assert place is not None
        rows, out = x.shape[0], self.weight.shape[0]
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
        """The product in fresh memory, which the ledger counts as ``kernel_output``; ``place`` is not used."""
        y = torch._weight_int8pack_mm(x, self.weight, self.scale)
        if self.bias is not None:
            y.add_(self.bias)
        return y
