"""The ranks of a configuration: those that are alike together, which one binds, and what they hold twice."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.device import DeviceSpec
from specplan.formulas.memory import MemoryModel
from specplan.formulas.replicas import replicas
from specplan.formulas.term import Knobs
from specplan.parallel.ranks import rank_scenarios
from specplan.parallelism import Parallelism
from specplan.plan import RankKind, Spread
from specplan.scenario import Scenario
from specplan.speculation import Speculation


@dataclass(frozen=True, slots=True)
class Card:
    """A device of a question, and the bytes that may be used on it."""

    device: DeviceSpec
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """Ranks that are alike.

    Attributes:
        ranks: their numbers.
        scenario: of each; the whole models where there is one device.
        budget_bytes: of each.
    """

    ranks: tuple[int, ...]
    scenario: Scenario
    budget_bytes: int


def shares_of(
    whole: Scenario, parallelism: Parallelism | None, cards: Sequence[Card], budget: int
) -> tuple[Share, ...]:
    """The shares of a scenario; one of whole models without parallelism.

    Args:
        whole: the scenario.
        parallelism: how it is spread over ``cards``, by rank.
        cards: devices with their budgets.
        budget: of the only device where there is one.
    """
    if parallelism is None:
        return (Share((0,), whole, budget),)
    found: list[Share] = []
    for rank, scenario in enumerate(rank_scenarios(whole, parallelism, [card.device for card in cards])):
        alike = (scenario, cards[rank].budget_bytes)
        same = next((place for place, s in enumerate(found) if (s.scenario, s.budget_bytes) == alike), None)
        if same is None:
            found.append(Share((rank,), *alike))
        else:
            found[same] = dataclasses.replace(found[same], ranks=(*found[same].ranks, rank))
    return tuple(found)


def peak_bytes(shares: Sequence[Share], knobs: Knobs, budget: int) -> npt.NDArray[np.int64]:
    """For every setting of the knobs what the smallest budget must be for all ranks to fit.

    Cards with larger budgets keep what they have more of: their peaks count less by that.
    """
    peaks = (MemoryModel(each.scenario, knobs).peak_bytes() - (each.budget_bytes - budget) for each in shares)
    largest: npt.NDArray[np.int64] = np.max(np.broadcast_arrays(*peaks), axis=0)
    return largest


def with_speculation(shares: Sequence[Share], speculation: Speculation) -> tuple[Share, ...]:
    """The shares with every knob set."""
    return tuple(
        dataclasses.replace(each, scenario=dataclasses.replace(each.scenario, speculation=speculation))
        for each in shares
    )


def rank_kinds(shares: Sequence[Share]) -> tuple[RankKind, ...]:
    """The shares with their ledgers; all knobs are set."""
    return tuple(
        RankKind(each.ranks, each.scenario.device, each.budget_bytes, MemoryModel(each.scenario).ledger())
        for each in shares
    )


def binding_kind(kinds: Sequence[RankKind]) -> RankKind:
    """The ranks with the least to spare; of several the first."""
    return min(kinds, key=lambda kind: kind.budget_bytes - kind.ledger.peak_bytes)


def spread_of(whole: Scenario, parallelism: Parallelism, kinds: Sequence[RankKind]) -> Spread:
    """What a plan says of its ranks."""
    more: Counter[str] = Counter()
    for replica in replicas(whole, parallelism):
        more[f"{replica.item}: {replica.name}"] += replica.bytes
    return Spread(parallelism, min(binding_kind(kinds).ranks), tuple(kinds), dict(more))
