"""SP205: context beyond training."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """The context of a sequence against what target and draft were trained for."""
    serving, context = subject.serving, subject.serving.context
    if context is None or context.is_default:
        return
    slots = 1
    if serving.engine == "llama.cpp" and not serving.unified_kv and serving.max_sequences is not None:
        slots = max(1, serving.max_sequences.value)
    each = context.value // slots
    trained = subject.target.arch.max_position_embeddings
    if each > trained and not (serving.engine == "llama.cpp" and serving.unified_kv):
        yield Finding(
            "SP205",
            "error",
            context.location,
            f"{context.origin}: {each} tokens per sequence, {subject.target.reference} was trained for {trained}",
            f"at most {trained} tokens per sequence",
            {"context": each, "trained": trained},
            ({"context": trained * slots},),
        )
    draft = subject.draft
    if draft is not None and min(each, trained) > draft.arch.max_position_embeddings:
        limit = draft.arch.max_position_embeddings
        yield Finding(
            "SP205",
            "warning",
            subject.location_of(serving.draft, context),
            f"the draft {draft.reference} was trained for {limit} tokens, sequences have {min(each, trained)}: "
            "beyond that it proposes noise",
            f"a context of {limit}, or a draft for longer ones",
            {"context": min(each, trained), "trained": limit},
            ({"context": limit * slots},),
        )


RULE = Rule(
    "SP205",
    "Context beyond training",
    "error",
    "Positions that a model never saw give noise; vLLM refuses them. A draft with a shorter context than its "
    "target stops "
    "being accepted there, and costs what it did before.",
    Example("serve.sh", "vllm serve Qwen/Qwen2.5-0.5B-Instruct --max-model-len 65536\n"),
    Example("serve.sh", "vllm serve Qwen/Qwen2.5-0.5B-Instruct --max-model-len 32768\n"),
    "Stay within the context of both models.",
    check,
)
