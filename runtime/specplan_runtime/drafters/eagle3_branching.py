"""Drafting a tree with an EAGLE-3 head: one pass per depth, over the nodes that have children."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan.speculation import Tree
from specplan_runtime.drafters.branches import BranchBuffers, Depth, best_tokens, depths_of
from specplan_runtime.drafters.head import HeadDrafter, idle_rows
from specplan_runtime.eagle import Eagle3Pass
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.topology import topology_of
from specplan_runtime.workspace import Workspace, write_integers


class Eagle3BranchingDrafter(HeadDrafter):
    """Proposes the plan's tree: the head's best tokens after each node, found by repeated arg-max.

    A node's entry reads its token beside the hidden state that the head left at the node's parent. Entries of nodes
    lie behind those of the text, one slot each, and are written anew in every step. Proposals are certain: siblings are
    tried in turn.

    Args:
        head: with its weights.
        work: buffers of the draft phase.
        prefill_work: buffers of the head's prefill.
        num_rows: cache rows.
        shape: of the plan.
        buffers: in the arena.
    """

    def __init__(
        self,
        head: Eagle3Pass,
        work: Workspace,
        prefill_work: Workspace,
        num_rows: int,
        shape: Tree,
        buffers: BranchBuffers,
    ) -> None:
        super().__init__(head, work, prefill_work, num_rows)
        self._candidates, self._num_nodes = buffers.candidates, shape.num_draft_nodes
        self._topology = topology_of(shape.inner, buffers.hidden)
        self._depths = tuple(depths_of(shape))

    def draft(
        self,
        rows: Rows[Sequence | None],
        ready: Rows[bool],
        limits: Rows[int],
        last_rows: list[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """The whole tree for every row that can use a token of it."""
        proposals = [[0] * self._num_nodes for _ in rows]
        known: list[int] | None = last_rows
        num_before = 1
        for depth in self._depths:
            if depth.first:
                self._feed(depth, num_before, rows, ready, proposals)
                known = None
            depth.hand_out(self._best(known, len(rows) * len(depth.nodes), depth.topk), proposals)
            num_before = len(depth.nodes)
        return [proposal if limit else [] for proposal, limit in zip(proposals, limits, strict=True)]

    def _feed(
        self,
        depth: Depth,
        num_before: int,
        rows: Rows[Sequence | None],
        ready: Rows[bool],
        proposals: Rows[list[int]],
    ) -> None:
        """A pass over the nodes of a depth, after one over ``num_before`` nodes of each sequence."""
        parents = [row * num_before + parent for row in range(self._num_rows) for parent in depth.parents]
        places, states = self._work.positions[: len(parents)], self._head.pending[: len(parents)]
        write_integers(places, parents)
        torch.index_select(self._work.hidden, 0, places, out=states)
        starts = [
            sequence.num_draft_cached - 1 if sequence is not None and follows else 0
            for sequence, follows in zip(rows, ready, strict=True)
        ]
        tokens = [[proposal[node - 1] for node in depth.nodes] for proposal in proposals]
        span = Span(tokens, starts, None, idle_rows(ready), self._topology, depth.first)
        self._pass.forward(self._work, span, states.view(self._num_rows, len(depth.nodes), -1))

    def _best(self, rows: list[int] | None, num_rows: int, topk: int) -> list[list[int]]:
        """The ``topk`` best tokens of the target after each row of the pass."""
        candidates, head = self._candidates[:num_rows, :topk], self._head
        tiles = self._pass.logits(self._work, rows, num_rows)
        best_tokens(tiles, self._work, candidates, head.parameters.arch.vocab_size, head.token_map)
        best: list[list[int]] = candidates.tolist()
        return best
