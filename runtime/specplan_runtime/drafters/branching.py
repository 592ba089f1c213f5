"""Drafting a tree with a model: one pass per depth, over the nodes that have children."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from specplan.speculation import Tree
from specplan_runtime.drafters.branches import BranchBuffers, Depth, best_tokens, depths_of
from specplan_runtime.drafters.model import DraftModel, ModelDrafter, idle_rows
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.topology import topology_of
from specplan_runtime.workspace import Workspace


class BranchingDrafter(ModelDrafter[Workspace]):
    """Proposes the plan's tree: the best tokens after each node, found by repeated arg-max.

    The draft's cache holds the rows that were fed behind the context, one slot each; what is accepted of them moves to
    the front. Proposals are certain: siblings are tried in turn.

    Args:
        model: that drafts.
        shape: of the plan.
        buffers: in the arena.
    """

    def __init__(self, model: DraftModel[Workspace], shape: Tree, buffers: BranchBuffers) -> None:
        super().__init__(model)
        self._candidates = buffers.candidates
        self._num_nodes = shape.num_draft_nodes
        self._topology = topology_of(shape.inner, buffers.hidden)
        self._depths = tuple(depths_of(shape))
        fed = [node for depth in self._depths for node in depth.nodes]
        self._fed = {node: row for row, node in enumerate(fed)}

    def propose(self, rows: Rows[Sequence | None], limits: Rows[int], params: SamplingParams) -> list[list[int]]:
        """The whole tree for every active row that can use a token of it."""
        if not any(limits):
            return [[] for _ in rows]
        self._model.catch_up(rows)
        proposals = [[0] * self._num_nodes for _ in rows]
        for depth in self._depths:
            span, last_rows = self._span(depth, rows, proposals)
            self._model.decoder.forward(self._model.work, span, self._model.num_layers)
            depth.hand_out(self._best(last_rows, len(rows) * len(depth.nodes), depth.topk), proposals)
        return [
            proposal if sequence is not None and limit else []
            for sequence, proposal, limit in zip(rows, proposals, limits, strict=True)
        ]

    def probs(self, row: int, position: int) -> torch.Tensor | None:
        """Proposals are certain."""
        return None

    def commit(self, sequence: Sequence, num_drafted: int, path: Rows[int]) -> None:
        """Keep what was accepted of the rows that the draft has seen; a shared cache, the target has put in order."""
        if not num_drafted:
            return
        known = len(sequence.tokens)
        kept = [self._fed[node] for node in path if node in self._fed]
        if self._model.owns_cache:
            self._model.decoder.compact(sequence.row, known - 1, kept)
        sequence.num_draft_cached = known + (len(kept) if self._model.owns_cache else len(path))

    def _span(
        self, depth: Depth, rows: Rows[Sequence | None], proposals: Rows[list[int]]
    ) -> tuple[Span, list[int] | None]:
        """The next pass, and its rows whose logits are wanted, None for all."""
        if not depth.first:
            return self._model.first_span(rows)
        starts = [0 if sequence is None else len(sequence.tokens) - 1 for sequence in rows]
        tokens = [[proposal[node - 1] for node in depth.nodes] for proposal in proposals]
        return Span(tokens, starts, None, idle_rows(rows), self._topology, depth.first), None

    def _best(self, rows: list[int] | None, num_rows: int, topk: int) -> list[list[int]]:
        """The ``topk`` best tokens of each row of the pass."""
        candidates = self._candidates[:num_rows, :topk]
        tiles = self._model.decoder.logits(self._model.work, rows, num_rows)
        best_tokens(tiles, self._model.work, candidates, self._model.vocab_size)
        best: list[list[int]] = candidates.tolist()
        return best
