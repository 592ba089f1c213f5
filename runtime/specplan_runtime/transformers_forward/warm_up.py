"""Every phase once at its full shape: libraries then hold their scratch, and what the passes take is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from specplan_runtime.span import Span
from specplan_runtime.tracing.tracker import StorageTracker
from specplan_runtime.transformers_forward.decoder import TransformersDecoder
from specplan_runtime.transformers_forward.workspace import TransformersWorkspace


@torch.no_grad()
def warm_up(workspaces: Mapping[str, TransformersWorkspace], decoders: Sequence[TransformersDecoder]) -> dict[str, int]:
    """Run every phase, and measure what its forward allocates.

    What the passes leave in the caches is overwritten by the first prompt.

    Returns:
        Bytes by ledger item ``<phase>.forward``: on a GPU what PyTorch's allocator was asked for at the peak, elsewhere
        the storages that operators created.
    """
    found = {}
    for phase, work in workspaces.items():
        decoder = decoders[-1] if "draft" in phase else decoders[0]
        run_pass(decoder, work)
        work.output.hidden = None
        found[f"{phase}.forward"] = _peak_bytes(decoder, work)
        work.output.hidden = None
    return found


def run_pass(decoder: TransformersDecoder, work: TransformersWorkspace) -> None:
    """A pass of the phase's full shape at the end of the context, and logits as the phase asks for them."""
    shape = work.shape
    batch, count = shape.batch_size, shape.num_rows // shape.batch_size
    start = decoder.cache.num_slots - count
    row = 0 if shape.phase.startswith("prefill") else None
    decoder.forward(work, Span([[0] * count] * batch, [start] * batch, row))
    rows = None if shape.phase == "verify" else [index * count + count - 1 for index in range(batch)]
    for _, logits in decoder.logits(work, rows, shape.num_rows if rows is None else batch):
        torch.argmax(logits, dim=-1, out=work.argmax[: len(logits)])
        del logits


def _peak_bytes(decoder: TransformersDecoder, work: TransformersWorkspace) -> int:
    device = decoder.model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
        run_pass(decoder, work)
        return int(torch.cuda.memory_stats(device)["requested_bytes.all.peak"] - before)
    tracker = StorageTracker((device.type,))
    with tracker:
        run_pass(decoder, work)
    return tracker.peak_bytes
