"""Which proposals the target accepts: the longest path from the root that it would have taken itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from specplan_runtime.sampling import RowSampler, Uniform
from specplan_runtime.topology import Topology

#: The distribution that the proposal of (cache row, position) was drawn from; None when proposed with certainty.
DraftProbs = Callable[[int, int], torch.Tensor | None]


@dataclass(slots=True)
class Outcome:
    """What a verify pass decided for one sequence.

    Attributes:
        path: rows of the accepted proposals, in order; row r verified proposal r - 1.
        tokens: the accepted proposals, and the target's own token that follows them.
    """

    path: list[int]
    tokens: list[int]

    @property
    def last_row(self) -> int:
        """The row of the last accepted token, 0 for the root."""
        return self.path[-1] if self.path else 0


def accept_greedy(topology: Topology, proposal: list[int], best: list[int]) -> Outcome:
    """Follow the target's own choices as far as they were proposed.

    Args:
        topology: of the rows.
        proposal: drafted tokens, of row 1, 2, …; on a chain there may be fewer than rows.
        best: the target's arg-max after each row.
    """
    path: list[int] = []
    row = 0
    while True:
        wanted = best[row]
        match = next((c for c in topology.children[row] if c <= len(proposal) and proposal[c - 1] == wanted), None)
        if match is None:
            return Outcome(path, [*(proposal[r - 1] for r in path), wanted])
        path.append(match)
        row = match


class SampledAcceptance:
    """Lossless acceptance row by row, while logits come in tiles.

    A chain follows speculative sampling (Leviathan et al., 2211.17192). Siblings in a tree are tried in turn: each
    rejection takes its proposal out of the target's distribution before the next is judged, so that what is emitted is
    distributed as the target alone would have it.

    Args:
        topology: of the rows.
        proposals: by cache row.
        sources: random numbers of the cache rows that take part.
        sampler: of the pass.
        probs: what proposals were drawn from.
    """

    def __init__(
        self,
        topology: Topology,
        proposals: list[list[int]],
        sources: Mapping[int, Uniform],
        sampler: RowSampler,
        probs: DraftProbs,
    ) -> None:
        self._topology, self._proposals = topology, proposals
        self._sampler, self._probs = sampler, probs
        self._sources = sources
        self.outcomes = {row: Outcome([], []) for row in sources}
        self._next: dict[int, int | None] = dict.fromkeys(self.outcomes, 0)

    def judge(self, tiles: Iterator[tuple[int, torch.Tensor]], places: Sequence[tuple[int, int]]) -> None:
        """Go through the logits of a pass; ``places`` says of each row the cache row and its position there."""
        for first, logits in tiles:
            for offset in range(len(logits)):
                row, position = places[first + offset]
                if self._next.get(row) == position:
                    self._sampler.load(logits[offset])
                    self._next[row] = self._judge_row(row, position)
            del logits  # a head that allocates is about to make the next tile

    def _judge_row(self, row: int, position: int) -> int | None:
        """The row that was accepted after ``position``, None when the target's own token ends the path."""
        outcome, proposal, uniform = self.outcomes[row], self._proposals[row], self._sources[row]
        for child in self._topology.children[position]:
            if child > len(proposal):
                continue
            token = proposal[child - 1]
            if self._sampler.accept(token, self._probs(row, child - 1), uniform):
                outcome.path.append(child)
                outcome.tokens.append(token)
                return child
        outcome.tokens.append(self._sampler.draw(uniform))
        return None
