"""Names of dtypes in a plan to torch dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from specplan.caches.kv_formats import KvFormat, cache_format
from specplan.dtypes import float_bytes, weight_format
from specplan.plan import Plan

_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Of the elements of a KV cache; bytes of two 4-bit integers are int8 too.
_CELLS = {
    **_TORCH,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "int4": torch.int8,
}

_QUANTIZED: dict[str, Literal["int8", "int4"]] = {"int8": "int8", "int4": "int4"}


@dataclass(frozen=True, slots=True)
class Precision:
    """Element types of one model.

    Attributes:
        compute: activations, norms, biases, untied input embedding.
        kv: what a KV cache holds: elements, or bytes of two elements of 4 bits.
        cache: its format.
        quantized: what matrices are held in that are not floats, None for floats: int8 with one scale per row, or int4
            in groups; the output head is then int8 in either case.
        allocates: matrix kernels allocate their own outputs: those of quantized ones, and of packed float32 on a CPU.
        contiguous: and read rows only that are contiguous.
        least_rows: rows that a product is fed at least.
    """

    compute: torch.dtype
    kv: torch.dtype
    cache: KvFormat
    quantized: Literal["int8", "int4"] | None
    allocates: bool
    contiguous: bool
    least_rows: int

    @property
    def packed(self) -> bool:
        """Float32 on a CPU: matrices lie as its library reads them, where it can."""
        return self.allocates and self.quantized is None

    @property
    def least_tile(self) -> int:
        """Rows of logits that there is room for at least."""
        return max(2, self.least_rows)


def target_precision(plan: Plan) -> Precision:
    """Of the plan's target."""
    return _precision(plan, plan.workload.dtype, plan.workload.kv_dtype)


def draft_precision(plan: Plan) -> Precision:
    """Of the plan's draft."""
    return _precision(plan, plan.workload.draft_dtype, plan.workload.draft_kv_dtype)


def head_precision(plan: Plan) -> Precision:
    """Of a drafter's layer that rides on the target: floats, however the target's matrices are held."""
    return _precision(plan, weight_format(plan.workload.dtype).compute_dtype, plan.workload.kv_dtype)


def _precision(plan: Plan, dtype: str, kv_dtype: str) -> Precision:
    weights, on_cpu = weight_format(dtype), plan.inputs.device.kind == "cpu"
    cache = cache_format(kv_dtype, float_bytes(weights.compute_dtype))
    return Precision(
        _TORCH[weights.compute_dtype],
        _CELLS[cache.name],
        cache,
        quantized=_QUANTIZED.get(weights.name),
        allocates=weights.allocates_outputs(on_cpu),
        contiguous=weights.reads_contiguous(on_cpu),
        least_rows=weights.least_rows(on_cpu),
    )
