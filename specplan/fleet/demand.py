"""What a fleet has to serve, and the cards that it may use, as ``fleet.toml`` says it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from specplan.strict import Within

_Tokens = Annotated[int, Within(1, 1 << 24)]


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests of one length.

    Attributes:
        share: of all requests.
        prompt_tokens: that are given.
        new_tokens: that are generated.
    """

    share: Annotated[float, Within(1e-9, 1)]
    prompt_tokens: _Tokens
    new_tokens: _Tokens

    @property
    def context(self) -> int:
        """Tokens of a request."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that arrive at random, independently of each other (a Poisson process).

    Attributes:
        rate_per_s: requests per second in the mean.
        requests: by length; their shares add up to 1.
        wait_s: a request should not wait longer for a free row of a batch.
        wait_share: in this share of cases.
        least_tokens_per_s: that a request gets while it is answered, all rows busy.
    """

    rate_per_s: Annotated[float, Within(1e-9, 1e9)]
    requests: Annotated[tuple[RequestClass, ...], Within(1, 1000)]
    wait_s: Annotated[float, Within(0, 1e6)] = 1.0
    wait_share: Annotated[float, Within(0.01, 0.9999)] = 0.95
    least_tokens_per_s: Annotated[float, Within(0, 1e9)] = 0.0

    def __post_init__(self) -> None:
        total = sum(each.share for each in self.requests)
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares of requests add up to {total:g}, expected 1")

    @property
    def context(self) -> int:
        """Tokens of the longest request: every row of a replica must hold it."""
        return max(each.context for each in self.requests)

    @property
    def mean_new_tokens(self) -> float:
        """Generated tokens of a request in the mean."""
        return sum(each.share * each.new_tokens for each in self.requests)


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards of one kind.

    Attributes:
        gpu: device profile.
        count: that are there.
        per_replica: how many of them a replica may be spread over.
    """

    gpu: str
    count: Annotated[int, Within(1, 10_000)]
    per_replica: Annotated[tuple[Annotated[int, Within(1, 64)], ...], Within(1, 64)] = (1,)

    def __post_init__(self) -> None:
        if "," in self.gpu:
            raise ValueError(f"gpu {self.gpu!r} names several kinds of cards; a replica of a fleet has one")
        most = max(self.per_replica)
        if most > self.count:
            raise ValueError(f"per_replica {most} is more than the {self.count} cards of count")
        if len(set(self.per_replica)) < len(self.per_replica):
            raise ValueError("per_replica names a number twice")


@dataclass(frozen=True, slots=True)
class Deployment:
    """What every replica runs: options of ``planner.ask.ask`` about models and speculation, None where not given."""

    model: str
    draft: str | None = None
    drafter: str | None = None
    tree: str | None = None
    heads: str | None = None
    share_head: bool | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    draft_dtype: str | None = None
    draft_kv_dtype: str | None = None
    num_speculative_tokens: int | None = None
    num_draft_nodes: int | None = None
    alpha: float | None = None
    acceptance: str | None = None
    category: str | None = None
    num_exit_layers: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class FleetQuestion:
    """Everything that a fleet file says.

    Attributes:
        deployment: of every replica.
        demand: requests.
        cards: that may be used.
        max_batch: sequences that a replica decodes at once at most.
    """

    deployment: Deployment
    demand: Demand
    cards: Annotated[tuple[Cards, ...], Within(1, 1000)]
    max_batch: Annotated[int, Within(1, 1024)] = 64

    def __post_init__(self) -> None:
        gpu, times = Counter(each.gpu for each in self.cards).most_common(1)[0]
        if times > 1:
            raise ValueError(f"cards names {gpu} twice")
