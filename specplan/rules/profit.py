"""What speculation gains over plain decoding, by the planner's own speed model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from specplan.acceptance_profiles import AcceptanceProfile
from specplan.deployments.deployment import CannotTell
from specplan.engine_memory.drafters import DRAFTERS
from specplan.engine_memory.weights import compute_dtype
from specplan.errors import SpecplanError
from specplan.heads import published_heads
from specplan.plan import ModelInput
from specplan.planner.acceptance_match import matching_profiles
from specplan.planner.weights import draft_weights, target_weights
from specplan.rules.subject import Subject
from specplan.scenario import Scenario
from specplan.speculation import Chain, Drafter, Speculation
from specplan.speed.acceptance import Acceptance, acceptance
from specplan.speed.steps import step_seconds
from specplan.workload import Workload

MAX_GAMMA = 16
_ROWS = 1 << 20
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Speedups:
    """Speed against plain decoding.

    Attributes:
        by_gamma: for 0, 1, 2, … drafted tokens.
        basis: what it rests on.
    """

    by_gamma: npt.NDArray[np.float64]
    basis: str

    @property
    def best_gamma(self) -> int:
        """The best number of drafted tokens that is not none."""
        return int(np.argmax(self.by_gamma[1:])) + 1

    @property
    def best(self) -> float:
        """The speed there."""
        return float(self.by_gamma[self.best_gamma])

    def at(self, gamma: int) -> float:
        """The speed at a number; beyond the last one that was modelled it is that of the last."""
        return float(self.by_gamma[min(gamma, len(self.by_gamma) - 1)])


def concurrency(subject: Subject) -> int:
    """Sequences at once where somebody said how many, else one: a default is no load."""
    given = subject.serving.max_sequences
    return given.value if given is not None and not given.is_default and given.value > 0 else 1


def speedups(subject: Subject, batch_size: int) -> Speedups | None:
    """Speeds of a deployment's drafter; None for drafters whose speed specplan does not model.

    Raises:
        CannotTell: a model or device that is not known here, or a precision without a speed.
    """
    method = subject.serving.method
    if method is None or method.value not in DRAFTERS:
        return None
    drafter = DRAFTERS[method.value]
    rates = _acceptance(subject, drafter)
    most = max(MAX_GAMMA, min(64, subject.serving.num_verify_tokens - 1))
    gammas = np.arange(0, most + 1, dtype=np.int64)
    rows = np.full(len(gammas), _ROWS, dtype=np.int64)
    try:
        scenario = _scenario(subject, drafter, batch_size)
        seconds = step_seconds(scenario, gammas, rows, rates.draft_rates(gammas))
    except SpecplanError as error:
        raise CannotTell(f"speed: {error}", method.location) from None
    speed = rates.accepted_lengths(gammas) / seconds
    return Speedups(speed / speed[0], f"modelled; acceptance {rates.alpha.value:.2f}, {rates.alpha.source}")


def _acceptance(subject: Subject, drafter: Drafter) -> Acceptance:
    given = subject.serving.alpha
    if given is None:
        for profile in _profiles(subject.target, subject.draft):
            if profile.drafter == drafter and profile.num_exit_layers is None:
                return Acceptance.from_profile(profile)
    return acceptance(drafter, None if given is None else given.value)


@lru_cache(maxsize=256)
def _profiles(target: ModelInput, draft: ModelInput | None) -> tuple[AcceptanceProfile, ...]:
    return matching_profiles(target, draft)


def _scenario(subject: Subject, drafter: Drafter, batch_size: int) -> Scenario:
    serving, device = subject.serving, subject.device
    option = serving.dtype.value if serving.dtype is not None else "auto"
    dtype = compute_dtype(subject.target, option, device)
    is_stored = subject.target.arch.stored is not None
    target, weights = target_weights(subject.target, "auto" if is_stored else dtype, device)
    draft, draft_dtype = subject.draft, weights
    if draft is not None:
        draft, draft_dtype = draft_weights(draft, "auto", target, weights, device)
    context = serving.context.value if serving.context is not None else _DEFAULT_CONTEXT
    context = min(context, target.arch.max_position_embeddings)
    shape = Chain(1)
    return Scenario(
        target.arch,
        draft.arch if draft is not None else None,
        device,
        Workload(context, batch_size, weights, dtype, draft_dtype, dtype),
        Speculation(drafter, shape, 0, context, _ROWS),
        published_heads(drafter, target.arch, shape, shares_head=False),
    )
