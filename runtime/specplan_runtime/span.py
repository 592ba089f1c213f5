"""``Span``: which tokens a pass covers, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from specplan_runtime.topology import Topology


@dataclass(frozen=True)
class Span:
    """What one pass covers. Its rows are the tokens of all sequences, one sequence after the other.

    Attributes:
        tokens: for each of the b sequences, its tokens; some may have fewer than others, or none.
        starts: position of each sequence's first token; of its root, where the tokens are rows of a topology; any for
            a sequence without tokens.
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

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(tokens) for tokens in self.tokens]

    @cached_property
    def num_tokens(self) -> int:
        """n: tokens of the longest sequence."""
        return max(self.lengths)

    @cached_property
    def num_rows(self) -> int:
        """T."""
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> list[int]:
        """The first row of each sequence."""
        return [0, *accumulate(self.lengths)][:-1]

    def rows_of(self, sequence: int) -> slice:
        """The rows of a sequence."""
        return slice(self.offsets[sequence], self.offsets[sequence] + self.lengths[sequence])

    @cached_property
    def kept_rows(self) -> list[slice]:
        """Rows whose keys and values are kept: those of sequences that are not idle, neighbours together."""
        found: list[slice] = []
        for sequence, length in enumerate(self.lengths):
            if sequence in self.idle or not length:
                continue
            rows = self.rows_of(sequence)
            first = found.pop().start if found and found[-1].stop == rows.start else rows.start
            found.append(slice(first, rows.stop))
        return found

    @cached_property
    def is_ragged(self) -> bool:
        """Whether some sequences have fewer tokens than others."""
        return self.num_rows < len(self.tokens) * self.num_tokens

    @property
    def slots(self) -> list[int]:
        """Place of every row in its sequence's cache: siblings in a tree have different ones."""
        firsts = [start + self.first_row for start in self.starts]
        return [first + n for first, length in zip(firsts, self.lengths, strict=True) for n in range(length)]

    @property
    def positions(self) -> list[int]:
        """Position of every row; siblings in a tree have the same."""
        found: list[int] = []
        for start, length in zip(self.starts, self.lengths, strict=True):
            found += self._positions(start, length)
        return found

    @property
    def grid_positions(self) -> list[int]:
        """Positions [b, n]: those of the rows; behind a shorter sequence's tokens that of its last one again."""
        found: list[int] = []
        for start, length in zip(self.starts, self.lengths, strict=True):
            own = self._positions(start, length) or [start]
            found += own + own[-1:] * (self.num_tokens - len(own))
        return found

    @property
    def end_row(self) -> int:
        """One past the last row of the topology that the tokens are."""
        return self.first_row + self.num_tokens

    @cached_property
    def length(self) -> int:
        """L_c: slots that the pass reads at most."""
        return max(start + self.first_row + length for start, length in zip(self.starts, self.lengths, strict=True))

    def filled(self) -> Span:
        """The same with equally many tokens in all sequences; nobody looks at the new ones."""
        rectangular = [[*tokens, *[0] * (self.num_tokens - len(tokens))] for tokens in self.tokens]
        return replace(self, tokens=rectangular) if self.is_ragged else self

    def _positions(self, start: int, length: int) -> list[int]:
        rows = range(self.first_row, self.first_row + length)
        return [start + (row if self.topology is None else self.topology.depths[row]) for row in rows]
