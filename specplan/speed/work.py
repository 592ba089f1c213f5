"""What a pass has to move and to compute: elements of matrices and of caches, layer by layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from specplan.arch import ModelArch
from specplan.dtypes import WeightFormat
from specplan.matrices import matrix_shapes


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Sums over the first layers of a model.

    Attributes:
        matrix_elements: that every pass reads, whatever its rows.
        expert_elements: of one expert, summed over the layers that have experts.
        num_experts: E, in each of those layers.
        num_experts_per_tok: k.
        cache_elements: of one sequence's cache.
        score_elements: query rows times width, times cached tokens: half the multiplications of attention for one row.
    """

    matrix_elements: int
    expert_elements: int
    num_experts: int
    num_experts_per_tok: int
    cache_elements: int
    score_elements: int


@dataclass(frozen=True, slots=True)
class ElementBytes:
    """Bytes that one element of a matrix takes in the mean, scales included where a library stores them.

    Attributes:
        layers: of the matrices of layers but for experts.
        experts: of the experts' matrices.
        head: of the output head.
    """

    layers: float
    experts: float
    head: float


@lru_cache(maxsize=64)
def element_bytes(arch: ModelArch, weights: WeightFormat) -> ElementBytes:
    """Bytes per element of what a pass reads."""
    plain = weights.layers.bits / 8
    if weights.stored is None:
        return ElementBytes(plain, plain, weights.head.bits / 8)
    shapes = matrix_shapes(arch)
    num_bytes: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for form, kind, count in weights.stored.counts():
        part = kind if kind in ("head", "embedding") else "experts" if kind.startswith("experts.") else "layers"
        num_bytes[part] += count * form.matrix_bytes(*shapes[kind])
        elements[part] += count * shapes[kind][0] * shapes[kind][1]
    mean = {part: num_bytes[part] / elements[part] for part in elements}
    head = mean.get("head", mean.get("embedding", plain))
    return ElementBytes(mean.get("layers", plain), mean.get("experts", plain), head)


def layer_work(arch: ModelArch, num_layers: int, context: int) -> LayerWork:
    """Work of the first ``num_layers`` layers over a cache of ``context`` tokens."""
    heads, kv = arch.num_attention_heads * arch.head_dim, arch.num_key_value_heads * arch.head_dim
    matrices = experts = cache = scores = 0
    for layer, mlp in zip(arch.layer_types[:num_layers], arch.mlp_types[:num_layers], strict=True):
        matrices += _mixer_elements(arch, layer)
        seen = min(context, arch.sliding_window or context) if layer == "sliding_attention" else context
        if layer in ("full_attention", "sliding_attention", "hybrid"):
            cache += 2 * kv * seen
            scores += heads * seen
        if layer == "latent_attention" and arch.latent is not None:
            width = arch.latent.kv_lora_rank + arch.latent.qk_rope_head_dim
            cache += width * context
            scores += arch.num_attention_heads * width * context
        if mlp == "dense":
            matrices += (2 + arch.gated_mlp) * arch.hidden_size * arch.intermediate_size
        elif mlp == "moe" and arch.moe is not None:
            matrices += arch.hidden_size * (arch.moe.num_experts + 3 * arch.moe.shared_intermediate_size)
            experts += 3 * arch.hidden_size * arch.moe.moe_intermediate_size
    moe = arch.moe
    counts = (moe.num_experts, moe.num_experts_per_tok) if moe is not None else (1, 1)
    return LayerWork(matrices, experts, *counts, cache, scores)


def _mixer_elements(arch: ModelArch, layer: str) -> int:
    h = arch.hidden_size
    found = 0
    if layer in ("full_attention", "sliding_attention", "hybrid"):
        found += h * (arch.qkv_size + arch.num_attention_heads * arch.head_dim)
    if layer == "latent_attention" and arch.latent is not None:
        latent, heads = arch.latent, arch.num_attention_heads
        queries = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        found += (h + queries) * latent.q_lora_rank if latent.q_lora_rank else h * queries
        found += h * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        found += heads * latent.kv_lora_rank * (latent.qk_nope_head_dim + latent.v_head_dim)
        found += h * heads * latent.v_head_dim
    if layer == "linear_attention" and arch.linear_attention is not None:
        linear = arch.linear_attention
        keys, values = linear.num_key_heads * linear.key_head_dim, linear.num_value_heads * linear.value_head_dim
        found += h * (2 * keys + 3 * values + 2 * linear.num_value_heads)
    if layer in ("mamba", "hybrid") and arch.mamba is not None:
        mamba = arch.mamba
        found += h * (3 * mamba.inner_size + 2 * mamba.num_groups * mamba.state_size + mamba.num_heads)
        if mamba.version == 1:
            found += mamba.inner_size * (2 * mamba.dt_rank + 2 * mamba.state_size)
    return found
