"""How many drafted tokens the target accepts: alpha, and the accepted length that follows from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from specplan.provenance import Figure
from specplan.speculation import Drafter, Tree

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


def acceptance(drafter: Drafter, alpha: float | None) -> Figure:
    """The rate to plan with: the user's where given, else the assumed one."""
    if drafter == "none" or alpha is None:
        return ASSUMED_ALPHA[drafter]
    return Figure(alpha, "assumed", "given with --alpha")


def mean_accepted_length(alpha: float, gamma: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """τ = Σ_{i=0..γ} alpha^i, tokens per target pass with the bonus token (Leviathan et al., 2211.17192).

    Written as a sum: the closed form divides by zero at alpha = 1.
    """
    gammas = np.atleast_1d(np.asarray(gamma, dtype=np.int64))
    powers = alpha ** np.arange(int(gammas.max()) + 1)
    sums: npt.NDArray[np.float64] = np.cumsum(powers)[gammas]
    return sums


def tree_accepted_lengths(alpha: float, tree: Tree) -> npt.NDArray[np.float64]:
    """τ of the first 0, 1, 2, … nodes of a tree: 1 + the sum over nodes of the products along their paths.

    Ranks are taken as a geometric series: the token of rank r is right with probability alpha·(1 - alpha)^r, whatever
    its depth. Positions are taken as independent.
    """
    ranks = [alpha * (1 - alpha) ** np.asarray(path) for path in tree.nodes]
    return np.concatenate([[1.0], 1.0 + np.cumsum([float(np.prod(path)) for path in ranks])])
