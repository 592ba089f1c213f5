"""``Room``: where a scenario has to fit: one device, or several over which it is spread in one way."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.formulas.memory import MemoryModel
from specplan.ledger import MemoryLedger
from specplan.parallelism import Parallelism
from specplan.planner.ranks import Card, Share, shares_of
from specplan.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Tightest:
    """The rank of a scenario that has the least to spare, or lacks most.

    Attributes:
        rank: its number, 0 on one device.
        budget_bytes: of it.
    """

    rank: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """One device, or several.

    Attributes:
        budget_bytes: of one device.
        parallelism: how models are spread over ``cards``; None on one device.
        cards: devices with their budgets, by rank.
    """

    budget_bytes: int
    parallelism: Parallelism | None = None
    cards: tuple[Card, ...] = ()

    def holds(self, whole: Scenario) -> bool:
        """Whether every rank fits."""
        return self.spare(whole) >= 0

    def spare(self, whole: Scenario) -> int:
        """Bytes that the tightest rank has left, negative where it lacks some."""
        return min(map(_spare, self._shares(whole)))

    def tightest(self, whole: Scenario) -> Tightest:
        """The rank that decides whether a scenario fits."""
        share = min(self._shares(whole), key=_spare)
        return Tightest(share.ranks[0], share.budget_bytes)

    def ledger(self, whole: Scenario, rank: int) -> MemoryLedger:
        """Of one rank; of the only device."""
        share = next(share for share in self._shares(whole) if rank in share.ranks)
        return MemoryModel(share.scenario).ledger()

    def _shares(self, whole: Scenario) -> tuple[Share, ...]:
        return shares_of(whole, self.parallelism, self.cards, self.budget_bytes)


def _spare(share: Share) -> int:
    return share.budget_bytes - int(MemoryModel(share.scenario).peak_bytes())
