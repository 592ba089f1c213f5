"""What a fleet has to serve, and the cards that it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests of one length.

    Attributes:
        share: of all requests.
        prompt_tokens: that are given.
        new_tokens: that are generated.
    """

    share: float
    prompt_tokens: int
    new_tokens: int

    @property
    def context(self) -> int:
        """Tokens of a request."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that arrive at random, independently of each other (a Poisson process).

    Attributes:
        rate_per_s: requests per second in the mean.
        classes: by length; their shares add up to 1.
        wait_s: a request should not wait longer for a free row of a batch.
        wait_share: in this share of cases.
        least_tokens_per_s: that a request gets while it is answered, all rows busy; None for any.
    """

    rate_per_s: float
    classes: tuple[RequestClass, ...]
    wait_s: float
    wait_share: float
    least_tokens_per_s: float | None

    @property
    def context(self) -> int:
        """Tokens of the longest request: every row of a replica must hold it."""
        return max(each.context for each in self.classes)

    @property
    def mean_new_tokens(self) -> float:
        """Generated tokens of a request in the mean."""
        return sum(each.share * each.new_tokens for each in self.classes)


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards of one kind.

    Attributes:
        gpu: device profile.
        count: that are there.
        per_replica: how many of them a replica may be spread over.
    """

    gpu: str
    count: int
    per_replica: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class FleetQuestion:
    """Everything that a fleet file says.

    Attributes:
        deployment: options of ``planner.ask.ask`` about models and speculation.
        demand: requests.
        cards: that may be used.
        max_batch: sequences that a replica decodes at once at most.
    """

    deployment: dict[str, Any]
    demand: Demand
    cards: tuple[Cards, ...]
    max_batch: int
