"""The best of evaluated configurations: within a budget, and with the fewest bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.plan import RankKind
from specplan.planner.ranks import rank_kinds, with_speculation
from specplan.planner.space import Candidates
from specplan.scenario import Scenario
from specplan.speculation import Speculation

#: Speeds that differ by less are the same: what remains is rounding.
_EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """One configuration of one variant."""

    group: Candidates
    index: int

    @property
    def peak_bytes(self) -> int:
        """What it needs."""
        return int(self.group.peak_bytes[self.index])

    @property
    def throughput(self) -> float:
        """Modelled tokens/s, prefill included."""
        return float(self.group.throughput[self.index])

    @property
    def tokens_per_s(self) -> float:
        """Modelled tokens/s while decoding."""
        return float(self.group.tokens_per_s[self.index])

    @property
    def speculation(self) -> Speculation:
        """The configuration itself."""
        return self.group.speculation(self.index)

    @property
    def scenario(self) -> Scenario:
        """The configuration with models and device."""
        return self.group.scenario_at(self.index)

    def kinds(self) -> tuple[RankKind, ...]:
        """All ranks with their ledgers; one of whole models on one device."""
        return rank_kinds(with_speculation(self.group.shares, self.speculation))


def best_within(groups: Sequence[Candidates], budget_bytes: int) -> Choice | None:
    """The fastest configuration that fits; of equally fast ones that with the fewest bytes, then the first."""
    top = max((_top(group, group.peak_bytes <= budget_bytes) for group in groups), default=0.0)
    return least(groups, at_least=top, budget_bytes=budget_bytes) if top > 0 else None


def smallest_within(groups: Sequence[Candidates], budget_bytes: int, keep: float) -> Choice | None:
    """The configuration with the fewest bytes that keeps a share of the best speed within a budget."""
    best = best_within(groups, budget_bytes)
    return None if best is None else least(groups, at_least=keep * best.throughput, budget_bytes=budget_bytes)


def least(groups: Iterable[Candidates], at_least: float = 0.0, budget_bytes: int | None = None) -> Choice | None:
    """The configuration with the fewest bytes among those fast enough; of several the fastest, then the first."""

    def fast(group: Candidates) -> npt.NDArray[np.bool_]:
        enough: npt.NDArray[np.bool_] = group.throughput >= at_least * (1 - _EQUAL)
        return enough if budget_bytes is None else enough & (group.peak_bytes <= budget_bytes)

    return least_where(groups, fast)


def least_where(groups: Iterable[Candidates], wanted: Callable[[Candidates], npt.NDArray[np.bool_]]) -> Choice | None:
    """The same for any condition; None when nothing meets it."""
    best: Choice | None = None
    for group in groups:
        indices = np.flatnonzero(wanted(group))
        if not len(indices):
            continue
        peaks = group.peak_bytes[indices]
        smallest = indices[peaks == peaks.min()]
        choice = Choice(group, int(smallest[np.argmax(group.throughput[smallest])]))
        if best is None or (choice.peak_bytes, -choice.throughput) < (best.peak_bytes, -best.throughput):
            best = choice
    return best


def _top(group: Candidates, which: npt.NDArray[np.bool_]) -> float:
    return float(group.throughput[which].max()) if which.any() else 0.0
