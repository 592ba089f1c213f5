"""How many rows a model feeds itself when it drafts: one after the other on a chain, a depth at a time in a tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.speculation import Chain, Tree

Ints = npt.NDArray[np.int64]
Count = int | Ints


@dataclass(frozen=True, slots=True)
class DraftPasses:
    """The passes of a drafting model in one step; arrays have one entry per number of drafted tokens.

    Attributes:
        num_rows: rows per sequence of all passes: what a draft's cache holds beside the context.
        widest: rows per sequence of the widest pass, at least one.
        topk: the most proposals that follow one row.
        depth: tokens of the longest path.
    """

    num_rows: Count
    widest: Count
    topk: Count
    depth: Count


def draft_passes(shape: Chain | Tree, num_drafted: Count) -> DraftPasses:
    """The passes for the first ``num_drafted`` tokens of a shape."""
    if isinstance(shape, Chain):
        return DraftPasses(num_drafted, 1, 1, num_drafted)
    widths = draft_widths(shape)
    topk = np.maximum.accumulate([1, *(path[-1] + 1 for path in shape.nodes)])
    depths = np.maximum.accumulate([0, *map(len, shape.nodes)])
    by_size = (widths.sum(axis=1), widths.max(axis=1, initial=1), topk, depths)
    found = (values[num_drafted] for values in by_size)
    return DraftPasses(*(values if isinstance(values, np.ndarray) else int(values) for values in found))


def draft_widths(tree: Tree) -> Ints:
    """Rows per sequence of each pass: the root, then the nodes of each depth that have children.

    Returns:
        int64 [nodes + 1, depth]: for a tree's first 0, 1, 2, … nodes; a pass of no rows is not run.
    """
    widths = np.zeros((tree.num_draft_nodes + 1, tree.depth), dtype=np.int64)
    parents = set()
    for size, path in enumerate(tree.nodes, start=1):
        widths[size] = widths[size - 1]
        if path[:-1] not in parents:
            parents.add(path[:-1])
            widths[size, len(path) - 1] += 1
    return widths
