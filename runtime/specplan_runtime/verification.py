"""``specplan verify``: a plan's phases replayed without memory, what they allocate held against the plan's ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specplan.errors import UnsupportedError
from specplan.plan import Plan
from specplan_runtime.tracing.arena_replay import replay_arena
from specplan_runtime.tracing.transformers_replay import replay_transformers

#: Told the name of each phase before it is replayed.
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """One line: what formulas say and what the trace saw.

    Attributes:
        subject: an item, or a phase.
        formula_bytes: from the plan's ledger.
        traced_bytes: from tensors and operators, by a tracker that knows no formula.
        method: how they were traced.
    """

    subject: str
    formula_bytes: int
    traced_bytes: int
    method: str

    @property
    def difference(self) -> int:
        """Traced minus formula."""
        return self.traced_bytes - self.formula_bytes


@dataclass(frozen=True, slots=True)
class Verification:
    """All lines of a plan.

    Attributes:
        plan: that was replayed.
        proofs: in the order of the ledger.
    """

    plan: Plan
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        """Whether no line differs."""
        return all(proof.difference == 0 for proof in self.proofs)


@torch.no_grad()
def verify(plan: Plan, announce: Announce = lambda _: None) -> Verification:
    """Replay every phase at its full shape on tensors without memory.

    Raises:
        UnsupportedError: a plan whose workspace is only modelled.
    """
    if plan.spread is not None:
        raise UnsupportedError(f"a plan for {plan.spread.parallelism.num_ranks} devices, which is not replayed yet")
    if any(item.source == "modelled" for item in plan.ledger.owned_items()):
        raise UnsupportedError(
            f"{plan.inputs.target.reference}: no forward to replay: its workspace is modelled, "
            f"{'; '.join(plan.notes) or plan.forward}"
        )
    if plan.inputs.transformers_version is not None:
        traced = replay_transformers(plan, announce)
    else:
        traced = replay_arena(plan, announce)
    items = {item.name: item.bytes for item in plan.ledger.items}
    proofs = []
    for trace in traced:
        formula = sum(items.get(name, 0) for name in trace.items)
        proofs.append(Proof(trace.subject, formula, trace.traced_bytes, trace.method))
    return Verification(plan, tuple(proofs))
