"""Items beside those of the passes: what ranks send to each other, and the size of the one allocation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from specplan.formulas.bind import Value
from specplan.formulas.term import Term, term
from specplan.ledger import PHASES, Phase
from specplan.provenance import Source


def exchange_terms(phase: Phase, values: dict[str, Value], source: Source) -> Iterator[Term]:
    """Buffers of one pass for what ranks send to each other."""
    if values["t_p"] != 1 and values["x_h"]:
        own = values | {"x_p": 0} if "K_h" in values else values  # heads propose their best tokens only
        yield term(f"{phase}.gathered", "runtime", phase, "gathered", own, source)
    if values["m_b"] != 1 and phase in ("prefill_target", "verify"):
        yield term(f"{phase}.in_flight", "runtime", phase, "in_flight", values, source)


def arena_bytes(own: Sequence[Term]) -> Value:
    """The runtime's one allocation: everything it owns except outputs that kernels allocate."""
    placed = [item for item in own if item.name != "kernel_output"]
    workspaces = [sum((t.bytes for t in placed if t.phase == phase), start=0) for phase in PHASES[1:]]
    largest = workspaces[0]
    for workspace in workspaces[1:]:
        largest = np.maximum(largest, workspace)
    return sum((t.bytes for t in placed if t.phase == "resident"), start=0) + largest
