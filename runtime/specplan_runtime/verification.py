"""``specplan verify``: a plan's phases replayed without memory, what they allocate held against the plan's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from specplan.errors import UnsupportedError
from specplan.ledger import MemoryLedger
from specplan.plan import Plan, Spread
from specplan_runtime.tracing.arena_replay import replay_arena
from specplan_runtime.tracing.ranks_replay import replay_kind, replay_whole
from specplan_runtime.tracing.traced import Traced
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
        ranks: that are alike, the first of them traced, or together; none on one device.
    """

    subject: str
    formula_bytes: int
    traced_bytes: int
    method: str
    ranks: tuple[int, ...] = ()

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
    """Replay every phase at its full shape on tensors without memory; over several devices of one rank of each kind.

    Raises:
        UnsupportedError: a plan whose workspace is only modelled, or whose heads are spread over ranks.
    """
    ledgers = [plan.ledger] if plan.spread is None else [kind.ledger for kind in plan.spread.kinds]
    if any(item.source == "modelled" for ledger in ledgers for item in ledger.owned_items()):
        raise UnsupportedError(
            f"{plan.inputs.target.reference}: no forward to replay: its workspace is modelled, "
            f"{'; '.join(plan.notes) or plan.forward}"
        )
    if plan.spread is not None:
        proofs = _of_ranks(plan, plan.spread, announce)
    elif plan.inputs.transformers_version is not None:
        proofs = _against(_bytes_by_name(plan.ledger), replay_transformers(plan, announce))
    else:
        proofs = _against(_bytes_by_name(plan.ledger), replay_arena(plan, announce))
    return Verification(plan, tuple(proofs))


def _of_ranks(plan: Plan, spread: Spread, announce: Announce) -> Iterator[Proof]:
    """Kind by kind, then all ranks together."""
    total: Counter[str] = Counter()
    for kind in spread.kinds:
        items = _bytes_by_name(kind.ledger)
        total.update({name: len(kind.ranks) * num_bytes for name, num_bytes in items.items()})
        yield from _against(items, replay_kind(plan, kind, announce), kind.ranks)
    yield from _against(total, replay_whole(plan), tuple(range(spread.parallelism.num_ranks)))


def _bytes_by_name(ledger: MemoryLedger) -> dict[str, int]:
    return {item.name: item.bytes for item in ledger.items}


def _against(items: Mapping[str, int], traced: Iterable[Traced], ranks: tuple[int, ...] = ()) -> Iterator[Proof]:
    for trace in traced:
        formula = sum(items.get(name, 0) for name in trace.items)
        yield Proof(trace.subject, formula, trace.traced_bytes, trace.method, ranks)
