"""SP105: a fraction of total memory is not one of free memory."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Configuration, Finding
from specplan.rules.nearest import nearest
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject
from specplan.rules.text import nearest_text
from specplan.units import format_bytes


def check(subject: Subject) -> Iterator[Finding]:
    """vLLM: more of total memory than is free; TensorRT-LLM: a fraction that would do if it were of total memory."""
    serving, fraction = subject.serving, subject.serving.fraction
    if fraction is None or fraction.is_default or serving.kv_bytes is not None:
        return
    if serving.engine == "vllm":
        yield from _of_total(subject)
    elif serving.engine == "tensorrt-llm":
        yield from _of_free(subject)


def _of_total(subject: Subject) -> Iterator[Finding]:
    fraction, device = subject.serving.fraction, subject.device
    assert fraction is not None
    total, context = int(device.memory_bytes.value), int(device.context_bytes.value)
    if fraction.value * total <= total - context:
        return
    most = int((total - context) / total * 100) / 100
    yield Finding(
        "SP105",
        "warning",
        fraction.location,
        f"{fraction.origin} {fraction.value} is of total memory: {format_bytes(int(fraction.value * total))}, and "
        f"{format_bytes(total - context)} are free beside the CUDA context ({device.context_bytes.source}): "
        "vLLM refuses to start",
        f"{fraction.origin} {most}",
        {"asked_bytes": int(fraction.value * total), "free_bytes": total - context},
        ({"memory_fraction": most},),
    )


def _of_free(subject: Subject) -> Iterator[Finding]:
    fraction, budget = subject.serving.fraction, subject.budget
    assert fraction is not None
    of_total = int(fraction.value * budget.device_bytes) - budget.static_bytes
    if budget.least_kv_bytes <= int(budget.pool.value) or of_total < budget.least_kv_bytes:
        return
    free = budget.device_bytes - budget.static_bytes
    least = -(-budget.least_kv_bytes * 100 // max(1, free)) / 100
    configurations: tuple[Configuration, ...] = ({"memory_fraction": least},) if least < 1 else nearest(subject)
    yield Finding(
        "SP105",
        "error",
        fraction.location,
        f"{fraction.origin} {fraction.value} is of the memory that is free after loading: the KV pool gets "
        f"{format_bytes(int(budget.pool.value))}, one sequence needs {format_bytes(budget.least_kv_bytes)}; of total "
        "memory, as vLLM counts, it would be enough",
        f"{fraction.origin} {least}" if least < 1 else nearest_text(configurations),
        {"pool_bytes": int(budget.pool.value), "kv_bytes": budget.least_kv_bytes},
        configurations,
    )


RULE = Rule(
    "SP105",
    "Fraction of total memory against fraction of free memory",
    "warning",
    "vLLM's fraction is of total memory and covers weights and KV; TensorRT-LLM's is of what is free after loading and "
    "covers KV alone; SGLang's is of what is free before loading. A number that was copied from one engine to "
    "the other "
    "means something else.",
    Example("serve.sh", "vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 4096 --gpu-memory-utilization 0.99\n"),
    Example("serve.sh", "vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 4096 --gpu-memory-utilization 0.92\n"),
    "Work the fraction out again for the engine: the message has the one that fits.",
    check,
)
