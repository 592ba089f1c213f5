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
        starts: position of each sequence's first token.
        row: the cache row when only one sequence takes part, None for all rows in order.
        idle: sequences that are only there to fill the batch: their cache rows stay as they are.
        topology: of the tokens of each sequence, None for one after the other.
    """

    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]
    row: int | None = None
    idle: frozenset[int] = frozenset()
    topology: Topology | None = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.tokens[0])

    @property
    def positions(self) -> list[int]:
        """Position of every token, sequence by sequence; siblings in a tree have the same."""
        depths = range(self.num_tokens) if self.topology is None else self.topology.depths
        return [start + depth for start in self.starts for depth in depths]

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.tokens) * self.num_tokens

    @property
    def length(self) -> int:
        """L_c: slots that the pass reads at most."""
        return max(self.starts) + self.num_tokens
