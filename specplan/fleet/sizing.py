"""The fewest cards that serve a demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specplan.errors import InputError
from specplan.fleet.demand import Cards, Demand, FleetQuestion
from specplan.fleet.queueing import Queue, Service
from specplan.fleet.replica import Replica, best_replica


@dataclass(frozen=True, slots=True)
class Option:
    """What one kind of card can do.

    Attributes:
        cards: of that kind.
        replica: on one of them or several; None where the deployment does not fit, or is too slow.
        refused: why it cannot even be asked; None where it can.
    """

    cards: Cards
    replica: Replica | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas, and the queue in front of them.

    Attributes:
        counts: replicas of each option that is used.
        queue: all rows of all replicas behind one line of requests.
        wait_s: that ``wait_share`` of the requests do not exceed.
    """

    counts: tuple[tuple[Replica, int], ...]
    queue: Queue
    wait_s: float

    @property
    def num_cards(self) -> int:
        """Of all kinds."""
        return sum(count * replica.num_cards for replica, count in self.counts)


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer.

    Attributes:
        question: that was asked.
        options: what every kind of card can do.
        fleet: the fewest cards that do it; None where all of them together do not.
        whole: all cards that can serve, None where none can.
    """

    question: FleetQuestion
    options: tuple[Option, ...]
    fleet: Fleet | None
    whole: Fleet | None


def size(question: FleetQuestion) -> Sizing:
    """The fewest cards: of every number of cards the ones with the largest capacity, until requests wait short enough.

    Raises:
        InputError: a deployment that cannot be asked about on any card.
    """
    options = tuple(_option(question, cards) for cards in question.cards)
    refusals = [option.refused for option in options if option.refused]
    if len(refusals) == len(options):
        raise InputError(refusals[0])
    replicas = [option.replica for option in options if option.replica is not None]
    ranked = sorted(replicas, key=lambda replica: -replica.card_capacity_per_s)
    total = sum(replica.cards.count for replica in ranked)
    if not total:
        return Sizing(question, options, None, None)
    whole = _fleet(question.demand, ranked, total)
    enough = whole if _serves(question.demand, whole) else None
    low, high = 0, total  # more cards never make requests wait longer
    while enough is not None and high - low > 1:
        middle = (low + high) // 2
        found = _fleet(question.demand, ranked, middle)
        if _serves(question.demand, found):
            enough, high = found, middle
        else:
            low = middle
    return Sizing(question, options, enough, whole)


def _option(question: FleetQuestion, cards: Cards) -> Option:
    try:
        return Option(cards, best_replica(question, cards), None)
    except InputError as error:
        return Option(cards, None, str(error))


def _serves(demand: Demand, fleet: Fleet | None) -> bool:
    return fleet is not None and fleet.queue.utilization < 1 and fleet.wait_s <= demand.wait_s


def _fleet(demand: Demand, ranked: Sequence[Replica], num_cards: int) -> Fleet | None:
    """At most that many cards, the ones with the largest capacity first; None where they are too few for a replica."""
    counts, left = [], num_cards
    for replica in ranked:
        taken = min(left, replica.cards.count) // replica.num_cards
        if taken:
            counts.append((replica, taken))
        left -= taken * replica.num_cards
    return fleet_from(demand, counts) if counts else None


def fleet_from(demand: Demand, counts: Sequence[tuple[Replica, int]]) -> Fleet:
    """The queue in front of so many replicas of each kind."""
    queue = Queue(demand.rate_per_s, sum(n * replica.num_rows for replica, n in counts), _pooled(counts))
    return Fleet(tuple(counts), queue, queue.wait_quantile_s(demand.wait_share))


def _pooled(counts: Sequence[tuple[Replica, int]]) -> Service:
    """Rows of different cards as rows that serve alike: the same capacity, and the spread of all requests' times."""
    capacity = sum(n * replica.capacity_per_s for replica, n in counts)
    mean = sum(n * replica.num_rows for replica, n in counts) / capacity
    weights = [(n * replica.capacity_per_s / capacity, replica.service) for replica, n in counts]
    second = sum(weight * each.mean_s**2 * (1 + each.variation) for weight, each in weights)
    return Service(mean, max(0.0, second / mean**2 - 1))
