"""SP101: does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Configuration, Finding
from specplan.rules.nearest import devices_that_fit, fits_without_draft, layers_that_fit, nearest
from specplan.rules.plans import plan_findings
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import figures, kv_text, limit_text, nearest_text, parts_text
from specplan.units import format_bytes

#: Engines that have no pool: the KV of all sequences is there while loading, or grows until it is.
_PLACES_ALL = ("llama.cpp", "transformers", "specplan")


def check(subject: Subject) -> Iterator[Finding]:
    """Static parts, and the KV that is placed while loading, against what the engine may use."""
    if subject.deployment.get("plan") is not None:
        yield from plan_findings(subject, "SP101")
        return
    budget, fixed = subject.budget, subject.serving.kv_bytes
    places_all = subject.serving.engine in _PLACES_ALL
    placed = budget.least_kv_bytes if places_all else fixed.value if fixed is not None else 0
    needed = budget.static_bytes + placed
    shortfall = needed - int(budget.limit.value)
    if shortfall <= 0 or fits_without_draft(subject) is not None:
        return
    serving, configurations = subject.serving, _nearest(subject)
    certain = budget.certain_bytes + placed > int(budget.limit.value)
    kv = kv_text(budget) if fixed is None else f"KV {format_bytes(fixed.value)} ({fixed.origin})"
    yield Finding(
        "SP101",
        "error" if certain else "warning",
        subject.location_of(
            fixed, serving.fraction, serving.budget, serving.context if places_all else None, serving.model
        ),
        f"does not fit {subject.device.name}: {parts_text(budget)}; {kv}: "
        f"{format_bytes(shortfall)} more than {limit_text(budget)}",
        nearest_text(configurations) or f"take a quantized checkpoint, or a device with {format_bytes(shortfall)} more",
        {**figures(budget), "shortfall_bytes": shortfall},
        configurations,
    )


def _nearest(subject: Subject) -> tuple[Configuration, ...]:
    """One or several settings; a fixed KV size that leaves room; else more devices, where an engine shares a model."""
    budget, fixed = subject.budget, subject.serving.kv_bytes
    room = budget.device_bytes - budget.static_bytes
    if fixed is not None and 0 < room < fixed.value:
        return ({"kv_cache_bytes": room},)
    found = (*nearest(subject), *layers_that_fit(subject))
    return found or (() if subject.serving.engine in _PLACES_ALL else devices_that_fit(subject))


RULE = Rule(
    "SP101",
    "Does not fit",
    "error",
    "Weights and workspace are more than the engine may use, or with llama.cpp and specplan also the KV, which "
    "they place "
    "while loading. It ends with an out-of-memory error on the machine that was rented for it. A warning instead of an "
    "error says that the sum rests on modelled items.",
    Example(
        "serve.sh", "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --gpu-memory-utilization 0.6\n"
    ),
    Example("serve.sh", "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --max-num-seqs 16\n"),
    "Raise the memory fraction, share the model over more devices, or take a quantized checkpoint.",
    check,
)
