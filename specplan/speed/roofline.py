"""Step time of a pass as a roofline: the slower of moving bytes and computing, plus launching kernels.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009. The efficiencies are assumed, so every result is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.arch import ModelArch
from specplan.caches.kv_formats import cache_format
from specplan.device import DeviceSpec
from specplan.dtypes import Matrices, float_bytes, weight_format
from specplan.speed.work import element_bytes, layer_work

#: Shares of the peak that large matrix products reach in practice.
BANDWIDTH_EFFICIENCY = 0.8
COMPUTE_EFFICIENCY = 0.6
#: Rows at which a matrix product reaches half of that: small products keep few units busy.
HALF_EFFICIENCY_ROWS = 16
#: Rows that PyTorch's kernels of quantized matrices take at a time on a CPU; each time they decode the matrix anew.
CPU_BLOCK_ROWS = 4
#: What decoding costs, in rows, by bits per element. Products of 1, 4, 8 rows and 8192 x 2048 took 0.98, 1.68, 3.27
#: ms in int4 and 1.74, 2.37, 4.74 ms in int8: PyTorch 2.13, one thread of an EPYC with AVX-512.
CPU_DECODING_ROWS = {5: 3, 8: 7}
#: Kernels that the runtime's decoder launches per layer, and per pass besides the layers.
KERNELS_PER_LAYER = 30
KERNELS_PER_PASS = 15

Rows = int | npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Amounts = float | npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """A pass over a model, or with arrays one pass for every configuration.

    Attributes:
        rows: tokens in the pass, all sequences together.
        batch_size: sequences in the pass, each reading its own cache.
        context: tokens in each sequence's cache.
        head_rows: rows that need logits.
        logits_rows: of them in one tile of the head: each tile reads the head's weights again.
        num_layers: layers that run; all of them when None.
    """

    rows: Rows
    batch_size: int
    context: int
    head_rows: Rows = 0
    logits_rows: Rows = 1
    num_layers: int | None = None

    @property
    def tile_rows(self) -> npt.NDArray[np.int64]:
        """Rows of a tile of the head, at least one."""
        return np.maximum(1, np.minimum(self.head_rows, self.logits_rows))

    @property
    def num_tiles(self) -> npt.NDArray[np.int64]:
        """Tiles of the head."""
        return -(-np.asarray(self.head_rows) // self.tile_rows)


def pass_seconds(arch: ModelArch, device: DeviceSpec, dtype: str, kv_dtype: str, each: Pass) -> Times:
    """Time of a pass, modelled: its layers, then its head.

    Args:
        arch: the model.
        device: bandwidth, FLOP/s and launch time.
        dtype: weight format.
        kv_dtype: format of the cache.
        each: the pass.
    """
    head = head_seconds(arch, device, dtype, tiles=each.num_tiles, rows=each.head_rows, tile_rows=each.tile_rows)
    return layer_seconds(arch, device, dtype, kv_dtype, each) + head


def layer_seconds(arch: ModelArch, device: DeviceSpec, dtype: str, kv_dtype: str, each: Pass) -> Times:
    """Time of a pass without its head; arguments as of ``pass_seconds``."""
    rows = np.asarray(each.rows)
    layers = arch.num_hidden_layers if each.num_layers is None else each.num_layers
    weights = weight_format(dtype, arch.stored)
    per_element = element_bytes(arch, weights)
    work = layer_work(arch, layers, each.context)
    # a pass of many rows visits more experts, in the mean of independent choices
    visited = work.num_experts * (1 - (1 - work.num_experts_per_tok / work.num_experts) ** rows)
    moved = work.matrix_elements * per_element.layers + visited * work.expert_elements * per_element.experts
    active = work.matrix_elements + work.num_experts_per_tok * work.expert_elements
    cache = cache_format(kv_dtype, float_bytes(weights.compute_dtype))
    cache_bytes = work.cache_elements * (cache.bits / 8 + cache.scale_bytes / arch.head_dim)
    if cache.name != weights.compute_dtype:  # read, written out layer by layer in the dtype of activations, read again
        cache_bytes += 2 * work.cache_elements * float_bytes(weights.compute_dtype)
    seconds = _stage_seconds(
        device,
        weights.compute_dtype,
        weights.layers,
        matrix_bytes=moved,
        cache_bytes=each.batch_size * cache_bytes,
        flop=rows * (2.0 * active + 4.0 * work.score_elements),
        rows=rows,
    )
    launching: Times = seconds + (layers * KERNELS_PER_LAYER + KERNELS_PER_PASS) * device.kernel_launch_s.value
    return launching


def head_seconds(arch: ModelArch, device: DeviceSpec, dtype: str, *, tiles: Rows, rows: Rows, tile_rows: Rows) -> Times:
    """Time of the output head for ``rows`` rows in ``tiles`` tiles of ``tile_rows``."""
    weights = weight_format(dtype, arch.stored)
    return _stage_seconds(
        device,
        weights.compute_dtype,
        weights.head,
        matrix_bytes=np.asarray(tiles) * arch.num_head_elements * element_bytes(arch, weights).head,
        cache_bytes=0,
        flop=np.asarray(rows) * 2.0 * arch.num_head_elements,
        rows=np.asarray(tile_rows),
    )


def _stage_seconds(
    device: DeviceSpec,
    compute_dtype: str,
    matrices: Matrices,
    *,
    matrix_bytes: Amounts,
    cache_bytes: Amounts,
    flop: Amounts,
    rows: npt.NDArray[np.int64],
) -> Times:
    """The slower of moving and computing."""
    decoding = CPU_DECODING_ROWS.get(matrices.bits) if device.kind == "cpu" else None
    if decoding is None:
        reads, efficiency = np.ones_like(rows), COMPUTE_EFFICIENCY * rows / (rows + HALF_EFFICIENCY_ROWS)
    else:
        reads = -(-rows // CPU_BLOCK_ROWS)
        efficiency = COMPUTE_EFFICIENCY * rows / (rows + decoding * reads)
    moved = np.asarray(matrix_bytes) * reads + cache_bytes
    moving = moved / (device.memory_bandwidth_bytes_per_s.value * BANDWIDTH_EFFICIENCY)
    seconds: Times = np.maximum(moving, flop / (device.matmul_rate(compute_dtype).value * efficiency))
    return seconds
