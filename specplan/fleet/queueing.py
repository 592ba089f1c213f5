"""How long requests wait when they arrive at random and many rows serve them: the queue M/G/c."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Service:
    """What one row of a batch needs for a request.

    Attributes:
        mean_s: seconds.
        variation: squared coefficient of variation, the variance over the squared mean.
    """

    mean_s: float
    variation: float


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests in front of rows that all serve alike.

    Attributes:
        rate_per_s: of arrivals.
        num_servers: rows, c.
        service: of one row.
    """

    rate_per_s: float
    num_servers: int
    service: Service

    @property
    def utilization(self) -> float:
        """Share of rows that are busy; from 1 on, the queue grows without end."""
        return self.rate_per_s * self.service.mean_s / self.num_servers

    @property
    def wait_probability(self) -> float:
        """That a request finds no free row: Erlang's C formula (1917), from the recursion of his B formula."""
        if self.utilization >= 1:
            return 1.0
        offered, blocked = self.rate_per_s * self.service.mean_s, 1.0
        for servers in range(1, self.num_servers + 1):
            blocked = offered * blocked / (servers + offered * blocked)
        return blocked / (1 - self.utilization * (1 - blocked))

    @property
    def mean_wait_s(self) -> float:
        """Seconds that a request waits in the mean: the Allen-Cunneen approximation of M/G/c, exact for M/M/c.

        Source: A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd edition, 1990, section 5.4.
        """
        if self.utilization >= 1:
            return math.inf
        return self.wait_probability / self._drain

    def wait_quantile_s(self, share: float) -> float:
        """Seconds that a share of requests does not exceed: the wait of those that wait is taken as exponential."""
        if self.utilization >= 1:
            return math.inf
        beyond = 1 - share
        return math.log(self.wait_probability / beyond) / self._drain if self.wait_probability > beyond else 0.0

    @property
    def _drain(self) -> float:
        """Rate at which waits fall off, per second."""
        spare = self.num_servers / self.service.mean_s - self.rate_per_s
        return spare * 2 / (1 + self.service.variation)
