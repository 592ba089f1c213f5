"""SP402: a deprecated spelling."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Names that the engine still takes."""
    for problem in subject.deployment.problems:
        if problem.kind == "deprecated-flag":
            yield Finding("SP402", "warning", problem.location, problem.message, problem.fix)
    method = subject.deployment.get("--spec-method", "speculative_config.method")
    if subject.deployment.engine == "vllm" and method is not None and method.value.endswith("_mtp"):
        message = f"vLLM calls the method {method.value} deprecated"
        yield Finding("SP402", "warning", method.location, message, "mtp", {}, ({method.name: "mtp"},))


RULE = Rule(
    "SP402",
    "Deprecated spelling",
    "warning",
    "The engine still takes it and says that it will not for long.",
    Example("serve.sh", "vllm serve deepseek-ai/DeepSeek-V3 --spec-method deepseek_mtp --spec-tokens 1\n"),
    Example("serve.sh", "vllm serve deepseek-ai/DeepSeek-V3 --spec-method mtp --spec-tokens 1\n"),
    "Write it as the message says.",
    check,
)
