"""How the rows of a verify pass hang together: a chain, or the plan's tree."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specplan.speculation import Chain, Tree


@dataclass(frozen=True, slots=True)
class Topology:
    """Rows of one sequence's verify pass; row 0 is the root, the last token that is certain.

    Attributes:
        children: for each row, the rows that continue it, in the order in which they are tried.
        depths: for each row, its distance from the root.
        hidden: bool [n, n], True where a row is no descendant of a column's row; None on a chain, where order says it.
    """

    children: tuple[tuple[int, ...], ...]
    depths: tuple[int, ...]
    hidden: torch.Tensor | None

    @property
    def num_rows(self) -> int:
        """Rows, root included."""
        return len(self.children)


def chain_topology(num_rows: int) -> Topology:
    """One row after the other."""
    children = tuple((row + 1,) if row + 1 < num_rows else () for row in range(num_rows))
    return Topology(children, tuple(range(num_rows)), None)


def topology_of(shape: Chain | Tree, hidden: torch.Tensor | None) -> Topology:
    """The rows of a plan's verify pass.

    Args:
        shape: of the plan.
        hidden: place for the tree's mask, bool [n, n]; filled here. None for chains.
    """
    if isinstance(shape, Chain) or hidden is None:
        return chain_topology(shape.num_verify_tokens)
    rows, parents = shape.rows, (0, *shape.parents)
    hidden.fill_(True)
    children: list[list[int]] = [[] for _ in rows]
    for row in range(len(rows)):
        ancestor = row
        hidden[row, row] = False
        while ancestor:
            ancestor = parents[ancestor]
            hidden[row, ancestor] = False
        if row:
            children[parents[row]].append(row)
    by_rank = [sorted(found, key=lambda row: rows[row]) for found in children]
    return Topology(tuple(map(tuple, by_rank)), tuple(map(len, rows)), hidden)
