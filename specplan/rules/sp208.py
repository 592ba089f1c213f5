"""SP208: a value that the engine refuses."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Configuration, Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject

_NINE_TENTHS: tuple[Configuration, ...] = ({"memory_fraction": 0.9},)


def check(subject: Subject) -> Iterator[Finding]:
    """Values that cannot be read, and fractions and sizes out of range."""
    for problem in subject.deployment.problems:
        if problem.kind == "bad-value":
            yield Finding("SP208", "error", problem.location, problem.message, problem.fix)
    serving = subject.serving
    fraction = serving.fraction
    if fraction is not None and not 0 < fraction.value <= 1:
        message = f"{fraction.origin} {fraction.value} is not a fraction: above 0, at most 1"
        yield Finding("SP208", "error", fraction.location, message, f"{fraction.origin} 0.9", {}, _NINE_TENTHS)
    for value in (serving.context, serving.max_sequences, serving.batch_tokens, serving.page_size):
        if value is not None and value.value < 1:
            message = f"{value.origin} {value.value}: at least 1"
            yield Finding("SP208", "error", value.location, message, "leave it out, or write a positive number")
    yield from _heads(subject)


def _heads(subject: Subject) -> Iterator[Finding]:
    """Attention heads are shared equally."""
    tensor = subject.serving.tensor_parallel
    if tensor is None or tensor.value <= 1:
        return
    heads = subject.target.arch.num_attention_heads
    if heads % tensor.value:
        yield Finding(
            "SP208",
            "error",
            tensor.location,
            f"{tensor.origin} {tensor.value}: {heads} attention heads cannot be shared equally",
            f"{tensor.origin} {max(count for count in range(1, min(tensor.value, heads + 1)) if heads % count == 0)}",
            {"num_attention_heads": heads},
        )


RULE = Rule(
    "SP208",
    "Value that the engine refuses",
    "error",
    "JSON that does not parse, a fraction above 1, heads that cannot be shared equally: the engine ends while it "
    "starts.",
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-model-len 4096 --speculative-config '{method: ngram}'\n",
    ),
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-model-len 4096 \\\n"
        '  --speculative-config \'{"method": "ngram", "num_speculative_tokens": 3}\'\n',
    ),
    "Write a value of the kind that the option takes.",
    check,
)
