"""Weights, constants and caches side by side in one block: an allocator rounds each of its blocks up, here only one."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from specplan_runtime.arena import ALIGNMENT


def packed(block: torch.Tensor, tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Places for tensors, without a byte between them.

    Those whose size is a multiple of the alignment come first, so that they all start at one; the few others follow,
    wider elements before narrower ones.

    Args:
        block: uint8, from an aligned address on; as large as all of them together.
        tensors: without memory.

    Returns:
        Views of the block by the id of the tensor that they are for.
    """
    ordered = sorted(tensors, key=lambda tensor: (tensor.nbytes % ALIGNMENT != 0, -tensor.itemsize))
    found, start = {}, 0
    for tensor in ordered:
        end = start + tensor.nbytes
        found[id(tensor)] = block[start:end].view(tensor.dtype).view(tensor.shape)
        start = end
    return found
