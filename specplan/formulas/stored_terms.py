"""The items of weights that a library stores: the weights themselves, and what its kernels write out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy

from specplan.arch import ModelArch
from specplan.device import DeviceKind
from specplan.dtypes import WeightFormat, float_bytes
from specplan.formulas.bind import Value, evaluate_expression
from specplan.formulas.head_storage import mtp_storage
from specplan.formulas.quantized import format_values, kernel_values
from specplan.formulas.reconstruction import largest_reconstruction
from specplan.formulas.stored_weights import stored_expression, stored_mtp_parts, stored_parts
from specplan.formulas.term import Term, term
from specplan.heads import MtpLayer
from specplan.ledger import Owner, Phase
from specplan.provenance import Source
from specplan.quantized.stored import StoredWeights


def stored_term(name: str, owner: Owner, stored: StoredWeights, values: dict[str, Value]) -> Term:
    """The weights, with their parts."""
    num_bytes = evaluate_expression(stored_expression(stored), values)
    return Term(name, owner, "resident", "stored_weights", "exact", values, num_bytes, stored_parts(stored))


def mtp_term(heads: MtpLayer, target: ModelArch, values: dict[str, Value]) -> Term:
    """A multi-token-prediction layer of a quantized target; modelled, in 16 bits, where no checkpoint is known."""
    stored = mtp_storage(heads, target)
    if stored is None:
        return term("drafter.weights", "drafter", "resident", "mtp_weights", values, "modelled")
    parts = stored_mtp_parts(stored)
    num_bytes = evaluate_expression(sympy.Add(*(expr for _, expr in parts)), values)
    return Term("drafter.weights", "drafter", "resident", "stored_mtp_weights", "exact", values, num_bytes, parts)


def dequantized_term(
    phase: Phase, arch: ModelArch, weights: WeightFormat, device_kind: DeviceKind, rows_of_pass: Value
) -> Iterator[Term]:
    """What the kernel of a library's format writes out in a pass; none where all kernels are fused.

    Published where the rule decides by rows alone, assumed where device and shape decide too.
    """
    largest = largest_reconstruction(arch, weights, device_kind)
    if largest is None:
        return
    rule, form, (rows, columns) = largest
    values: dict[str, Value] = {**format_values(form), "w_r": rows, "w_c": columns}
    values |= kernel_values(rule, form, float_bytes(weights.compute_dtype), rows_of_pass)
    sure = np.all((rows_of_pass < (rule.from_rows or 1)) | (rows_of_pass >= (rule.certain_from_rows or 1)))
    source: Source = "published" if sure else "assumed"
    yield term(f"{phase}.dequantized", "runtime", phase, "dequantized", values, source)
