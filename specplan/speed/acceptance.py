"""How many drafted tokens the target accepts: rates by position and rank, and the accepted lengths that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.acceptance_profiles import ALL, AcceptanceProfile
from specplan.provenance import Figure, Source, weakest
from specplan.speculation import Drafter, Tree

Rates = npt.NDArray[np.float64]

#: Used only when neither ``--alpha`` nor a profile says better, and called assumed wherever it shows.
ASSUMED_ALPHA: dict[Drafter, Figure] = {
    "none": Figure(0.0, "exact", "nothing is drafted"),
    "ngram": Figure(
        0.35, "assumed", "prompt lookup on mixed prompts: 0.1 on open stories to 0.8 on edits; give --alpha"
    ),
    "draft_model": Figure(0.7, "assumed", "a draft of the same family: 0.66 on stories to 0.94 on code; give --alpha"),
    "early_exit": Figure(
        0.12, "assumed", "a model not trained to exit early agrees rarely at half depth; give --alpha"
    ),
    "medusa": Figure(0.5, "assumed", "best tokens of Medusa heads for Vicuna: 0.56 to 0.12 by head; give --alpha"),
    "eagle3": Figure(0.75, "assumed", "EAGLE-3 heads accept 0.7 to 0.8 per position on chat; give --alpha"),
    "mtp": Figure(0.8, "assumed", "DeepSeek-V3 reports 0.85 to 0.9 for its second token; give --alpha"),
}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a target accepts of a drafter's proposals, for chains and for trees.

    Attributes:
        alpha: rate of the first position, given that something was drafted; the source of all that follows.
        accepted_per_step: s_1, s_2, …, the share of steps in which that position of a chain was accepted. Positions
            behind the last one go on with its conditional rate.
        known_lengths: τ of chains of 1, 2, … tokens, where each was measured by itself.
        draft_rate: share of steps in which anything is drafted, of the chain whose positions are known.
        rank_rates: for each depth, how often the target's token has each rank, given a right parent; empty where only
            chains are known.
        extrapolated_from: positions and depths beyond this one were not measured; None where one rate is for all.
    """

    alpha: Figure
    accepted_per_step: tuple[float, ...]
    known_lengths: tuple[float, ...] = ()
    draft_rate: float = 1.0
    rank_rates: tuple[tuple[float, ...], ...] = ()
    extrapolated_from: int | None = None

    @classmethod
    def from_alpha(cls, alpha: float, source: Source, reference: str) -> Acceptance:
        """One rate for every position."""
        return cls(Figure(alpha, source, reference), (alpha,))

    @classmethod
    def from_profile(cls, profile: AcceptanceProfile, category: str = ALL) -> Acceptance:
        """The rates of a profile for one kind of question.

        Raises:
            InputError: the profile does not have that category.
        """
        rates = profile.category(category)
        first = rates.accepted_per_step[0] / rates.draft_rate if rates.draft_rate else 0.0
        reference = f"position 1 of acceptance profile {profile.name}, category {category}"
        return cls(
            Figure(first, profile.source, reference),
            rates.accepted_per_step,
            rates.accepted_lengths,
            rates.draft_rate,
            rates.rank_rates,
            len(rates.accepted_lengths or rates.accepted_per_step),
        )

    @property
    def conditional_rates(self) -> Rates:
        """For each known position, the share accepted given that the one before it was (the first: drafted)."""
        before = np.array((self.draft_rate, *self.accepted_per_step[:-1]))
        rates: Rates = np.divide(self.accepted_per_step, before, out=np.zeros(len(before)), where=before > 0)
        return rates

    def accepted_lengths(self, gammas: int | npt.NDArray[np.int64]) -> Rates:
        """τ, tokens per target pass with the bonus token, for each length γ of a chain.

        As measured for that γ; else 1 + Σ_{i≤γ} s_i. With one rate that is Σ_{i=0..γ} alpha^i (Leviathan et al.,
        2211.17192), written as a sum: the closed form divides by zero at alpha = 1.
        """
        wanted = np.atleast_1d(np.asarray(gammas, dtype=np.int64))
        known = np.diff(self.known_lengths, prepend=1.0) if self.known_lengths else np.array(self.accepted_per_step)
        beyond = max(0, int(wanted.max(initial=0)) - len(known))
        tail = max(0.0, known[-1]) * self.conditional_rates[-1] ** np.arange(1, beyond + 1)
        lengths: Rates = np.concatenate([[1.0], 1.0 + np.cumsum(np.concatenate([known, tail]))])[wanted]
        return lengths

    def draft_rates(self, gammas: npt.NDArray[np.int64]) -> Rates:
        """Share of steps that draft anything, for each length γ of a chain.

        What was accepted had been found, so the tokens for which nothing is found do not depend on γ; the steps for all
        others do. A share u of undrafted steps at τ becomes u·τ(γ)/τ.
        """
        measured = 1.0 + sum(self.accepted_per_step)
        undrafted = (1 - self.draft_rate) * self.accepted_lengths(gammas) / measured
        rates: Rates = np.clip(1 - undrafted, 0.0, 1.0)
        return rates

    def ranks(self, depth: int, topk: int) -> Rates:
        """Rates by depth and rank: float64 [depth, topk].

        Depths behind the last known one repeat it, as chains do. Ranks that were not recorded count nothing: what
        follows is a lower bound. Where only chains are known, ranks are a geometric series: the token of rank r is
        right with probability c·(1 - c)^r, for the conditional rate c of its depth.
        """
        if not self.rank_rates:
            rates = self.conditional_rates[np.minimum(np.arange(depth), len(self.accepted_per_step) - 1), None]
            modelled: Rates = rates * (1 - rates) ** np.arange(topk)
            return modelled
        matrix = np.zeros((depth, topk))
        for row, known in enumerate(matrix):
            found = self.rank_rates[min(row, len(self.rank_rates) - 1)][:topk]
            known[: len(found)] = found
        return matrix

    def tree_accepted_lengths(self, tree: Tree) -> Rates:
        """τ of the first 0, 1, 2, … nodes of a tree: 1 + draft_rate · the sum over nodes of products along their paths.

        Ranks are taken to be independent of those before them, as Medusa (2401.10774) does for its heads.
        """
        ranks = self.ranks(tree.depth, tree.topk)
        products: dict[tuple[int, ...], float] = {(): self.draft_rate}
        for path in tree.nodes:
            products[path] = products[path[:-1]] * float(ranks[len(path) - 1, path[-1]])
        return np.concatenate([[1.0], 1.0 + np.cumsum([products[path] for path in tree.nodes])])

    @property
    def measured_ranks(self) -> int | None:
        """Ranks known at every depth, None where all of them are modelled."""
        return min(map(len, self.rank_rates)) if self.rank_rates else None

    @property
    def tree_source(self) -> Source:
        """Source of what is said about trees: modelled at best, since ranks are taken to be independent."""
        return weakest("modelled", self.alpha.source)


def acceptance(drafter: Drafter, alpha: float | None) -> Acceptance:
    """What to plan with where there is no profile: the user's rate where given, else the assumed one."""
    if drafter == "none" or alpha is None:
        assumed = ASSUMED_ALPHA[drafter]
        return Acceptance.from_alpha(assumed.value, assumed.source, assumed.reference)
    return Acceptance.from_alpha(alpha, "assumed", "given with --alpha")
