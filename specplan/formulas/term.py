"""``Term``: a ledger item before its bytes are fixed, and the knobs that fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy

from specplan.device import DeviceSpec
from specplan.formulas.bind import Value, evaluate
from specplan.formulas.catalogue import expression
from specplan.ledger import Owner, Phase
from specplan.provenance import Source


@dataclass(frozen=True, slots=True)
class Knobs:
    """The knobs of a speculation that size memory: numbers, or arrays of equal length for a search.

    Attributes:
        gamma: num_speculative_tokens of a chain, num_draft_nodes of a tree.
        prefill_chunk: prompt tokens per pass.
        logits_rows: rows of logits at one time.
    """

    gamma: Value
    prefill_chunk: Value
    logits_rows: Value


@dataclass(frozen=True, slots=True)
class Term:
    """An item whose bytes may be an array, with the values its formula was given, and the parts of its own formula."""

    name: str
    owner: Owner
    phase: Phase
    formula_id: str
    source: Source
    values: dict[str, Value]
    bytes: Value
    parts: tuple[tuple[str, sympy.Expr], ...] = ()

    @property
    def expression(self) -> sympy.Expr:
        """The sum of the parts where there are any, else the catalogue's."""
        return sympy.Add(*(expr for _, expr in self.parts)) if self.parts else expression(self.formula_id)


def term(
    name: str, owner: Owner, phase: Phase, formula_id: str, values: dict[str, Value], source: Source = "exact"
) -> Term:
    """An item of a formula of the catalogue, evaluated."""
    return Term(name, owner, phase, formula_id, source, values, evaluate(formula_id, values))


def device_terms(device: DeviceSpec) -> Iterator[Term]:
    """What driver and matrix library keep on a GPU."""
    yield fixed("device_context", int(device.context_bytes.value), device.context_bytes.source)
    if device.kind in ("cuda", "rocm"):
        workspace = device.cublas_workspace_bytes
        yield fixed("cublas_workspace", int(workspace.value), workspace.source)


def fixed(name: str, num_bytes: int, source: Source) -> Term:
    """One of the system's items that a profile or a measurement gives as a number."""
    symbol = {
        "device_context": "context_bytes",
        "cublas_workspace": "workspace_bytes",
        "process": "process_bytes",
    }[name]
    return Term(name, "system", "resident", name, source, {symbol: num_bytes}, num_bytes)
