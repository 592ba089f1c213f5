"""Explicit attention masks: every row of a batch at its own position, causal or in a window."""

from __future__ import annotations

import torch

from specplan.arch import ModelArch
from specplan_runtime.span import Span

#: Slots that a pass reads are a multiple of this many, where there are so many: kernels would pad the mask.
_ALIGNMENT = 8


def read_length(span: Span, num_slots: int) -> int:
    """Leading slots that a pass reads."""
    return min(num_slots, -(-span.length // _ALIGNMENT) * _ALIGNMENT)


def layer_masks(
    arch: ModelArch, span: Span, length: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The mask of a pass, or one by kind of layer.

    Args:
        arch: says which layers are windowed.
        span: of the pass.
        length: slots that are read.
        dtype: bool for masks that say what is seen; a float for masks that are added to scores.
        device: where.

    Returns:
        Each [b, 1, q, length].
    """
    windows = {str(kind): arch.sliding_window if kind == "sliding_attention" else None for kind in arch.layer_types}
    masks = {kind: _mask(span, length, window, dtype, device) for kind, window in windows.items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _mask(span: Span, length: int, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Row i of a sequence that starts at position s sees slots s + i - window + 1 to s + i."""
    adds = dtype != torch.bool
    hidden = torch.finfo(dtype).min if adds else True
    mask = torch.full((len(span.tokens), 1, span.num_tokens, length), hidden, dtype=dtype, device=device)
    for (rows,), start in zip(mask, span.starts, strict=True):
        if not adds:
            rows.tril_(start)
            if window is not None:
                rows.triu_(start - window + 1)
            continue
        rows.triu_(start + 1)
        if window is not None:
            rows.add_(torch.full_like(rows, hidden).tril_(start - window))
    return mask
