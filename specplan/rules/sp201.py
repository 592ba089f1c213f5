"""SP201: vocabulary sizes differ."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject

#: What may differ, by engine; the other engines want equal sizes.
_TOLERANCE = {"llama.cpp": 128, "specplan": 128}


def check(subject: Subject) -> Iterator[Finding]:
    """Sizes of a draft model and its target, padding included."""
    serving, draft = subject.serving, subject.draft
    if draft is None or _maps_tokens(subject):
        return
    sizes = (subject.target.arch.vocab_size, draft.arch.vocab_size)
    tolerance = _TOLERANCE.get(serving.engine, 0)
    if abs(sizes[0] - sizes[1]) <= tolerance:
        return
    allowed = f"at most {tolerance} entries of difference" if tolerance else "equal sizes"
    yield Finding(
        "SP201",
        "error",
        subject.location_of(serving.draft),
        f"vocab_size {sizes[1]} of {draft.reference} against {sizes[0]} of {subject.target.reference}: "
        f"{serving.title} wants {allowed}",
        "use_heterogeneous_vocab: true" if serving.engine == "vllm" else "take a draft with the target's vocabulary",
        {"target_vocab_size": sizes[0], "draft_vocab_size": sizes[1]},
        ({"speculative_config.use_heterogeneous_vocab": "true"},) if serving.engine == "vllm" else (),
    )


def _maps_tokens(subject: Subject) -> bool:
    setting = subject.deployment.get("speculative_config.use_heterogeneous_vocab")
    return setting is not None and setting.value == "true"


RULE = Rule(
    "SP201",
    "Vocabulary sizes differ",
    "error",
    "A draft proposes ids of tokens: both models must mean the same by them. vLLM and SGLang compare the sizes, "
    "padding "
    "included, and refuse; Qwen2.5 7B and 0.5B are padded differently.",
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 4096 --spec-method draft_model \\\n"
        "  --spec-model Qwen/Qwen2.5-0.5B-Instruct --spec-tokens 3\n",
    ),
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-model-len 4096 --spec-method draft_model \\\n"
        "  --spec-model Qwen/Qwen2.5-0.5B-Instruct --spec-tokens 1\n",
    ),
    "Take a draft of the same vocabulary, or let vLLM map the tokens that both have.",
    check,
)
