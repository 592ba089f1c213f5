"""The ranks of a plan over several devices: one column each for those that are alike."""

from __future__ import annotations

from collections.abc import Sequence

from specplan.ledger import PHASES, MemoryLedger
from specplan.output.tables import Table
from specplan.plan import Spread
from specplan.units import format_bytes, format_exact_bytes

#: Items below this share of the largest peak are summed up by phase.
_SMALL = 0.0005


def rank_rows(spread: Spread) -> Table:
    """A row for ranks that are alike: their device, what they need, what they have left."""
    rows = []
    for kind in spread.kinds:
        peak = kind.ledger.peak_bytes
        rows.append([
            rank_names(kind.ranks), kind.device.title, format_exact_bytes(peak), format_bytes(peak),
            format_bytes(kind.budget_bytes), format_bytes(kind.budget_bytes - peak),
            "binds" if spread.binding_rank in kind.ranks else "",
        ])  # fmt: skip
    headers = ["ranks", "device", "peak, bytes", "", "budget", "to spare", ""]
    return rows, headers, ["left", "left", "right", "right", "right", "right", "left"]


def item_rows(spread: Spread) -> Table:
    """Items against ranks, in bytes; the small ones of a phase summed up."""
    ledgers = [kind.ledger for kind in spread.kinds]
    least = _SMALL * max(ledger.peak_bytes for ledger in ledgers)
    rows = []
    for phase in PHASES:
        names = dict.fromkeys(item.name for ledger in ledgers for item in ledger.items if item.phase == phase)
        found = {name: [_bytes(ledger, name) for ledger in ledgers] for name in names}
        large = {name: counts for name, counts in found.items() if max(counts) >= least}
        rows += [[phase, name, *map(format_exact_bytes, counts)] for name, counts in large.items()]
        small = [counts for name, counts in found.items() if name not in large]
        if any(map(any, small)):
            sums = [sum(column) for column in zip(*small, strict=True)]
            rows.append([phase, f"({len(small)} smaller)", *map(format_exact_bytes, sums)])
    headers = ["phase", "item", *(rank_names(kind.ranks) for kind in spread.kinds)]
    return rows, headers, ["left", "left", *("right" for _ in spread.kinds)]


def replicas_line(spread: Spread) -> str:
    """What all ranks together hold more of than whole models."""
    if not spread.replicas:
        return "All ranks together hold every weight and every cached token once."
    named = ", ".join(f"{name} {format_exact_bytes(num)}" for name, num in spread.replicas.items())
    return f"All ranks together hold the whole models, and these bytes more than once: {named}."


def rank_names(ranks: Sequence[int]) -> str:
    """``rank 0``, ``ranks 1 to 6``, ``ranks 1, 3``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def _bytes(ledger: MemoryLedger, name: str) -> int:
    found = ledger.by_name().get(name)
    return 0 if found is None else found.bytes
