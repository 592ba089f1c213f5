"""SP206: a number of drafted tokens that the engine does not take, or changes."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Configuration, Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject

_THREE: tuple[Configuration, ...] = ({"num_speculative_tokens": 3},)


def check(subject: Subject) -> Iterator[Finding]:
    """The number itself, and what has to go with it."""
    serving = subject.serving
    if not serving.speculates:
        return
    tokens, method = serving.num_speculative_tokens, serving.method
    assert method is not None
    if tokens is not None and tokens.value < 1:
        yield Finding(
            "SP206", "error", tokens.location, f"{tokens.origin} is {tokens.value}: at least 1", "draft 3", {}, _THREE
        )
    if tokens is None and serving.engine == "vllm" and method.value == "draft_model":
        message = "vLLM needs num_speculative_tokens for a draft model"
        yield Finding("SP206", "error", method.location, message, '"num_speculative_tokens": 3', {}, _THREE)
    yield from _forced(subject)


def _forced(subject: Subject) -> Iterator[Finding]:
    """SGLang makes num-draft-tokens of a chain steps + 1."""
    serving, said = subject.serving, subject.deployment.get("--speculative-num-draft-tokens")
    if serving.engine != "sglang" or said is None or serving.topk > 1 or not said.value.isdigit():
        return
    steps = subject.deployment.get("--speculative-num-steps")
    if steps is not None and serving.num_verify_tokens != int(said.value):
        yield Finding(
            "SP206",
            "warning",
            said.location,
            f"{said.name} {said.value} counts the root: with one branch SGLang makes it {serving.num_verify_tokens}",
            f"{said.name} {serving.num_verify_tokens}",
            {"num_verify_tokens": serving.num_verify_tokens},
            ({"speculative_num_draft_tokens": serving.num_verify_tokens},),
        )


RULE = Rule(
    "SP206",
    "Number of drafted tokens that the engine does not take",
    "error",
    "vLLM counts drafted tokens without the root, SGLang with it; vLLM refuses none, and a draft model without a "
    "number. "
    "What is changed silently is not what was measured.",
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-model-len 4096 \\\n"
        '  --speculative-config \'{"method": "ngram", "num_speculative_tokens": 0}\'\n',
    ),
    Example(
        "serve.sh",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-model-len 4096 \\\n"
        '  --speculative-config \'{"method": "ngram", "num_speculative_tokens": 3}\'\n',
    ),
    "Write the number that the engine counts.",
    check,
)
