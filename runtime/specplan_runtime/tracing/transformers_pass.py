"""One pass of transformers' own forward on the meta device, with the bytes that it would allocate on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from huggingface_hub.errors import StrictDataclassError
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from specplan.errors import UnsupportedError
from specplan_runtime.tracing.plan_cache import PlanCache
from specplan_runtime.tracing.tracker import StorageTracker

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
        num_logits: rows of each sequence whose logits are computed, its last ones; the pass has R = b·num_logits.
    """

    num_sequences: int
    num_rows: int
    num_slots: int
    num_logits: int

    @classmethod
    def prefill(cls, num_rows: int, num_slots: int) -> ForwardShape:
        """A chunk of one prompt: only its last row needs logits."""
        return cls(1, num_rows, num_slots, 1)

    @classmethod
    def verify(cls, num_sequences: int, num_rows: int, num_slots: int, num_logits: int) -> ForwardShape:
        """Rows of several sequences, with logits for the last of each."""
        return cls(num_sequences, num_rows, num_slots, num_logits)

    @classmethod
    def draft(cls, num_sequences: int, num_slots: int) -> ForwardShape:
        """One row of each sequence."""
        return cls(num_sequences, 1, num_slots, 1)


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


def meta_model(config: Mapping[str, Any], dtype: torch.dtype, attention: str = "sdpa") -> PreTrainedModel:
    """A model without memory.

    Args:
        config: fields of config.json, ``model_type`` among them.
        dtype: of weights and activations.
        attention: implementation that its forward uses.

    Raises:
        UnsupportedError: transformers has no such architecture.
    """
    fields = {name: value for name, value in config.items() if name != "model_type"}
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedError(f"transformers has no architecture {model_type!r}")
    try:
        known = CONFIG_MAPPING[model_type](**fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UnsupportedError(f"transformers refuses a {model_type} of these sizes: {error}") from None
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            known, dtype=dtype, attn_implementation=attention
        )
    model.train(False)
    return model


def layer_kinds(model: PreTrainedModel) -> list[str]:
    """``full_attention``, ``sliding_attention`` or both: layers of a kind share a mask."""
    return sorted(set(getattr(model.config, "layer_types", None) or ["full_attention"]))


@dataclass(frozen=True, slots=True)
class PassTrace:
    """What a pass allocated.

    Attributes:
        peak_bytes: inputs and workspace together, at their peak.
        input_bytes: token ids, positions, slots and mask.
        tracker: every event.
    """

    peak_bytes: int
    input_bytes: int
    tracker: StorageTracker


def trace_pass(model: PreTrainedModel, shape: ForwardShape) -> PassTrace:
    """Run one pass of a model without memory, and follow its storages.

    Weights and cache exist before the trace; ids, positions, slots and the boolean mask are its first allocations.
    """
    b, q = shape.num_sequences, shape.num_rows
    cache = PlanCache.allocate(model.config, b, shape.num_slots, model.dtype, torch.device("meta"))
    tracker = StorageTracker(("meta",), scalar=lambda _: True)
    with torch.no_grad(), EfficientAttention(), tracker:
        ids = torch.empty(b, q, dtype=torch.int64, device="meta")
        positions = torch.empty(b, q, dtype=torch.int64, device="meta")
        cache.slots = torch.empty(b, q, dtype=torch.int64, device="meta")
        masks = {
            kind: torch.empty(b, 1, q, shape.num_slots, dtype=torch.bool, device="meta") for kind in layer_kinds(model)
        }
        input_bytes = tracker.live_bytes
        output = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=shape.num_logits,
        )
    assert output.logits.shape[:2] == (b, shape.num_logits)
    return PassTrace(tracker.peak_bytes, input_bytes, tracker)
