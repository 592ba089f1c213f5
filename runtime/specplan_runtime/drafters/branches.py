"""What drafting a tree depth by depth takes, whoever drafts: its passes, their buffers, the best tokens after a row."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from specplan.speculation import Tree
from specplan_runtime.workspace import Workspace


@dataclass(frozen=True, slots=True)
class BranchBuffers:
    """What drafting a tree keeps in the arena.

    Attributes:
        hidden: bool [n, n], the mask of the n rows that the drafter feeds itself, the root among them.
        candidates: int64 [B·w, k], the best tokens after each of the w rows of the widest pass.
    """

    hidden: torch.Tensor
    candidates: torch.Tensor


@dataclass(frozen=True, slots=True)
class Depth:
    """One pass: the nodes of one depth that have children.

    Attributes:
        first: the first of them among the rows that the drafter feeds itself.
        nodes: their rows in the verify pass.
        parents: for each node the place of its parent among the nodes of the pass before; none for the root.
        children: for each node, (row of the verify pass, rank) of its children.
    """

    first: int
    nodes: tuple[int, ...]
    parents: tuple[int, ...]
    children: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def topk(self) -> int:
        """The most tokens that follow one node."""
        return 1 + max(rank for children in self.children for _, rank in children)

    def hand_out(self, best: Rows[Rows[int]], proposals: Rows[list[int]]) -> None:
        """Put the best tokens after each node, sequence by sequence, where its children are proposed."""
        tokens_after = iter(best)
        for proposal in proposals:
            for children, tokens in zip(self.children, tokens_after, strict=False):
                for node, rank in children:
                    proposal[node - 1] = tokens[rank]


def depths_of(shape: Tree) -> Iterator[Depth]:
    """The passes over the root and the nodes that have children, depth by depth."""
    verified = {path: row for row, path in enumerate(shape.rows)}
    fed = shape.inner.rows
    before: list[tuple[int, ...]] = []
    for length in range(len(fed[-1]) + 1):
        paths = [path for path in fed if len(path) == length]
        children = [tuple((verified[node], node[-1]) for node in shape.nodes if node[:-1] == path) for path in paths]
        parents = tuple(before.index(path[:-1]) for path in paths if path)
        yield Depth(fed.index(paths[0]), tuple(verified[path] for path in paths), parents, tuple(children))
        before = paths


def best_tokens(
    tiles: Iterator[tuple[int, torch.Tensor]],
    work: Workspace,
    candidates: torch.Tensor,
    vocab_size: int,
    token_map: torch.Tensor | None = None,
) -> None:
    """Fill ``candidates`` [n, k] with the best tokens of n rows, by k arg-max passes that each strike out their winner.

    Args:
        tiles: logits of the rows, overwritten.
        work: of the pass.
        candidates: int64.
        vocab_size: tokens that may be proposed.
        token_map: int64, the target's id of each token; None where they are the same.
    """
    for start, logits in tiles:
        known = logits[:, :vocab_size]
        for rank in range(candidates.shape[1]):
            best = torch.argmax(known, dim=-1, out=work.argmax[: len(known)])
            place, tokens = candidates[start : start + len(known), rank], best
            if token_map is not None:
                tokens = torch.index_select(token_map, 0, best, out=work.positions[: len(best)])
            place.copy_(tokens)
            known.scatter_(1, best[:, None], float("-inf"))
        del logits, known  # a head that allocates is about to make the next tile
