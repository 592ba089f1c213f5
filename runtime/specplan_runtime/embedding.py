"""Token ids to embedded rows."""

from __future__ import annotations

import torch

from specplan_runtime.linear import Int8Linear
from specplan_runtime.parameters import Parameters
from specplan_runtime.workspace import Workspace


def embed(parameters: Parameters, work: Workspace, fed: int) -> torch.Tensor:
    """Embedded rows of ``work.ids`` in ``work.hidden`` [fed, h], without the multiplier that some families have.

    A table that is tied to an int8 head is int8 too: its rows pass through ``work.normed``. One that is tied to a
    packed head lies in blocks of rows: which block, and which row of it, waits in ``work.normed`` too.
    """
    table, hidden, ids = parameters.embedding, work.hidden[:fed], work.ids[:fed]
    if table.dim() == 3:
        block = table.shape[2]
        places = work.normed[: 4 * fed].view(torch.int64).view(2, fed)
        torch.div(ids, block, rounding_mode="floor", out=places[0])
        torch.remainder(ids, block, out=places[1])
        torch.ops.aten.index.Tensor_out(table.transpose(1, 2), (places[0], places[1]), out=hidden)
        return hidden
    if table.dtype != torch.int8:
        torch.index_select(table, 0, ids, out=hidden)
        return hidden
    assert isinstance(parameters.head, Int8Linear)
    rows = work.normed.view(torch.int8)[: hidden.numel()].view(hidden.shape)
    scales = work.mean_square.view(-1).view(hidden.dtype)[:fed]
    torch.index_select(table, 0, ids, out=rows)
    torch.index_select(parameters.head.scale, 0, ids, out=scales)
    hidden.copy_(rows)
    return hidden.mul_(scales[:, None])
