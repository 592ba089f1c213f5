"""``Obstacle``: something of a plan that an engine cannot do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from specplan.export.limits import Limits
from specplan.export.request import Request
from specplan.speculation import Chain, Drafter


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that an engine cannot do.

    Attributes:
        reason: why not, the engine's name in front.
        instead: the request with the nearest thing that it can do; None without one.
        nearest: what that is.
    """

    reason: str
    instead: Request | None = None
    nearest: str = ""


Step = Callable[[Request, Limits], Obstacle | None]


def ngrams_instead(request: Request, reason: str) -> Obstacle:
    """n-grams need no weights and no vocabulary: what stands in for any drafter."""
    chain = Chain(request.shape.depth)
    return Obstacle(reason, drafting(request, "ngram", chain), f"n-grams of γ {chain.num_speculative_tokens}")


def drafting(request: Request, drafter: Drafter, shape: Chain) -> Request:
    """The request with a drafter that has no weights."""
    return dataclasses.replace(
        request, drafter=drafter, shape=shape, draft=None, draft_name=None, draft_context=0, draft_device="device"
    )
