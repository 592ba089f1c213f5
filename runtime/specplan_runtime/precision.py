"""Names of dtypes in a plan to torch dtypes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Precision:
    """Element types of one model.

    Attributes:
        compute: activations, norms, biases, untied input embedding.
        kv: what a KV cache holds: elements, or bytes of two elements of 4 bits.
        cache: its format.
        int8: matrices are int8 with one scale per row.
    """

    compute: torch.dtype
    kv: torch.dtype
    cache: KvFormat
    int8: bool


def least_rows(compute: torch.dtype) -> int:
    """Rows that a product is fed at least: with one row, float32 takes the slow matrix-vector path of CPU libraries."""
    return 2 if compute == torch.float32 else 1


def target_precision(plan: Plan) -> Precision:
    """Of the plan's target."""
    return _precision(plan.workload.dtype, plan.workload.kv_dtype)


def draft_precision(plan: Plan) -> Precision:
    """Of the plan's draft."""
    return _precision(plan.workload.draft_dtype, plan.workload.draft_kv_dtype)


def head_precision(plan: Plan) -> Precision:
    """Of a drafter's layer that rides on the target: floats, whatever the target's matrices are."""
    return dataclasses.replace(target_precision(plan), int8=False)


def _precision(dtype: str, kv_dtype: str) -> Precision:
    weights = weight_format(dtype)
    cache = cache_format(kv_dtype, float_bytes(weights.compute_dtype))
    return Precision(_TORCH[weights.compute_dtype], _CELLS[cache.name], cache, weights.quantized)
