"""Phrases that several rules share."""

from __future__ import annotations

from collections.abc import Sequence

from specplan.engine_memory.budget import EngineBudget
from specplan.rules.finding import Configuration
from specplan.units import format_bytes

_SHOWN = 5
_SETTINGS = {
    "memory_fraction": "a memory fraction of {}", "num_speculative_tokens": "{} drafted tokens per step",
    "concurrency": "{} sequences at once", "context": "a context of {}", "tensor_parallel_size": "{} devices",
    "kv_cache_bytes": "a KV size of {} bytes", "gpu_layers": "{} layers on the device",
}  # fmt: skip


def parts_text(budget: EngineBudget) -> str:
    """The items of a budget with their sources: ``target weights 14.958 GiB (exact), …``; the least are summed up."""
    parts = sorted(budget.static, key=lambda part: -part.bytes)
    shown = [f"{part.name} {format_bytes(part.bytes)} ({part.figure.source})" for part in parts[:_SHOWN]]
    rest = sum(part.bytes for part in parts[_SHOWN:])
    return ", ".join([*shown, f"others {format_bytes(rest)}"] if rest else shown)


def kv_text(budget: EngineBudget) -> str:
    """The KV that must be there: ``KV 512.000 MiB (4096 slots of 131072 bytes)``."""
    return f"KV {format_bytes(budget.least_kv_bytes)} ({budget.slots} slots of {budget.slot_bytes} bytes)"


def limit_text(budget: EngineBudget) -> str:
    """What may be used, and who says so."""
    return f"{format_bytes(int(budget.limit.value))}, {budget.limit.reference}"


def figures(budget: EngineBudget) -> dict[str, int]:
    """The same for programs."""
    return {
        "static_bytes": budget.static_bytes,
        "limit_bytes": int(budget.limit.value),
        "pool_bytes": int(budget.pool.value),
        "kv_bytes": budget.least_kv_bytes,
        "slots": budget.slots,
        "slot_bytes": budget.slot_bytes,
    }


def nearest_text(configurations: Sequence[Configuration]) -> str:
    """Alternatives: ``a memory fraction of 0.95 with a context of 2048, or 2 devices``; empty without one."""
    return ", or ".join(
        " with ".join(_SETTINGS[name].format(value) for name, value in each.items()) for each in configurations
    )


def plural(number: int, noun: str) -> str:
    """``1 finding``, ``2 findings``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
