"""SP104: the draft is not counted in a KV size that is fixed."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.nearest import fits_without_draft
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import parts_text
from specplan.units import format_bytes


def check(subject: Subject) -> Iterator[Finding]:
    """A fixed KV size that the device has room for beside the target, and not beside the pair."""
    serving = subject.serving
    fixed = serving.kv_bytes
    if fixed is None or not serving.speculates:
        return
    budget = subject.budget
    room = budget.device_bytes - budget.static_bytes
    plain = fits_without_draft(subject)
    if fixed.value <= room or plain is None or fixed.value > plain.device_bytes - plain.static_bytes:
        return
    yield Finding(
        "SP104",
        "error",
        fixed.location,
        f"{fixed.origin} {format_bytes(fixed.value)} leaves no room for the draft on {subject.device.name}: "
        f"{parts_text(budget)}: {format_bytes(fixed.value - room)} too many",
        f"{fixed.origin} {room}" if room > 0 else "leave it out, and take a smaller draft",
        {"kv_bytes": fixed.value, "room_bytes": room},
        ({"kv_cache_bytes": room},) if room > 0 else (),
    )


RULE = Rule(
    "SP104",
    "Draft not counted in a fixed KV size",
    "error",
    "A KV size in bytes takes the place of the memory fraction, and nothing subtracts the draft's weights from it any "
    "more. A size that was right for the target alone is too much for the pair.",
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 8192 --enforce-eager --max-num-seqs 8 \\\n"
        "  --kv-cache-memory-bytes 7500000000 --spec-method draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-1B-Instruct --spec-tokens 4\n",
    ),
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 8192 --enforce-eager --max-num-seqs 8 \\\n"
        "  --kv-cache-memory-bytes 3000000000 --spec-method draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-1B-Instruct --spec-tokens 4\n",
    ),
    "Subtract the draft's weights from the KV size, or leave it out and set the memory fraction.",
    check,
)
