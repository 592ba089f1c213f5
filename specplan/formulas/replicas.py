"""What a model that is spread over ranks has more of than on one device, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specplan.arch import ModelArch
from specplan.dtypes import float_bytes, weight_format
from specplan.formulas.bind import evaluate
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Term
from specplan.heads import Eagle3Head, MedusaHeads
from specplan.parallel.ranks import draft_parallelism
from specplan.parallelism import Parallelism
from specplan.scenario import Scenario

#: Names with their bytes.
_Named = Iterator[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Replica:
    """A part of a ledger item that several ranks hold, counted beyond the first.

    Attributes:
        item: of the ledger, for example ``target.weights``.
        name: what it is.
        bytes: of all ranks together, beyond what one device would hold.
    """

    item: str
    name: str
    bytes: int


def replicas(whole: Scenario, parallelism: Parallelism) -> tuple[Replica, ...]:
    """Everything by which the ranks' weights and KV caches together exceed those of whole models on one device.

    Args:
        whole: models and workload.
        parallelism: how they are spread; ``check_parallelism`` holds.
    """
    terms = {term.name: term for term in MemoryModel(whole).terms}
    found = [*_model("target", whole.target, whole.workload.dtype, parallelism, terms)]
    if whole.draft is not None:
        found += _draft(whole, whole.draft, parallelism, terms)
    if isinstance(whole.heads, MedusaHeads) and parallelism.draft_placement == "split":
        found += _medusa(whole.target, whole.heads, terms, parallelism.tensor_parallel)
    if isinstance(whole.heads, Eagle3Head) and not whole.heads.own_embedding:
        values = terms["drafter.weights"].values
        table = int(np.asarray(values["V"])) * whole.target.hidden_size * int(np.asarray(values["s"]))
        found.append(Replica("drafter.weights", "the target's embedding", table))
    return tuple(replica for replica in found if replica.bytes)


def _draft(whole: Scenario, draft: ModelArch, parallelism: Parallelism, terms: dict[str, Term]) -> Iterator[Replica]:
    """A draft model on one rank is there once, on all ranks as often; split like the target it has what that has."""
    if parallelism.draft_placement == "split":
        spread = draft_parallelism(draft, parallelism)
        yield from _model("draft", draft, whole.workload.draft_dtype, spread, terms)
    elif parallelism.draft_placement == "replicated":
        for item in ("draft.weights", "draft.kv_cache"):
            yield Replica(item, "whole models", (parallelism.num_ranks - 1) * int(terms[item].bytes))


def _medusa(arch: ModelArch, heads: MedusaHeads, terms: dict[str, Term], parts: int) -> Iterator[Replica]:
    """Blocks of split heads are whole on every tensor rank of the last stage."""
    h, values = arch.hidden_size, terms["drafter.weights"].values
    element = int(np.asarray(values["s"]))
    blocks = heads.num_heads * heads.num_layers * (h * h + h) * element
    yield Replica("drafter.weights", "blocks of heads", (parts - 1) * blocks)
    rows = -arch.vocab_size % parts * heads.num_heads * (not heads.shares_head)
    yield Replica("drafter.weights", "padded vocabulary", rows * h * element)


def _model(
    owner: str, arch: ModelArch, dtype: str, parallelism: Parallelism, terms: dict[str, Term]
) -> Iterator[Replica]:
    weights, parts = weight_format(dtype, arch.stored), parallelism.tensor_parallel
    held = weights.layers  # int4, whose head is held otherwise, is not spread
    sizes = _Sizes(float_bytes(weights.compute_dtype), held.bits // 8, held.scale_bytes)
    shared = [*_tables(arch, sizes, parallelism), *_layers(arch, sizes, parts - 1)]
    shared.append(("KV heads", _kv_projections(arch, sizes, parts)))
    for name, num_bytes in shared:
        yield Replica(f"{owner}.weights", name, num_bytes)
    cache = terms[f"{owner}.kv_cache"].values
    heads = cache | {"H_k": _copied_heads(arch, parts), "L_m": 0}
    rows = cache | {"L_a": 0, "L_w": 0, "L_m": (parts - 1) * cache["L_m"]}
    yield Replica(f"{owner}.kv_cache", "KV heads", int(evaluate("kv_cache", heads)))
    yield Replica(f"{owner}.kv_cache", "compressed rows", int(evaluate("kv_cache", rows)))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a vector's element, of a matrix's, and of a row's scale."""

    vector: int
    matrix: int
    scale: int


def _tables(arch: ModelArch, sizes: _Sizes, parallelism: Parallelism) -> _Named:
    """A tied table at either end of a pipeline; rows that fill the vocabulary up; the final norm."""
    h, parts = arch.hidden_size, parallelism.tensor_parallel
    padding = -arch.vocab_size % parts
    head, embedding = h * sizes.matrix + sizes.scale, h * sizes.vector
    tied_twice = arch.tie_word_embeddings and parallelism.num_stages > 1
    own = 0 if arch.tie_word_embeddings else embedding
    yield "padded vocabulary", padding * (head + own)
    yield "tied table", (arch.vocab_size + padding) * head * tied_twice
    yield "final norm", (parts - 1) * (1 + (arch.norm == "layer")) * h * sizes.vector


def _layers(arch: ModelArch, sizes: _Sizes, copies: int) -> _Named:
    """What every tensor rank of a stage holds whole."""
    h, biased = arch.hidden_size, arch.norm == "layer"
    attention = arch.num_layers_of("full_attention", "sliding_attention", "hybrid")
    latent, dense = arch.num_layers_of("latent_attention"), arch.num_mlps_of("dense")
    sparse = arch.num_mlps_of("moe") if arch.moe is not None else 0
    norms = arch.num_hidden_layers * arch.num_norms_per_layer * (1 + biased) * h
    yield "norms", copies * norms * sizes.vector
    if arch.qk_norm == "head":
        yield "norms of heads", copies * attention * 2 * arch.head_dim * sizes.vector
    biases = arch.output_bias * (attention + latent) + arch.mlp_bias * dense
    yield "output biases", copies * biases * h * sizes.vector
    yield "scales of output rows", copies * (attention + latent + dense) * h * sizes.scale
    if arch.moe is not None:
        moe, shared = arch.moe, arch.moe.shared_intermediate_size > 0
        router = moe.num_experts * h + moe.router_bias * moe.num_experts + moe.shared_gate * h
        yield "routers", copies * sparse * (router * sizes.vector + 4 * moe.router_correction * moe.num_experts)
        yield "output biases of experts", copies * sparse * moe.expert_bias * moe.num_experts * h * sizes.vector
        scales = (moe.num_experts + shared) * h * sizes.scale
        yield "scales of experts' output rows", copies * sparse * scales
    if arch.latent is not None:
        yield "compressing matrices", copies * latent * _compressing(arch, sizes)


def _compressing(arch: ModelArch, sizes: _Sizes) -> int:
    """Of one layer with latent attention: what compresses queries, keys and values, and its norms and biases."""
    assert arch.latent is not None
    queries, keys = arch.latent.q_lora_rank, arch.latent.kv_lora_rank
    rows = queries + keys + arch.latent.qk_rope_head_dim
    matrices = rows * (arch.hidden_size * sizes.matrix + sizes.scale)
    return matrices + (queries + keys + arch.qkv_bias * rows) * sizes.vector


def _copied_heads(arch: ModelArch, parts: int) -> int:
    """KV heads of all tensor ranks beyond the model's own: each rank has at least one."""
    return max(0, parts - arch.num_key_value_heads)


def _kv_projections(arch: ModelArch, sizes: _Sizes, parts: int) -> int:
    """Rows that make keys and values for heads that several ranks hold."""
    layers = arch.num_layers_of("full_attention", "sliding_attention", "hybrid")
    row = arch.hidden_size * sizes.matrix + sizes.scale + arch.qkv_bias * sizes.vector
    return layers * 2 * _copied_heads(arch, parts) * arch.head_dim * row
