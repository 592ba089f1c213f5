"""The catalogue: every formula that a ledger item can have, with its title, meaning and source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import sympy

from specplan.formulas import (
    heads,
    kvcache,
    overheads,
    quantized,
    stored_weights,
    symbols,
    system,
    weights,
    workspace,
)
from specplan.formulas.transformers_families import FORWARDS, forward_id
from specplan.formulas.transformers_general import GENERAL


@dataclass(frozen=True, slots=True)
class Formula:
    """One entry.

    Attributes:
        id: what ledger items refer to.
        title: a few words.
        build: gives the expression; its docstring says what the bytes hold.
        reference: where the formula comes from.
    """

    id: str
    title: str
    build: Callable[[], sympy.Expr]
    reference: str

    @property
    def meaning(self) -> str:
        """What the bytes hold."""
        return " ".join((self.build.__doc__ or "").split())


_LAYOUT = "the runtime's own layout, checked against traces and measurements in tests"
_TRANSFORMERS = "transformers 5.17 to 5.23 and torch 2.11 to 2.13, checked against traces"
_HEADS = "the layout of published checkpoints"
_LIBRARIES = "layouts of quantization libraries, compared with what they store, and the architecture"
_KERNELS = "the released sources of the libraries that the kernels are from"
_ARCHITECTURE = "the architecture, checked against transformers models on the meta device"


def _context() -> sympy.Expr:
    """What the driver keeps per process: kernels, page tables, its own heap."""
    return sympy.Symbol("context_bytes", integer=True, nonnegative=True)


def _cublas() -> sympy.Expr:
    """Scratch that cuBLAS is given per handle and stream."""
    return sympy.Symbol("workspace_bytes", integer=True, nonnegative=True)


def _process() -> sympy.Expr:
    """Interpreter, torch, tokenizer and thread pools, as resident memory."""
    return sympy.Symbol("process_bytes", integer=True, nonnegative=True)


def _forwards() -> Iterator[Formula]:
    """Transformers' own forward, one formula for each form that families share."""
    first = {forward_id(model_type): model_type for model_type in reversed(FORWARDS)}
    for name, model_type in first.items():
        yield Formula(name, f"transformers' forward of {model_type}", FORWARDS[model_type].workspace, _TRANSFORMERS)
    yield Formula("forward_general", "transformers' forward, a bound", GENERAL.workspace, _TRANSFORMERS)


FORMULAS = {
    formula.id: formula
    for formula in (
        Formula("weights", "model weights", weights.weights, _ARCHITECTURE),
        Formula("stored_weights", "weights as stored", stored_weights.stored_weights, _LIBRARIES),
        Formula("weight_padding", "alignment of weights", weights.weight_padding, _LAYOUT),
        Formula("kv_cache", "KV cache", kvcache.kv_cache, _ARCHITECTURE),
        Formula("recurrent_state", "states of recurrent layers", kvcache.recurrent_state, _ARCHITECTURE),
        Formula("kv_padding", "alignment of the KV cache", kvcache.kv_padding, _LAYOUT),
        Formula("constants", "column numbers and rotary frequencies", kvcache.constants, _LAYOUT),
        Formula("draft_probs", "draft probabilities", workspace.draft_probs, _LAYOUT),
        Formula("medusa_weights", "Medusa heads", heads.medusa_weights, _HEADS),
        Formula("medusa_padding", "alignment of Medusa heads", heads.medusa_padding, _LAYOUT),
        Formula("eagle3_weights", "EAGLE-3 layer", heads.eagle3_weights, _HEADS),
        Formula("eagle3_padding", "alignment of the EAGLE-3 layer", heads.eagle3_padding, _LAYOUT),
        Formula("fused", "fused features", heads.fused, _LAYOUT),
        Formula("scattered", "a draft distribution over the target's tokens", heads.scattered, _LAYOUT),
        Formula("mtp_weights", "multi-token-prediction layer", heads.mtp_weights, _HEADS),
        Formula("stored_mtp_weights", "that layer as stored", stored_weights.stored_mtp_weights, _HEADS),
        Formula("features", "hidden states for the drafter", heads.features, _LAYOUT),
        Formula("joined", "embedding beside hidden state", heads.joined, _HEADS),
        Formula("candidates", "candidates of the heads", heads.candidates, _LAYOUT),
        Formula("tree", "ancestors in the tree", heads.tree, _LAYOUT),
        Formula("draft_tree", "ancestors in the draft's cache", heads.draft_tree, _LAYOUT),
        Formula("draft_candidates", "candidates of a draft model", heads.draft_candidates, _LAYOUT),
        Formula("medusa_block", "rows of a Medusa head", heads.medusa_block, _LAYOUT),
        Formula("medusa_head", "logits of a Medusa head", heads.medusa_head, _LAYOUT),
        Formula("kernel_output", "outputs of kernels that allocate them", workspace.kernel_output, _LAYOUT),
        Formula("tokens", "token ids, positions, places of rows", workspace.tokens, _LAYOUT),
        Formula("mask", "attention mask", workspace.mask, _LAYOUT),
        Formula("rope", "rotary embedding", workspace.rope, _LAYOUT),
        Formula("hidden", "residual stream", workspace.hidden, _LAYOUT),
        Formula("normed", "normalized rows", workspace.normed, _LAYOUT),
        Formula("projected", "block outputs", workspace.projected, _LAYOUT),
        Formula("norm", "norm statistics", workspace.norm, _LAYOUT),
        Formula("scratch", "scratch of the largest stage", workspace.scratch, _LAYOUT),
        Formula("gathered", "best tokens and logits of all devices", workspace.gathered, _LAYOUT),
        Formula("in_flight", "a residual stream in flight", workspace.in_flight, _LAYOUT),
        Formula(
            "dequantized", "a matrix written out", quantized.dequantized, "released sources of the kernels' libraries"
        ),
        Formula("load_staging", "loader's staging tile", system.load_staging, "the loader's tile size"),
        Formula("device_context", "driver context", _context, "the device profile"),
        Formula("cublas_workspace", "cuBLAS workspace", _cublas, "PyTorch's defaults, CUDABlas.cpp"),
        Formula("cuda_graphs", "captured CUDA graphs", overheads.cuda_graphs, "figures of vLLM's developers"),
        Formula(
            "nccl", "NCCL communicator", overheads.nccl, "NCCL 2.28, init.cc and transport/; checked against reports"
        ),
        Formula("rccl", "RCCL communicators", overheads.rccl, "a measurement on MI250X: LUMI-AI-Guide issue 111"),
        Formula("gloo", "sums over processes", overheads.gloo, "gloo's allreduce.cc and allreduce.h"),
        *_forwards(),
        Formula("sampling", "one row of probabilities", workspace.sampling, _LAYOUT),
        Formula("rope_buffers", "rotary frequencies of transformers", kvcache.rope_buffers, _TRANSFORMERS),
        Formula("allocator_slack", "allocator slack", system.allocator_slack, "the allocator model"),
        Formula(
            "allocator_rounding",
            "allocator rounding",
            system.allocator_rounding,
            "PyTorch's CUDA caching allocator",
        ),
        Formula("process", "the process itself", _process, "resident memory of this runtime before it loads"),
    )
}

#: What every symbol stands for.
MEANINGS: dict[sympy.Symbol, str] = symbols.MEANINGS | quantized.MEANINGS

#: The stages inside ``scratch``, for explanations.
STAGES = {
    "attention": workspace.attention,
    "latent": workspace.latent,
    "recurrent": workspace.recurrent,
    "mlp": workspace.mlp,
    "experts": workspace.experts,
    "head": workspace.head,
}


@cache
def expression(formula_id: str) -> sympy.Expr:
    """The symbolic expression of a formula or of a stage of ``scratch``.

    Raises:
        KeyError: no such formula.
    """
    build = STAGES[formula_id] if formula_id in STAGES else FORMULAS[formula_id].build
    return build()
