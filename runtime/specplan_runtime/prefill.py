"""Feeding a prompt to a decoder, chunk by chunk."""

from __future__ import annotations

from specplan_runtime.decoder import Decoder
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


def prefill(decoder: Decoder, work: Workspace, chunk: int, row: int, tokens: list[int], num_cached: int) -> int:
    """Store K and V of ``tokens[num_cached:]`` in a cache row.

    Args:
        decoder: whose cache.
        work: buffers for passes of ``chunk`` rows.
        chunk: tokens per pass.
        row: cache row.
        tokens: the whole sequence.
        num_cached: leading tokens that the cache holds already.

    Returns:
        How many tokens the last pass had; its hidden states are in ``work``. 0 when nothing was to do.
    """
    size = 0
    for start in range(num_cached, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        size = len(piece)
        decoder.forward(work, Span([piece], [start], row))
    return size
