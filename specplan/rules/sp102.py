"""SP102: fits only without the draft."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.nearest import fits_without_draft, layers_that_fit, nearest
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import figures, kv_text, limit_text, nearest_text, parts_text
from specplan.units import format_bytes


def check(subject: Subject) -> Iterator[Finding]:
    """Where the same deployment without speculation fits."""
    serving = subject.serving
    if not serving.speculates or serving.kv_bytes is not None or subject.budget.fits:
        return
    budget, plain = subject.budget, fits_without_draft(subject)
    if plain is None:
        return
    missing = max(budget.static_bytes - int(budget.limit.value), budget.least_kv_bytes - int(budget.pool.value))
    configurations = (*nearest(subject), *layers_that_fit(subject))
    yield Finding(
        "SP102",
        "error" if budget.surely_does_not_fit else "warning",
        subject.location_of(serving.draft, serving.method),
        f"fits {subject.device.name} only without the draft, which takes "
        f"{format_bytes(budget.needed_bytes - plain.needed_bytes)}: {parts_text(budget)}; {kv_text(budget)}: "
        f"{format_bytes(missing)} more than {limit_text(budget)}",
        f"{nearest_text(configurations) or 'take a smaller or quantized draft'}; or propose with n-grams",
        {**figures(budget), "shortfall_bytes": missing, "draft_bytes": budget.needed_bytes - plain.needed_bytes},
        configurations,
    )


RULE = Rule(
    "SP102",
    "Fits only without the draft",
    "error",
    "The target fits, the pair does not: the draft's weights and its KV cache are what is too much. Calculators that "
    "know one model only do not see it.",
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 20480 --max-num-seqs 8 \\\n"
        "  --gpu-memory-utilization 0.88 \\\n"
        '  --speculative-config \'{"method": "draft_model", "model": "meta-llama/Llama-3.2-3B-Instruct",\n'
        '    "num_speculative_tokens": 4}\'\n',
    ),
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 8192 --max-num-seqs 8 \\\n"
        '  --speculative-config \'{"method": "draft_model", "model": "meta-llama/Llama-3.2-1B-Instruct",\n'
        '    "num_speculative_tokens": 4}\'\n',
    ),
    "Shorten the context, take a smaller draft, or propose with n-grams, which need no weights.",
    check,
)
