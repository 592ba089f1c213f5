"""``Span``: which tokens a pass covers, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specplan_runtime.topology import Topology


@dataclass(frozen=True, slots=True)
class Span:
    """What one pass covers.

    Attributes:
        tokens: for each of the b sequences, its n tokens.
        starts: position of each sequence's first token; of its root, where the tokens are rows of a topology.
        row: the cache row of the first sequence, the others follow; None for all rows in order.
        idle: sequences that are only there to fill the batch: their cache rows stay as they are.
        topology: of the tokens of each sequence, None for one after the other.
        first_row: of the topology that the tokens are; those before it are in the cache already.
    """

    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]
    row: int | None = None
    idle: frozenset[int] = frozenset()
    topology: Topology | None = None
    first_row: int = 0

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.tokens[0])

    @property
    def positions(self) -> list[int]:
        """Position of every token, sequence by sequence; siblings in a tree have the same."""
        rows = range(self.first_row, self.end_row)
        depths = rows if self.topology is None else [self.topology.depths[row] for row in rows]
        return [start + depth for start in self.starts for depth in depths]

    @property
    def end_row(self) -> int:
        """One past the last row of the topology that the tokens are."""
        return self.first_row + self.num_tokens

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.tokens) * self.num_tokens

    @property
    def length(self) -> int:
        """L_c: slots that the pass reads at most."""
        return max(self.starts) + self.end_row
