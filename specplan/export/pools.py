"""The size of an engine's KV pool: what all sequences of a plan take at their full length, by its own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from specplan.engine_memory.budget import EngineBudget
from specplan.export.command import Pool
from specplan.export.request import Request

#: Fractions are written in thousandths.
_THOUSAND = 1000
#: Tokens of a block, as vLLM takes them where nothing is said.
_VLLM_BLOCK = 16


def largest_pool(stages: Sequence[Pool]) -> Pool:
    """What is enough on the devices of every stage: all of them get the same options."""
    return Pool(
        max(pool.bytes for pool in stages), max(pool.tokens for pool in stages), max(pool.fraction for pool in stages)
    )


def vllm_pool(request: Request, budget: EngineBudget) -> Pool:
    """Bytes. One block more than sequences need: vLLM keeps one that stands for nothing.

    The fraction is what must be free when it starts: no more than is used in the end.
    """
    spare = -(-budget.least_kv_bytes * _VLLM_BLOCK // budget.slots)
    num_bytes = request.workload.batch_size * budget.least_kv_bytes + spare
    total = budget.device_bytes
    needed = min(budget.static_bytes + num_bytes, total - int(request.device.context_bytes.value))
    return Pool(num_bytes, 0, max(1, needed * _THOUSAND // total) / _THOUSAND)


def sglang_pool(request: Request, budget: EngineBudget) -> Pool:
    """Tokens, within the least fraction of free memory that holds them at the price that SGLang puts on them."""
    tokens = request.workload.batch_size * budget.slots
    free = budget.device_bytes - int(request.device.context_bytes.value)
    priced = budget.static_bytes + tokens * budget.slot_bytes
    actual = tokens * (budget.slot_bytes - budget.priced_draft_slot_bytes + budget.draft_slot_bytes)
    return Pool(actual, tokens, (priced * _THOUSAND // free + 1) / _THOUSAND)


def placed_pool(request: Request, budget: EngineBudget) -> Pool:
    """llama.cpp: all cells of both caches, which the context decides."""
    return Pool(budget.least_kv_bytes, budget.slots, 1.0)


def blocks_pool(request: Request, budget: EngineBudget) -> Pool:
    """TensorRT-LLM: bytes of the blocks of all sequences."""
    return Pool(request.workload.batch_size * budget.least_kv_bytes, 0, 1.0)
