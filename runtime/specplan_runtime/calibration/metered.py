"""A decoder that adds up the time of its passes, to tell what a step takes besides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from specplan_runtime.build import make_drafter
from specplan_runtime.decoder import Decoder
from specplan_runtime.engine import Engine
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


class MeteredDecoder(Decoder):
    """Counts seconds of forward passes, and of going through their logits: whoever reads a tile waits for it there."""

    seconds = 0.0

    def forward(self, work: Workspace, span: Span, num_layers: int | None = None) -> None:
        """As any decoder's."""
        began = time.perf_counter()
        super().forward(work, span, num_layers)
        self.seconds += time.perf_counter() - began

    def best(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """As any decoder's."""
        began = time.perf_counter()
        found = super().best(work, rows, num_rows, vocab_size)
        self.seconds += time.perf_counter() - began
        return found

    def logits(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """As any decoder's."""
        began = time.perf_counter()
        yield from super().logits(work, rows, num_rows)
        self.seconds += time.perf_counter() - began


def meter(engine: Engine) -> tuple[MeteredDecoder, ...]:
    """Let an engine and its drafter run on metered decoders over the same parameters."""
    assembly = engine.own
    decoders = tuple(MeteredDecoder(decoder.parameters) for decoder in assembly.decoders)
    assembly.decoders, assembly.target, assembly.draft = decoders, decoders[0], decoders[-1]
    assembly.drafter = make_drafter(engine.plan, assembly.layout, decoders[0], assembly.draft, assembly.run_heads)
    engine.set_speculating(True)
    return decoders
