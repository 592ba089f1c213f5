"""Whether a plan's ledger is what the formulas give today."""

from __future__ import annotations

from specplan.formulas.memory import MemoryModel
from specplan.plan import Plan


def changed_item(plan: Plan) -> str | None:
    """The first item whose bytes or source are others now, with its rank where there are several; None when none is."""
    if plan.spread is None:
        return _changed(plan)
    for kind in plan.spread.kinds:
        name = _changed(plan.seen_from(kind.ranks[0]))
        if name is not None:
            return f"{name} on rank {kind.ranks[0]}"
    return None


def _changed(plan: Plan) -> str | None:
    given, now = plan.ledger.by_name(), MemoryModel(plan.scenario).ledger().by_name()
    return next((name for name in [*now, *given] if given.get(name) != now.get(name)), None)
