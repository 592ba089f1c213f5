"""Feeding a prompt to a decoder, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

from specplan_runtime.forward import Forward, Work
from specplan_runtime.span import Span

#: Called with the first token of a pass and how many it had.
Follow = Callable[[int, int], None]


def _nobody(start: int, num_tokens: int) -> None:
    """Follows nothing."""


def prefill(
    decoder: Forward[Work],
    work: Work,
    chunk: int,
    row: int,
    tokens: list[int],
    num_cached: int,
    follow: Follow = _nobody,
) -> int:
    """Store K and V of ``tokens[num_cached:]`` in a cache row.

    Args:
        decoder: whose cache.
        work: buffers for passes of ``chunk`` rows.
        chunk: tokens per pass.
        row: cache row.
        tokens: the whole sequence.
        num_cached: leading tokens that the cache holds already.
        follow: told the first token and the number of tokens of each pass but the last; may overwrite ``work``.

    Returns:
        How many tokens the last pass had; its hidden states are in ``work``. 0 when nothing was to do.
    """
    starts = range(num_cached, len(tokens), chunk)
    spans = [Span([tokens[start : start + chunk]], [start], row) for start in starts]
    decoder.expect(work, spans, None)
    for start, span in zip(starts, spans, strict=True):
        decoder.forward(work, span)
        if start + chunk < len(tokens):
            follow(start, span.num_tokens)
    return spans[-1].num_tokens if spans else 0
