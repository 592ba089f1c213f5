"""SP106: context beyond the KV that remains."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.engine_memory.budget import EngineBudget
from specplan.rules.finding import Configuration, Finding
from specplan.rules.nearest import devices_that_fit, fits_without_draft, nearest
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import figures, kv_text, nearest_text, parts_text
from specplan.units import format_bytes

_PLACES_ALL = ("llama.cpp", "transformers", "specplan")


def check(subject: Subject) -> Iterator[Finding]:
    """One sequence of full length against the KV pool; where the draft is what is too much, SP102 says so."""
    serving = subject.serving
    if serving.engine in _PLACES_ALL:
        return
    budget = subject.budget
    pool = int(budget.pool.value)
    sequence = budget.slots * budget.slot_bytes
    too_much = budget.least_kv_bytes > pool or (serving.kv_bytes is not None and sequence > pool)
    if not too_much or budget.static_bytes > int(budget.limit.value):
        return
    if serving.kv_bytes is None and fits_without_draft(subject) is not None:
        return
    configurations = (*_larger_pool(subject, sequence), *nearest(subject, _holds_a_sequence)) or devices_that_fit(
        subject
    )
    yield Finding(
        "SP106",
        "error" if budget.surely_does_not_fit else "warning",
        subject.location_of(serving.context, serving.kv_bytes, serving.kv_tokens, serving.fraction, serving.model),
        f"the context is beyond the KV that remains on {subject.device.name}: {kv_text(budget)} for one sequence, the "
        f"pool has {format_bytes(max(0, pool))} ({budget.pool.reference}) beside {parts_text(budget)}",
        nearest_text(configurations) or "cache keys and values in fewer bits",
        figures(budget),
        configurations,
    )


def _holds_a_sequence(budget: EngineBudget) -> bool:
    """A fixed pool is as large as it is, whatever a sequence needs."""
    return budget.fits and budget.slots * budget.slot_bytes <= int(budget.pool.value)


def _larger_pool(subject: Subject, sequence: int) -> tuple[Configuration, ...]:
    """A fixed KV size that holds a sequence, where the device has room for it."""
    fixed, budget = subject.serving.kv_bytes, subject.budget
    has_room = sequence <= budget.device_bytes - budget.static_bytes
    return ({"kv_cache_bytes": sequence},) if fixed is not None and has_room else ()


RULE = Rule(
    "SP106",
    "Context beyond the KV that remains",
    "error",
    "What weights and workspace leave does not hold one sequence of full length. vLLM and TensorRT-LLM refuse to "
    "start, "
    "SGLang cuts requests short. The context is easily forgotten: left out, it is what the model was trained for.",
    Example("serve.sh", "vllm serve meta-llama/Llama-3.1-8B-Instruct\n"),
    Example("serve.sh", "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 16384\n"),
    "Say the context that is needed, or cache keys and values in fewer bits.",
    check,
)
