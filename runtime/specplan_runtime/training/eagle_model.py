"""An EAGLE-3 head in training: its layer over features of the target, unrolled over its own states (2503.01840).

When it drafts, the head reads its own hidden state where the target has not been yet. So it is trained on that: step 1
reads the target's feature at every entry at once; in step s every entry reads what step s - 1 left at the entry before,
and sees the target's entries up to the one that its chain began at, and of the later ones those of its own chain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, silu

from specplan.arch import ModelArch
from specplan.heads import NUM_FEATURES, Eagle3Head, head_layer, published_heads
from specplan.models.eagle3_names import FINAL_NORM, FUSION, HEAD, Eagle3Names
from specplan.speculation import Chain
from specplan_runtime.rope import inverse_frequencies
from specplan_runtime.training.options import TrainOptions

#: As the speculators library calls the layer.
NAMES = Eagle3Names("layers.0", mapped=True, own_embedding=False)
#: What the blocks add at first, against what they would at full size.
_BEGINNING = 0.1


def trained_head(target: ModelArch, options: TrainOptions) -> Eagle3Head:
    """The head that is trained: of the sizes that published ones have, with fewer tokens."""
    found = published_heads("eagle3", target, Chain(1), shares_head=False)
    assert isinstance(found, Eagle3Head)
    tokens = min(options.draft_vocab_size, target.vocab_size)
    return dataclasses.replace(found, draft_vocab_size=tokens, norm_before_residual=True)


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What of the target a head is trained with, float32.

    Attributes:
        embedding: [V, h].
        output_rows: [V_d, h], rows of the output head for the tokens that the head proposes: its own output head too.
        final_norm: [h], weight of the norm before the output head.
        feature_scale: [features, h], root mean squares of the features.
    """

    embedding: torch.Tensor
    output_rows: torch.Tensor
    final_norm: torch.Tensor
    feature_scale: torch.Tensor


class EagleModel:
    """The head, with autograd.

    The fusion reads features that are divided by their scale, so that no channel outweighs the others while it learns;
    ``tensors`` puts the scale into its matrix. It begins as the last feature. The output head stays the target's: a
    little text would teach rare tokens the wrong thing.

    Args:
        head: sizes; with ``norm_before_residual``.
        target: architecture.
        parts: of the target.
        seed: of the layer's first weights.
    """

    def __init__(self, head: Eagle3Head, target: ModelArch, parts: TargetParts, seed: int) -> None:
        self.layer, self.parts = head_layer(head, target), parts
        self.parameters = {
            name: tensor.to(parts.embedding.device).requires_grad_()
            for name, tensor in _first_weights(self.layer, parts, torch.Generator().manual_seed(seed)).items()
        }
        self._frequencies = inverse_frequencies(self.layer)[0].to(parts.embedding.device)

    def unrolled(self, features: torch.Tensor, tokens: torch.Tensor, num_steps: int) -> list[torch.Tensor]:
        """Normalized hidden states [n, h] of n entries after each step.

        Args:
            features: [n, features, h], of tokens 0 to n - 1.
            tokens: int64 [n], tokens 1 to n.
            num_steps: s; entries before the s-th begin nowhere, what is said of them means nothing.
        """
        scaled = (features.float() / self.parts.feature_scale).flatten(1)
        feature = linear(scaled, self.parameters[FUSION])
        embedded = self._norm(self.parts.embedding[tokens], NAMES.of_layer("input_layernorm"))
        angles = torch.arange(len(tokens), device=features.device)[:, None] * self._frequencies
        turns = (angles.cos()[:, None], angles.sin()[:, None])
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        found = []
        for _ in range(num_steps):
            hidden = self._step(feature, embedded, turns, keys, values)
            found.append(self._norm(hidden, FINAL_NORM))
            feature = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        return found

    def tensors(self, token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The head as it is published; ``token_ids`` int64 [V_d], the target's, in ascending order."""
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in self.parameters.items()}
        found[HEAD] = self.parts.output_rows.cpu()
        found[FUSION] = (found[FUSION] / self.parts.feature_scale.flatten().cpu()).contiguous()
        known = torch.zeros(len(self.parts.embedding), dtype=torch.bool)
        known[token_ids] = True
        return found | {"d2t": token_ids - torch.arange(len(token_ids)), "t2d": known}

    def _step(
        self,
        feature: torch.Tensor,
        embedded: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
    ) -> torch.Tensor:
        """The layer over all entries; its keys and values are appended."""
        states = self._norm(feature, NAMES.of_layer("hidden_norm"))
        joined, d = torch.cat([embedded, states], dim=-1), self.layer.head_dim
        query, key, value = (
            self._linear(joined, f"self_attn.{kind}_proj").view(len(joined), -1, d) for kind in ("q", "k", "v")
        )
        keys.append(_rotated(key, *turns))
        values.append(value)
        hidden = states + self._linear(_attend(_rotated(query, *turns), keys, values), "self_attn.o_proj")
        x = self._norm(hidden, NAMES.of_layer("post_attention_layernorm"))
        gate, up = self._linear(x, "mlp.gate_proj"), self._linear(x, "mlp.up_proj")
        return hidden + self._linear(silu(gate) * up, "mlp.down_proj")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, self.parameters[NAMES.of_layer(name)])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.rms_norm(x, x.shape[-1:], self.parameters[name], self.layer.rms_norm_eps)


def _attend(query: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention [n, H·d] of the last step's queries.

    Entry i of step s began its chain s - 1 entries before: it sees the first step's entries up to there, and the entry
    of each later step that lies on its chain.

    Args:
        query: [n, H, d].
        keys: [n, H_k, d], of every step.
        values: the same.
    """
    n, heads, d = query.shape
    kv_heads, shift = keys[0].shape[1], len(keys) - 1
    packed = query.view(n, kv_heads, heads // kv_heads, d) * d**-0.5
    scores = torch.einsum("ikgd,jkd->kgij", packed, keys[0])
    unseen = torch.ones(n, n, dtype=torch.bool, device=query.device).triu(1 - shift)
    scores = scores.masked_fill(unseen, float("-inf"))
    chain = [(torch.roll(keys[t], shift - t, 0), torch.roll(values[t], shift - t, 0)) for t in range(1, shift + 1)]
    own = [torch.einsum("ikgd,ikd->kgi", packed, key)[..., None] for key, _ in chain]
    shares = torch.cat([scores, *own], dim=-1).softmax(-1)
    mixed = torch.einsum("kgij,jkd->ikgd", shares[..., :n], values[0])
    for place, (_, value) in enumerate(chain, start=n):
        mixed = mixed + torch.einsum("kgi,ikd->ikgd", shares[..., place], value)
    return mixed.reshape(n, heads * d)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _first_weights(layer: ModelArch, parts: TargetParts, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A layer that adds little to the last feature, and the target's own norm behind it."""
    h, inner, d = layer.hidden_size, layer.intermediate_size, layer.head_dim
    width, kv_width = layer.num_attention_heads * d, layer.num_key_value_heads * d
    scale = parts.feature_scale.cpu()
    fusion = torch.zeros(h, NUM_FEATURES * h)
    fusion[:, -h:] = torch.diag(scale[-1] / scale[-1].square().mean().sqrt())
    shapes = {
        "self_attn.q_proj": (width, 2 * h),
        "self_attn.k_proj": (kv_width, 2 * h),
        "self_attn.v_proj": (kv_width, 2 * h),
        "self_attn.o_proj": (h, width),
        "mlp.gate_proj": (inner, h),
        "mlp.up_proj": (inner, h),
        "mlp.down_proj": (h, inner),
    }
    found = {FUSION: fusion, FINAL_NORM: parts.final_norm.cpu().clone()}
    for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
        found[NAMES.of_layer(name)] = torch.ones(h)
    for name, shape in shapes.items():
        size = shape[1] ** -0.5 * (_BEGINNING if name in ("self_attn.o_proj", "mlp.down_proj") else 1.0)
        found[NAMES.of_layer(name)] = size * torch.randn(shape, generator=generator)
    return found
