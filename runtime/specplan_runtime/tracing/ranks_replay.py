"""A plan over several devices: one rank of each kind without the others, and all of them against whole models."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator

from specplan.plan import Plan, RankKind, Spread
from specplan_runtime.arena import Arena
from specplan_runtime.layout import place
from specplan_runtime.tracing.arena_replay import replay_arena, resident_of
from specplan_runtime.tracing.silent_ranks import SilentRanks
from specplan_runtime.tracing.traced import Traced


def replay_kind(plan: Plan, kind: RankKind, announce: Callable[[str], None]) -> Iterator[Traced]:
    """One of the ranks that are alike, everything as for a plan of one device.

    Args:
        plan: over several devices.
        kind: the ranks.
        announce: told the name of each phase.
    """
    spread, rank = _spread_of(plan), kind.ranks[0]

    def announce_rank(phase: str) -> None:
        announce(f"{phase} of rank {rank}")

    return replay_arena(plan.seen_from(rank), announce_rank, SilentRanks(spread.parallelism, rank))


def replay_whole(plan: Plan) -> Iterator[Traced]:
    """Weights and caches of the whole models, and what the plan says that ranks hold of them more than once."""
    spread = _spread_of(plan)
    layout = place(dataclasses.replace(plan, spread=None), Arena())
    more: Counter[str] = Counter()
    for name, num_bytes in spread.replicas.items():
        more[name.partition(":")[0]] += num_bytes
    owners = (("target", plan.inputs.target, layout.target), ("draft", plan.inputs.draft, layout.draft))
    for owner, model, parameters in owners:
        if model is not None and parameters is not None:
            for traced in resident_of(owner, model, parameters, whole=True):
                total = traced.traced_bytes + more[traced.subject]
                yield dataclasses.replace(traced, traced_bytes=total, method=f"{traced.method}, and replicas")


def _spread_of(plan: Plan) -> Spread:
    assert plan.spread is not None
    return plan.spread
