"""Blocks of GGUF files whose values are groups of 32 in 4 bits: kept, not quantized again.

Layouts: block_q4_0, block_q4_1 and block_q4_K of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from specplan_runtime.groups import CENTER, Groups

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


def _q4_0(rows: _Bytes) -> Groups:
    """d·(q - 8): 2 bytes of d, 16 bytes of q."""
    blocks = rows.reshape(len(rows), -1, 18)
    scale = _halves(blocks, 0)
    return _groups(_codes(blocks[..., 2:]), scale, np.zeros_like(scale))


def _q4_1(rows: _Bytes) -> Groups:
    """d·q + m: 2 bytes of d, 2 of m, 16 of q."""
    blocks = rows.reshape(len(rows), -1, 20)
    scale = _halves(blocks, 0)
    return _groups(_codes(blocks[..., 4:]), scale, _halves(blocks, 2) + CENTER * scale)


def _q4_k(rows: _Bytes) -> Groups:
    """d·s·q - e·m in eight groups: 2 bytes of d, 2 of e, 12 with s and m in 6 bits each, 128 of q."""
    blocks = rows.reshape(len(rows), -1, 144)
    first, second, third = (blocks[..., at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    least = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    scale = _halves(blocks, 0)[..., None] * scales
    zero = CENTER * scale - _halves(blocks, 2)[..., None] * least
    codes = _codes(blocks[..., 16:].reshape(len(rows), -1, 32))
    return _groups(codes, scale, zero)


#: Bytes of rows [rows, bytes] to their groups.
GroupReader = Callable[[_Bytes], Groups]
#: By type of the tensor in the file.
GROUPED: dict[str, GroupReader] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}


def _halves(blocks: _Bytes, at: int) -> _Floats:
    """Float16 at a place of each block, [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _codes(data: _Bytes) -> _Bytes:
    """Of bytes whose low halves come first, then their high halves."""
    return np.concatenate((data & 15, data >> 4), -1)


def _groups(codes: _Bytes, scale: _Floats, zero: _Floats) -> Groups:
    rows = len(codes)
    scale, zero = (np.ascontiguousarray(values, dtype=np.float32).reshape(rows, -1) for values in (scale, zero))
    return Groups(torch.from_numpy(codes.reshape(rows, -1)), torch.from_numpy(scale), torch.from_numpy(zero))
