"""An EAGLE-3 head: its tensors in the arena, and its pass (Li et al., 2503.01840).

The head's entry at position i reads the target's fused feature of token i and the embedding of token i + 1, and says
which token follows that one. Where the target has not been yet, the head's own hidden state stands for the feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from specplan.arch import ModelArch
from specplan.heads import Eagle3Head, head_layer
from specplan_runtime.arena import Arena
from specplan_runtime.attention import Attention
from specplan_runtime.decoder import Decoder
from specplan_runtime.embedding import embed
from specplan_runtime.features import FeatureTap
from specplan_runtime.mlp import dense
from specplan_runtime.norms import apply_norm
from specplan_runtime.parameters import Norm, Parameters, Slots, place_fusion, place_joining_layer, tensors_in
from specplan_runtime.precision import Precision
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace


@dataclass(slots=True)
class Eagle3:
    """Weights of the head, and what it keeps from step to step.

    Attributes:
        parameters: decoder layer, cache, output head over the draft's tokens; the embedding is its own or the target's.
        owns_embedding: it is its own.
        token_norm, feature_norm: of the two halves that attention reads.
        norm_before_residual: the normalized feature starts the residual stream.
        tap: the fusion, and where fused features are put.
        token_map: int64 [V_d], the target's id of each token.
        pending: [max(B·(γ + 1), least rows), h], fused features of the last verify pass.
    """

    parameters: Parameters
    owns_embedding: bool
    token_norm: Norm
    feature_norm: Norm
    norm_before_residual: bool
    tap: FeatureTap
    token_map: torch.Tensor
    pending: torch.Tensor

    def weight_tensors(self) -> Iterator[torch.Tensor]:
        """The weights of the head itself, without an embedding that is the target's."""
        shared = None if self.owns_embedding else self.parameters.embedding
        own = (tensor for tensor in self.parameters.weight_tensors() if tensor is not shared)
        yield from own
        yield from tensors_in((self.token_norm, self.feature_norm, self.tap.fusion))


@dataclass(frozen=True, slots=True)
class ChainBuffers:
    """What drafting a chain with a head keeps in the arena.

    Attributes:
        probs: float32 [B, γ, V_d], what proposals were drawn from.
        scattered: float32 [V], one of these distributions over the target's tokens.
    """

    probs: torch.Tensor
    scattered: torch.Tensor


@dataclass(frozen=True, slots=True)
class Eagle3Sizes:
    """What the sizes of a head's tensors depend on besides the head.

    Attributes:
        batch_size: B.
        num_verify_tokens: rows per sequence of a verify pass.
        chunk: rows of a prefill pass.
        slots: of its cache.
        vocab_size: of the whole target.
        owns_embedding: it has an input embedding of its own.
    """

    batch_size: int
    num_verify_tokens: int
    chunk: int
    slots: Slots
    vocab_size: int
    owns_embedding: bool


def place_eagle3(
    arena: Arena, target: Parameters, spec: Eagle3Head, precision: Precision, sizes: Eagle3Sizes
) -> Eagle3:
    """Place the head of a plan; its content is loaded afterwards."""
    compute, h, vocab = precision.compute, target.arch.hidden_size, sizes.vocab_size
    least, batch = precision.least_rows, sizes.batch_size

    def weights(*shape: int, dtype: torch.dtype = compute) -> torch.Tensor:
        return arena.take("drafter.weights", shape, dtype, "drafter.weight_padding")

    def features(rows: int) -> torch.Tensor:
        return arena.take("drafter.features", (max(rows, least), h), compute)

    fusion = place_fusion(arena, precision, h, len(spec.feature_layers))
    embedding = weights(vocab, h) if sizes.owns_embedding else target.embedding
    layer = head_layer(spec, target.arch)
    parameters = place_joining_layer(arena, layer, precision, batch, sizes.slots, embedding)
    chunk, pending = features(sizes.chunk), features(batch * sizes.num_verify_tokens)
    return Eagle3(
        parameters=parameters,
        owns_embedding=sizes.owns_embedding,
        token_norm=Norm(weights(h), None),
        feature_norm=Norm(weights(h), None),
        norm_before_residual=spec.norm_before_residual,
        tap=FeatureTap(spec.feature_layers, fusion, {"prefill_target": chunk, "verify": pending}),
        token_map=weights(spec.draft_vocab_size, dtype=torch.int64),
        pending=pending,
    )


def place_chain(arena: Arena, spec: Eagle3Head, batch_size: int, gamma: int, vocab_size: int) -> ChainBuffers:
    """Place what drafting γ tokens one after the other keeps; ``vocab_size`` is the target's."""
    return ChainBuffers(
        probs=arena.take("draft_probs", (batch_size, gamma, spec.draft_vocab_size), torch.float32),
        scattered=arena.take("drafter.scattered", (vocab_size,), torch.float32),
    )


class Eagle3Pass:
    """The forward pass of a head over its parameters. Holds no tensors of its own.

    Args:
        head: weights, cache.
        target: whose embedding the head may share; what the head's kernels allocate is counted with its own.
    """

    def __init__(self, head: Eagle3, target: Decoder) -> None:
        self.head = head
        self.arch: ModelArch = head.parameters.arch
        self._embedding = head.parameters if head.owns_embedding else target.parameters
        self._attention = Attention(head.parameters)
        self._decoder = Decoder(head.parameters, outputs=target.outputs)
        self._least_rows = head.parameters.precision.least_rows

    def forward(self, work: Workspace, span: Span, features: torch.Tensor) -> None:
        """Write the entries of ``span`` into the head's cache; leaves its hidden states in ``work.hidden``.

        Args:
            work: buffers of the pass's phase.
            span: for each entry the token that follows the one whose feature it reads; its place is the feature's.
            features: [b, n, h], fused or the head's own hidden states; not in ``work``.
        """
        ids = [token for tokens in span.tokens for token in tokens]
        work.write_tokens(ids, span.positions)
        fed = max(span.num_rows, self._least_rows)
        self._join(work, span, features, fed)
        self._attention.prepare(work, span, fed)
        self._layer(work, span, fed)

    def logits(self, work: Workspace, rows: Sequence[int] | None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits over the draft's tokens, in tiles, as ``Decoder.logits`` gives them."""
        return self._decoder.logits(work, rows, num_rows)

    def _join(self, work: Workspace, span: Span, features: torch.Tensor, fed: int) -> None:
        """Embeddings and features, each normalized, side by side; the residual stream begins with the features."""
        head, h, joined = self.head, self.arch.hidden_size, work.joined
        assert joined is not None
        tokens, states = joined[:fed, :h], joined[:fed, h:]
        self._normalize(work, embed(self._embedding, work, fed), head.token_norm, tokens)
        work.hidden[: span.num_rows].view(features.shape).copy_(features)
        self._normalize(work, work.hidden[:fed], head.feature_norm, states)
        if head.norm_before_residual:
            work.hidden[:fed].copy_(states)

    def _layer(self, work: Workspace, span: Span, fed: int) -> None:
        (layer,) = self.head.parameters.layers
        hidden = work.hidden[:fed]
        assert work.joined is not None
        assert layer.mlp_in is not None
        heads, qkv = self._attention(work, span, layer, work.joined[:fed])
        self._decoder.note_outputs(qkv)
        del qkv
        hidden.add_(layer.output(heads, work.projected))
        x = self._normalize(work, hidden, layer.mlp_in, work.normed[: hidden.numel()].view(hidden.shape))
        down, both = dense(work, layer, self.head.parameters, x)
        self._decoder.note_outputs(both, down)
        hidden.add_(down)

    def _normalize(self, work: Workspace, x: torch.Tensor, norm: Norm, out: torch.Tensor) -> torch.Tensor:
        return apply_norm(x, norm, self.arch.rms_norm_eps, out, work)
