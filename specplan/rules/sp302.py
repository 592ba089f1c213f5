"""SP302: more drafted tokens than pay."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.profit import concurrency, speedups
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import plural

#: Speed that may be lost before it is worth a word: what the planner keeps by default.
_KEEPS = 0.96


def check(subject: Subject) -> Iterator[Finding]:
    """The number that is drafted against the best one at this concurrency."""
    serving, tokens = subject.serving, subject.serving.num_speculative_tokens
    if tokens is None or tokens.is_default or serving.topk > 1 or not serving.speculates:
        return
    batch = concurrency(subject)
    found = speedups(subject, batch)
    if found is None or found.best <= 1 or tokens.value <= found.best_gamma:
        return
    now = found.at(tokens.value)
    if now >= _KEEPS * found.best:
        return
    yield Finding(
        "SP302",
        "warning",
        tokens.location,
        f"{plural(tokens.value, 'drafted token')} per step are past the gain for {plural(batch, 'sequence')} on "
        f"{subject.device.name}: "
        f"{now:.2f} times plain decoding, {found.best:.2f} with {found.best_gamma} ({found.basis})",
        plural(found.best_gamma, "drafted token"),
        {"num_speculative_tokens": tokens.value, "best": found.best_gamma},
        ({"num_speculative_tokens": found.best_gamma},),
    )


RULE = Rule(
    "SP302",
    "γ past its gain at this concurrency",
    "warning",
    "Every further drafted token is accepted less often than the one before it, and costs as much. With more "
    "sequences the "
    "verify pass stops being free, and the best number falls.",
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --max-num-seqs 4 --spec-method "
        "draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-1B-Instruct --spec-tokens 12\n",
    ),
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --max-num-seqs 4 --spec-method "
        "draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-1B-Instruct --spec-tokens 3\n",
    ),
    "Draft fewer tokens.",
    check,
)
