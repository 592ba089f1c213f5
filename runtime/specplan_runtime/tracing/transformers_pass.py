"""One pass of transformers' own forward on the meta device, with the bytes that it would allocate on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from specplan.errors import UnsupportedError
from specplan_runtime.tracing.tracker import StorageTracker
from specplan_runtime.transformers_forward.cache import CachePass, CacheRows, PlanCache
from specplan_runtime.transformers_forward.decoder import TransformersDecoder
from specplan_runtime.transformers_forward.model import output_head
from specplan_runtime.transformers_forward.warm_up import run_pass
from specplan_runtime.transformers_forward.workspace import TransformersWorkspace

#: PyTorch pads masks of the efficient kernel so that their rows start at multiples of this many elements.
MASK_ALIGNMENT = 8

#: Above this head size the efficient kernel gathers half-precision outputs in a float32 buffer.
REGISTER_HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """The shape of a pass.

    Attributes:
        num_sequences: b.
        num_rows: rows of each sequence, q; the pass has T = b·q.
        num_slots: KV slots of each sequence, S.
        logits_rows: R, rows whose logits exist at one time.
        gathered: they are not the pass's first rows, but one of each sequence's.
    """

    num_sequences: int
    num_rows: int
    num_slots: int
    logits_rows: int
    gathered: bool = False


class EfficientAttention(TorchFunctionMode):
    """Replaces scaled dot product attention by the allocations of its memory-efficient CUDA kernel.

    On the meta device PyTorch has no choice of kernels: it always decomposes into the math path, whose scores
    and float32 copies take 4 to 20 times as much as the kernel that a GPU runs with an explicit mask.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return efficient_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def efficient_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What the host code of the efficient kernel allocates, in its order (torch 2.11 to 2.13, attention.cpp).

    The operator's own meta kernel is not called because it also returns the random seed and offset, which are
    host memory on a GPU, and lacks the accumulator. Tests compare its output's layout with this one.

    Args:
        query: [b, H, q, d].
        key: [b, H, S, d].
        value: [b, H, S, d].
        attn_mask: bool or additive, broadcastable to [b, H, q, S]; without one PyTorch may take another kernel.
        dropout_p: must be 0.
        is_causal: must be False.
        scale: has no part in allocations.
        enable_gqa: must be False: with a mask it excludes the efficient kernel.

    Returns:
        [b, H, q, d], in memory as [b, q, H, d].

    Raises:
        UnsupportedError: a call that this kernel does not serve.
    """
    unaligned = query.shape[-1] * query.itemsize % 16 != 0
    if attn_mask is None or enable_gqa or is_causal or dropout_p > 0.0 or unaligned:
        raise UnsupportedError("attention that the memory-efficient kernel does not compute")
    bias = attn_mask
    if bias.dtype == torch.bool:
        masked = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
        bias = torch.where(bias, 0.0, masked)
        del masked
    if any(stride % MASK_ALIGNMENT for stride in bias.stride()[:-1]):
        num_slots = bias.shape[-1]
        bias = F.pad(bias, (0, MASK_ALIGNMENT - num_slots % MASK_ALIGNMENT))[..., :num_slots]
    bias = bias.expand(*query.shape[:3], key.shape[2])
    b, H, q, _ = query.shape
    output = query.new_empty(b, q, H, value.shape[-1])
    if value.shape[-1] > REGISTER_HEAD_DIM and query.itemsize < 4:
        query.new_empty(output.shape, dtype=torch.float32)
    return output.transpose(1, 2)


def layer_kinds(model: PreTrainedModel) -> list[str]:
    """``full_attention``, ``sliding_attention`` or both: layers of a kind share a mask."""
    return sorted(set(getattr(model.config, "layer_types", None) or ["full_attention"]))


@dataclass(frozen=True, slots=True)
class PassTrace:
    """What a pass allocated.

    Attributes:
        peak_bytes: inputs and workspace together, at their peak.
        tracker: every event.
    """

    peak_bytes: int
    tracker: StorageTracker


def trace_pass(model: PreTrainedModel, shape: ForwardShape) -> PassTrace:
    """Run one pass of a model without memory, and a tile of logits, and follow its storages.

    Weights and cache exist before the trace; ids, positions, slots and the boolean mask are its first allocations.
    """
    cache = PlanCache.allocate(
        _cache_rows(model.config), shape.num_sequences, shape.num_slots, model.dtype, torch.device("meta")
    )
    tracker = StorageTracker(("meta",), scalar=lambda _: True)
    with torch.no_grad(), EfficientAttention(), tracker:
        hidden = _hidden_states(model, shape, cache).flatten(0, 1)
        wanted = hidden[: shape.logits_rows]
        if shape.gathered:
            wanted = hidden.index_select(0, torch.empty(shape.logits_rows, dtype=torch.int64, device="meta"))
        output_head(model)(wanted)
        del hidden, wanted
    return PassTrace(tracker.peak_bytes, tracker)


def _hidden_states(model: PreTrainedModel, shape: ForwardShape, cache: PlanCache) -> torch.Tensor:
    b, q, num_slots = shape.num_sequences, shape.num_rows, shape.num_slots
    ids, positions, slots = (torch.empty(b, q, dtype=torch.int64, device="meta") for _ in range(3))
    masks = {kind: torch.empty(b, 1, q, num_slots, dtype=torch.bool, device="meta") for kind in layer_kinds(model)}
    cache.current = CachePass(slots, slice(None), num_slots)
    output = model.base_model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
        past_key_values=cache,
        use_cache=True,
    )
    cache.current = None
    states: torch.Tensor = output.last_hidden_state
    return states


def trace_decoder(decoder: TransformersDecoder, work: TransformersWorkspace) -> int:
    """Peak bytes of a phase's pass and its logits at their full shape, run by the runtime's decoder without memory."""
    tracker = StorageTracker(("meta",), scalar=lambda _: True)
    with torch.no_grad(), EfficientAttention(), tracker:
        run_pass(decoder, work)
    work.output.hidden = None
    return tracker.peak_bytes


def _cache_rows(config: PretrainedConfig) -> CacheRows:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return CacheRows(config.num_hidden_layers, config.num_key_value_heads, head_dim, head_dim)
