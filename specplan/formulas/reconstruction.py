"""The largest matrix that a model's kernels write out at run time."""

from __future__ import annotations

from functools import lru_cache

from specplan.arch import ModelArch
from specplan.dtypes import WeightFormat
from specplan.matrices import matrix_shapes
from specplan.quantized.dequantization import Kernel, default_kernel
from specplan.quantized.stored import MatrixFormat


@lru_cache(maxsize=64)
def largest_reconstruction(
    arch: ModelArch, weights: WeightFormat, device_kind: str
) -> tuple[Kernel, MatrixFormat, tuple[int, int]] | None:
    """Kernel, format and shape of the largest matrix that some pass reconstructs; None where all kernels are fused."""
    if weights.stored is None:
        return None
    shapes = matrix_shapes(arch)
    found = []
    for form, kind, _ in weights.stored.counts():
        rule = default_kernel(form.name, device_kind)
        if form.quantized and rule.from_rows is not None:
            found.append((rule, form, shapes[kind]))
    return max(found, key=lambda entry: entry[2][0] * entry[2][1], default=None)


def kernels(weights: WeightFormat, device_kind: str) -> tuple[Kernel, ...]:
    """The kernels that a plan assumes, each once."""
    if weights.stored is None:
        return ()
    forms = [held.format for held in weights.stored.formats if held.format.quantized]
    return tuple(dict.fromkeys(default_kernel(form.name, device_kind) for form in forms))
