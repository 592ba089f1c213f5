"""Float32 matrices in the order in which oneDNN reads them, in memory that is ours.

PyTorch packs a matrix into memory of its own. Here its layout is learned once per shape, weights are stored in that
layout where they lie in the arena, and the library is given a tensor over them: no second copy, at no time but while
the layout is learned, when nothing is loaded yet. The tensor is made by the C interface that compiled models link
against. Where any of this is missing, or the layout is another one, matrices stay plain.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

#: x [rows, in], bias -> a fresh [rows, out].
Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
#: Rows of a matrix that may lie together.
_BLOCKS = (64, 48, 32, 24, 16, 8)
#: Rows of x that layouts are asked for; any number above one gives the same.
_ROWS = 8
_LIBRARIES = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the library wants one shape.

    Attributes:
        block: k, rows that lie together: the matrix is stored as [out/k, in, k].
        descriptor: the library's own name for it.
    """

    block: int
    descriptor: bytes


@lru_cache(maxsize=256)
def layout_of(rows: int, columns: int) -> Layout | None:
    """The layout for matrices of one shape; None where they stay plain, so that they never take more than their bytes.

    For a moment this takes the memory of one such matrix.
    """
    if not torch._C._has_mkldnn or _shim() is None or rows * columns == 0:
        return None
    ops, block = torch.ops.mkldnn, min(rows, max(_BLOCKS))
    probe = torch.zeros(rows, columns)  # only the first and the last rows are ever touched
    for edge in (probe[:block], probe[-block:]):
        edge.copy_(torch.arange(edge.numel()).remainder_(509).view(edge.shape))
    packed = ops._reorder_linear_weight(probe, _ROWS)
    if ops._nbytes(packed) != probe.nbytes:
        return None
    flat = _floats_at(ops.data_ptr(packed), probe.numel())
    descriptor = bytes(ops._get_mkldnn_serialized_md(packed).tolist())
    for k in _BLOCKS:
        if rows % k == 0 and _is_blocked(flat.view(-1, columns, k), probe):
            layout = Layout(k, descriptor)
            return layout if _computes(flat, probe, layout) else None
    return None


def bind(weight: torch.Tensor, layout: Layout) -> Product:
    """The product with a matrix in ``layout``.

    Args:
        weight: [out/k, in, k], contiguous; it must outlive the product.
        layout: of its shape.
    """
    shim = _shim()
    assert shim is not None
    handle = shim.tensor(weight.data_ptr(), weight.shape[0] * weight.shape[2], weight.shape[1], layout.descriptor)
    kernel = torch.ops.mkldnn._linear_pointwise.default
    return lambda x, bias: kernel(x, handle, bias, "none", [], "")


def _is_blocked(blocks: torch.Tensor, matrix: torch.Tensor) -> bool:
    k = blocks.shape[2]
    return torch.equal(blocks[0].t(), matrix[:k]) and torch.equal(blocks[-1].t(), matrix[-k:])


def _computes(flat: torch.Tensor, matrix: torch.Tensor, layout: Layout) -> bool:
    """Whether a tensor made here multiplies as the matrix does, at its first and last rows."""
    k, columns = layout.block, matrix.shape[1]
    x = torch.ones(_ROWS, columns)
    found = bind(flat.view(-1, columns, k), layout)(x, None)
    return all(torch.allclose(found[:, part], x @ matrix[part].t()) for part in (slice(k), slice(-k, None)))


def _floats_at(address: int, count: int) -> torch.Tensor:
    """Memory of somebody else as a tensor."""
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)


class _Shim:
    """The part of PyTorch's stable C interface that makes a tensor over given memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        integers = ctypes.POINTER(ctypes.c_int64)
        self._create = library.aoti_torch_create_tensor_from_blob_v2
        self._create.restype = ctypes.c_int32
        self._create.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, integers, integers, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32,
            ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64,
        ]  # fmt: skip
        self._float32 = library.aoti_torch_dtype_float32()
        self._cpu = library.aoti_torch_device_type_cpu()
        self._layout = library.aoti_torch_layout__mkldnn()
        self._adopt = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr
        self._capsule = ctypes.pythonapi.PyCapsule_New
        self._capsule.restype = ctypes.py_object
        self._capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

    def tensor(self, address: int, rows: int, columns: int, descriptor: bytes) -> torch.Tensor:
        """An opaque [rows, columns] over the memory at ``address``, which it does not own."""
        pair, handle = ctypes.c_int64 * 2, ctypes.c_void_p()
        failed = self._create(
            address, 2, pair(rows, columns), pair(columns, 1), 0, self._float32, self._cpu, -1,
            ctypes.byref(handle), self._layout, descriptor, len(descriptor),
        )  # fmt: skip
        if failed:
            raise RuntimeError("PyTorch makes no packed tensor over given memory")
        tensor: torch.Tensor = self._adopt(self._capsule(handle, None, None))
        return tensor


@lru_cache(maxsize=1)
def _shim() -> _Shim | None:
    """None where this PyTorch has no such interface."""
    name = _LIBRARIES.get(sys.platform)
    try:
        return _Shim(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))) if name else None
    except (OSError, AttributeError):
        return None
