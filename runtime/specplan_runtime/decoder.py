"""The forward pass of Llama-like decoders, every intermediate in its place of the arena.

Shapes: T rows of a pass = the tokens of all b sequences, fed = max(T, least rows of a product).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch

from specplan_runtime.attention import Attention
from specplan_runtime.distributed.links import Alone, Links
from specplan_runtime.embedding import embed
from specplan_runtime.features import Tap
from specplan_runtime.kernel_outputs import KernelOutputs
from specplan_runtime.mlp import dense, mixture
from specplan_runtime.norms import apply_norm
from specplan_runtime.parameters import Layer, Norm, Parameters
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


class Decoder:
    """One model over its parameters. Holds no tensors of its own.

    Args:
        parameters: weights, cache, constants.
        links: to the other ranks, where this one has a share of the model.
        outputs: where what kernels allocate is counted, with that of another decoder; apart when None.
    """

    def __init__(
        self, parameters: Parameters, links: Links | None = None, outputs: KernelOutputs | None = None
    ) -> None:
        self.parameters = parameters
        self._links: Links = links or Alone()
        self.vocab_size = self._links.vocab_size or parameters.arch.vocab_size
        self.arch = parameters.arch
        table = parameters.embedding  # packed ones have their rows in blocks
        self._num_embedded = table.shape[0] * (table.shape[2] if table.dim() == 3 else 1)
        self._attention = Attention(parameters, self._links)
        compute = parameters.precision.compute
        self._min_rows = parameters.precision.least_rows
        # the published models multiply by this number in their own precision
        self._embedding_multiplier = float(torch.tensor(self.arch.embedding_multiplier, dtype=compute))
        self.outputs = outputs or KernelOutputs()
        #: Takes hidden states of some layers along, for a drafter that reads them.
        self.tap: Tap | None = None

    def working_ahead(self, work: Workspace) -> AbstractContextManager[None]:
        """For passes that follow one another: the next stage takes what one leaves while the next one runs."""
        return self._links.sending_from(work.in_flight)

    @property
    def largest_output_bytes(self) -> int:
        """The most that kernels held outside the arena at one time, for the measured ledger."""
        return self.outputs.largest_bytes

    @property
    def has_head(self) -> bool:
        """Whether this rank is in the last stage, where logits are made."""
        return self._links.has_head

    def forward(self, work: Workspace, span: Span, num_layers: int | None = None) -> None:
        """Run the layers over ``span``; leaves the residual stream in ``work.hidden`` and K, V in the cache.

        Args:
            work: buffers of the pass's phase.
            span: tokens and where they go.
            num_layers: layers to run; all of them when None.
        """
        ids = [token for tokens in span.tokens for token in tokens]
        places, elsewhere = self._places(ids)
        work.write_tokens(places, span.positions)
        fed = max(span.num_rows, self._min_rows)
        if self.tap is not None:
            self.tap.begin(work.shape.phase, work.hidden[:fed], work.normed)
        if self._links.embeds:
            self._embed(work, elsewhere, fed)
        else:
            self._links.receive(work.hidden[:fed])
        self._attention.prepare(work, span, fed)
        for index, layer in enumerate(self.parameters.layers[:num_layers]):
            self._show(work, index, fed)
            self._layer(work, span, layer, fed)
        self._show(work, len(self.parameters.layers), fed)
        self._links.send(work.hidden[:fed])

    def expect(self, work: Workspace, spans: Sequence[Span], sampled: bool | None) -> None:
        """Nobody else needs to know."""

    def best(
        self, work: Workspace, rows: Sequence[int] | None, num_rows: int, vocab_size: int | None = None
    ) -> list[int]:
        """The most probable of the first ``vocab_size`` tokens (of all) after each row; rows as for ``logits``."""
        found: list[int] = []
        for _, logits in self._tiles(work, rows, num_rows):
            found += self._links.best(work, logits[:, : self._num_known(vocab_size)])
            del logits  # a head that allocates is about to allocate the next tile
        return found

    def logits(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits in tiles of ``work.shape.logits_rows``: (index of the tile's first row, [R', V]).

        A tile is overwritten by the next one. Destroys ``work.hidden``'s order when ``rows`` is given.

        Args:
            work: buffers of a pass that ``forward`` has run.
            rows: the rows of the pass that need logits; None for all of the first ``num_rows``.
            num_rows: how many rows need logits.
        """
        for start, logits in self._tiles(work, rows, num_rows):
            for offset, whole in self._links.whole_rows(work, logits):
                yield start + offset, whole
                del whole
            del logits  # a head that allocates is about to allocate the next tile

    def _tiles(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of this rank's part of the vocabulary."""
        if rows is not None:
            for place, row in enumerate(rows):
                if place != row:
                    work.hidden[place].copy_(work.hidden[row])
        fed = max(num_rows, self._min_rows)
        normed = self._normalized(work, work.hidden[:fed], self.parameters.final_norm)
        tile = min(work.shape.logits_rows, fed)
        softcap = self.arch.logit_softcap
        start = 0
        while start < num_rows:
            first = max(0, min(start, fed - tile))
            logits = self.parameters.head(normed[first : first + tile], work.logits)
            self.note_outputs(logits)
            if softcap is not None:
                logits.div_(softcap).tanh_().mul_(softcap)
            yield start, logits[start - first : num_rows - first]
            del logits
            start = first + tile

    def compact(self, row: int, start: int, path: Sequence[int]) -> None:
        """Move the keys and values of an accepted path behind the context: row r of a pass to its place in the path.

        The scales of a quantized cache move along.
        Rows only move towards the front and in order, so none is overwritten before it has moved.

        Args:
            row: cache row.
            start: position of the pass's root.
            path: accepted rows of the pass.
        """
        for depth, position in enumerate(path, start=1):
            if position != depth:
                for tensor in self.parameters.full.tensors:
                    tensor[:, row, :, start + depth].copy_(tensor[:, row, :, start + position])

    def rewound(self, num_cached: int, num_shared: int, num_drafted: int) -> int:
        """Leading tokens that the caches still hold, as the parameters know them."""
        return self.parameters.rewound(num_cached, num_shared, num_drafted)

    def last_normalized(self, work: Workspace, row: int) -> torch.Tensor:
        """The normalized hidden state [h] of a row whose logits were asked for, until the next pass."""
        h = self.arch.hidden_size
        return work.normed[row * h : (row + 1) * h]

    def _places(self, tokens: list[int]) -> tuple[list[int], list[int]]:
        """Where this rank's part of the embedding has the tokens, and which of them it has not: those look up row 0."""
        places = [token - self._links.first_token for token in tokens]
        elsewhere = [row for row, place in enumerate(places) if not 0 <= place < self._num_embedded]
        for row in elsewhere:
            places[row] = 0
        return places, elsewhere

    def _num_known(self, vocab_size: int | None) -> int:
        """Columns of this rank's logits that are tokens below ``vocab_size``: its last ones may be padding."""
        return max(0, min(self.arch.vocab_size, (vocab_size or self.vocab_size) - self._links.first_token))

    def _embed(self, work: Workspace, elsewhere: list[int], fed: int) -> None:
        hidden = embed(self.parameters, work, fed)
        for row in elsewhere:
            hidden[row].zero_()
        self._links.add_up(hidden)
        if self._embedding_multiplier != 1.0:
            hidden.mul_(self._embedding_multiplier)

    def _show(self, work: Workspace, index: int, fed: int) -> None:
        """The residual stream at the entry of a layer, for whoever wants it; ``work.normed`` is free there."""
        if self.tap is not None:
            self.tap.take(work.shape.phase, index, work.hidden[:fed], work.normed)

    def _layer(self, work: Workspace, span: Span, layer: Layer, fed: int) -> None:
        """Attention and MLP, with norms where the family has them."""
        hidden = work.hidden[:fed]
        heads, qkv = self._attention(work, span, layer, self._normalized(work, hidden, layer.attention_in))
        self.note_outputs(qkv)
        del qkv
        mixed = layer.output(heads, work.projected)
        self._links.add_up(mixed)
        if self.arch.norm_placement == "parallel":  # the MLP reads what attention read
            x = self._normalized(work, hidden, layer.mlp_in)
            hidden.add_(mixed)
        else:
            hidden.add_(self._normalized(work, mixed, layer.attention_out))
            x = self._normalized(work, hidden, layer.mlp_in)
        del mixed
        hidden.add_(self._normalized(work, self._mlp(work, span, layer, x), layer.mlp_out))

    def _mlp(self, work: Workspace, span: Span, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        if layer.experts is None:
            down, both = dense(work, layer, self.parameters, x)
            self.note_outputs(both, down)
            self._links.add_up(down)
            return down
        held = mixture(work, layer.experts, self.parameters, x, span.num_rows)
        if self.parameters.precision.allocates:
            self.outputs.note_bytes(held)
        assert work.projected is not None
        mixed = work.projected[: x.numel()].view(x.shape)
        self._links.add_up(mixed)
        return mixed

    def _normalized(self, work: Workspace, x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        """The rows through a norm, in ``work.normed``; as they are where there is none."""
        if norm is None:
            return x
        place = work.normed[: x.numel()].view(x.shape)
        return apply_norm(x, norm, self.arch.rms_norm_eps, place, work)

    def note_outputs(self, *alive: torch.Tensor) -> None:
        """Count what kernels have allocated and not yet freed; others write into the arena."""
        if self.parameters.precision.allocates:
            self.outputs.note(*alive)
