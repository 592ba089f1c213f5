"""SP103: no headroom for the verify rows."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.engine_memory.budget import EngineBudget
from specplan.rules.finding import Configuration, Finding
from specplan.rules.nearest import candidate, largest, nearest
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import nearest_text
from specplan.units import format_bytes


def check(subject: Subject) -> Iterator[Finding]:
    """Workspace of the verify pass against what the engine's limit leaves."""
    serving = subject.serving
    if not serving.speculates:
        return
    budget = subject.budget
    need, room = int(budget.verify.value), budget.headroom
    if need <= room or not need or not budget.fits:
        return
    configurations = (*_lower_fraction(subject), *nearest(subject, _verifies))
    yield Finding(
        "SP103",
        "warning",
        subject.location_of(serving.max_sequences, serving.fraction, serving.num_speculative_tokens, serving.method),
        f"no headroom for verify rows: {budget.num_sequences} sequences of {serving.num_verify_tokens} rows need "
        f"{format_bytes(need)} (modelled: {budget.verify.reference}), {format_bytes(max(0, room))} are left beside "
        f"{budget.limit.reference}",
        nearest_text(configurations) or "serve without speculation",
        {"verify_bytes": need, "headroom_bytes": max(0, room), "num_sequences": budget.num_sequences},
        configurations,
    )


def _verifies(budget: EngineBudget) -> bool:
    return int(budget.verify.value) <= budget.headroom


def _lower_fraction(subject: Subject) -> tuple[Configuration, ...]:
    """The largest fraction, in steps of 0.01, that leaves headroom, where it still fits."""
    fraction = subject.serving.fraction
    if fraction is None or subject.serving.kv_bytes is not None:
        return ()

    def at(hundredths: int) -> EngineBudget:
        return subject.budget_with(fraction=candidate(subject, hundredths / 100))

    found = largest(int(fraction.value * 100), lambda hundredths: _verifies(at(hundredths)))
    return ({"memory_fraction": found / 100},) if found and at(found).fits else ()


RULE = Rule(
    "SP103",
    "No headroom for the verify rows",
    "warning",
    "The verify pass has 1 + K rows of logits for every sequence, and sampling copies them in float32. Engines "
    "size their "
    "KV pool before such a pass has run: the server starts, and runs out of memory under load (sglang#38341, "
    "vllm#48037).",
    Example(
        "serve.sh",
        "python -m sglang.launch_server --model-path Qwen/Qwen2.5-7B-Instruct --context-length 8192 \\\n"
        "  --max-running-requests 256 --mem-fraction-static 0.93 --speculative-algorithm EAGLE3 \\\n"
        "  --speculative-draft-model-path my/eagle3-head --speculative-num-steps 5 --speculative-eagle-topk 1\n",
    ),
    Example(
        "serve.sh",
        "python -m sglang.launch_server --model-path Qwen/Qwen2.5-7B-Instruct --context-length 8192 \\\n"
        "  --max-running-requests 16 --mem-fraction-static 0.85 --speculative-algorithm EAGLE3 \\\n"
        "  --speculative-draft-model-path my/eagle3-head --speculative-num-steps 3 --speculative-eagle-topk 1\n",
    ),
    "Decode fewer sequences at once, draft fewer tokens, or lower the memory fraction.",
    check,
)
