"""SP201: vocabulary sizes differ."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.plan import ModelInput
from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject

#: What may differ, by engine; the other engines want equal sizes.
_TOLERANCE = {"llama.cpp": 128, "transformers": 128, "specplan": 128}


def check(subject: Subject) -> Iterator[Finding]:
    """Sizes of a draft model and its target, padding included."""
    serving, draft = subject.serving, subject.draft
    if draft is None or maps_tokens(subject) or sizes_agree(subject, draft):
        return
    sizes = (subject.target.arch.vocab_size, draft.arch.vocab_size)
    tolerance = _TOLERANCE.get(serving.engine, 0)
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


def sizes_agree(subject: Subject, draft: ModelInput) -> bool:
    """The sizes are as near as the engine wants them."""
    difference = abs(subject.target.arch.vocab_size - draft.arch.vocab_size)
    return difference <= _TOLERANCE.get(subject.serving.engine, 0)


def maps_tokens(subject: Subject) -> bool:
    """Whether vLLM is asked to map the tokens that both have."""
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
