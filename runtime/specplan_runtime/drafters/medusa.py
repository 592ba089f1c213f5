"""Drafting with Medusa heads: a tree of the heads' best tokens."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows

import torch

from specplan.speculation import Chain, Path, Tree
from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.heads import Medusa
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence


class MedusaDrafter(NoDrafter):
    """Proposes the plan's tree from the hidden state of the last verified token.

    Args:
        medusa: heads.
        run: fills the candidates from the features.
        shape: of the plan; a chain takes the best token of each head.
    """

    def __init__(self, medusa: Medusa, run: Callable[[], None], shape: Chain | Tree) -> None:
        self._medusa, self._run = medusa, run
        self._paths: tuple[Path, ...] = (
            shape.rows[1:] if isinstance(shape, Tree) else tuple((0,) * (i + 1) for i in range(shape.depth))
        )

    def observe(self, row: int, hidden: torch.Tensor) -> None:
        """Keep the target's normalized hidden state [h] of a sequence's last verified token."""
        self._medusa.features[row].copy_(hidden)

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """The whole tree for every active row; on a chain at most ``limits[row]`` tokens."""
        if not any(limits):
            return [[] for _ in rows]
        self._run()
        candidates = self._medusa.candidates.tolist()
        return [
            [] if sequence is None or not limits[row] else self._tokens(candidates[row], limits[row])
            for row, sequence in enumerate(rows)
        ]

    def _tokens(self, candidates: list[list[int]], limit: int) -> list[int]:
        chain = self._paths[-1] == (0,) * len(self._paths)
        paths = self._paths[:limit] if chain else self._paths
        return [candidates[len(path) - 1][path[-1]] for path in paths]
