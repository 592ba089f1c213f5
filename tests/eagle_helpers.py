"""Tiny EAGLE-3 checkpoints as they are published, and the published definition as a plain PyTorch module."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

HIDDEN, VOCAB = 32, 131
#: Sizes of the head that differ from the target's wherever they may.
HEADS, KV_HEADS, HEAD_DIM, INNER, DRAFT_VOCAB = 6, 3, 12, 40, 53
EPSILON, THETA = 1e-5, 500.0
#: Layers of a target of three layers whose inputs are the features; the last is what leaves the third.
LAYERS = [1, 2, 3]


def token_map(draft_vocab: int = DRAFT_VOCAB, vocab: int = VOCAB, seed: int = 5) -> torch.Tensor:
    """The target's ids of the draft's tokens, in ascending order."""
    chosen = torch.randperm(vocab, generator=torch.Generator().manual_seed(seed))[:draft_vocab]
    return torch.tensor(sorted(chosen.tolist()))


def eagle_tensors(
    layer: str = "midlayer", seed: int = 0, own_embedding: bool = False, ids: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """A random head by the names of its authors, or with ``layers.0`` by those of the speculators library."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn((rows, columns), generator=generator) / math.sqrt(columns)

    def vector() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(HIDDEN, generator=generator)

    width, kv_width = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    found = {
        "fc.weight": matrix(HIDDEN, 3 * HIDDEN),
        "norm.weight": vector(),
        "lm_head.weight": 3 * matrix(DRAFT_VOCAB, HIDDEN),
        f"{layer}.input_layernorm.weight": vector(),
        f"{layer}.hidden_norm.weight": vector(),
        f"{layer}.post_attention_layernorm.weight": vector(),
        f"{layer}.self_attn.q_proj.weight": 2 * matrix(width, 2 * HIDDEN),
        f"{layer}.self_attn.k_proj.weight": 2 * matrix(kv_width, 2 * HIDDEN),
        f"{layer}.self_attn.v_proj.weight": matrix(kv_width, 2 * HIDDEN),
        f"{layer}.self_attn.o_proj.weight": matrix(HIDDEN, width),
        f"{layer}.mlp.gate_proj.weight": matrix(INNER, HIDDEN),
        f"{layer}.mlp.up_proj.weight": matrix(INNER, HIDDEN),
        f"{layer}.mlp.down_proj.weight": matrix(HIDDEN, INNER),
    }
    if own_embedding:
        found["embed_tokens.weight"] = matrix(VOCAB, HIDDEN)
    known = token_map() if ids is None else ids
    mask = torch.zeros(VOCAB, dtype=torch.bool)
    mask[known] = True
    return found | {"d2t": known - torch.arange(len(known)), "t2d": mask}


def eagle_config(**changes: Any) -> dict[str, Any]:
    """config.json of the authors' format; a field set to ``...`` is left out."""
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "rope_theta": THETA,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        "draft_vocab_size": DRAFT_VOCAB,
        "eagle_aux_hidden_state_layer_ids": LAYERS,
    } | changes
    return {name: value for name, value in config.items() if value is not ...}


def speculators_config(**changes: Any) -> dict[str, Any]:
    """config.json of the speculators library."""
    layer = eagle_config(architectures=..., draft_vocab_size=..., eagle_aux_hidden_state_layer_ids=...)
    return {
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": DRAFT_VOCAB,
        "eagle_aux_hidden_state_layer_ids": LAYERS,
        "norm_before_residual": True,
        "speculators_config": {"algorithm": "eagle3"},
        "speculators_model_type": "eagle3",
        "target_hidden_size": None,
        "transformer_layer_config": layer,
    } | changes


def eagle_folder(folder: Path, tensors: dict[str, torch.Tensor] | None = None, config: Any = None) -> Path:
    """A folder with config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(eagle_config() if config is None else config))
    save_file(eagle_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder


class ReferenceHead(nn.Module):
    """The head as its authors publish it (eagle/model/cnets.py), without a cache: all entries at once.

    Args:
        tensors: of the checkpoint.
        embedding: the target's [V, h], used where the checkpoint has none.
        norm_before_residual: the speculators library's variant.
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], embedding: torch.Tensor, norm_before_residual: bool = False
    ) -> None:
        super().__init__()
        self.tensors = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in tensors.items()}
        self.embedding = tensors.get("embed_tokens.weight", embedding)
        self.norm_before_residual = norm_before_residual

    def fuse(self, low: torch.Tensor, middle: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Features [n, h] of three layers to one."""
        return torch.cat([low, middle, high], dim=-1) @ self.tensors["fc.weight"].T

    def forward(self, features: torch.Tensor, next_tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [n, h] and logits [n, V_d] of n entries."""
        residual = features
        states = self._norm(features, "midlayer.hidden_norm")
        if self.norm_before_residual:
            residual = states
        tokens = self._norm(self.embedding[next_tokens], "midlayer.input_layernorm")
        hidden = residual + self._attention(torch.cat([tokens, states], dim=-1))
        x = self._norm(hidden, "midlayer.post_attention_layernorm")
        gate, up = self._linear(x, "mlp.gate_proj"), self._linear(x, "mlp.up_proj")
        hidden = hidden + self._linear(functional.silu(gate) * up, "mlp.down_proj")
        return hidden, self._norm(hidden, "norm") @ self.tensors["lm_head.weight"].T

    def draft(self, features: torch.Tensor, tokens: list[int], count: int) -> list[int]:
        """The ``count`` greedy proposals after ``tokens``, of which all but the last have features [n - 1, h]."""
        ids = self.tensors["d2t"] + torch.arange(len(self.tensors["d2t"]))
        following = tokens[1:]
        proposals: list[int] = []
        for _ in range(count):
            hidden, logits = self(features, following + proposals)
            proposals.append(int(ids[logits[-1].argmax()]))
            features = torch.cat([features, hidden[-1:]])
        return proposals

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.tensors[f"midlayer.{name}.weight"].T

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * self.tensors[f"{name}.weight"]

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        query = self._rotate(self._linear(x, "self_attn.q_proj").view(n, HEADS, HEAD_DIM))
        key = self._rotate(self._linear(x, "self_attn.k_proj").view(n, KV_HEADS, HEAD_DIM))
        value = self._linear(x, "self_attn.v_proj").view(n, KV_HEADS, HEAD_DIM)
        key, value = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (key, value))
        scores = torch.einsum("ihd,jhd->hij", query, key) / HEAD_DIM**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), value)
        return self._linear(mixed.reshape(n, -1), "self_attn.o_proj")

    @staticmethod
    def _rotate(x: torch.Tensor) -> torch.Tensor:
        frequencies = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        angles = torch.cat([torch.arange(len(x))[:, None] * frequencies] * 2, dim=-1)[:, None]
        turned = torch.cat([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], dim=-1)
        return x * angles.cos() + turned * angles.sin()
