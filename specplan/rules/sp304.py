"""SP304: too many sequences for speculation."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.nearest import largest
from specplan.rules.profit import concurrency, speedups
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Where what is drafted pays for one sequence, and no number of tokens for all that are asked for."""
    serving, tokens = subject.serving, subject.serving.num_speculative_tokens
    batch = concurrency(subject)
    if not serving.speculates or tokens is None or batch == 1 or serving.topk > 1 or tokens.value < 1:
        return
    alone, together = speedups(subject, 1), speedups(subject, batch)
    if alone is None or together is None or alone.at(tokens.value) <= 1 or together.best >= 1:
        return

    def pays(sequences: int) -> bool:
        found = speedups(subject, sequences)
        return found is not None and found.best > 1

    most = largest(batch, pays)
    yield Finding(
        "SP304",
        "warning",
        subject.location_of(serving.max_sequences, tokens),
        f"{batch} sequences are too many for speculation on {subject.device.name}: "
        f"{together.at(tokens.value):.2f} times "
        f"plain decoding with {tokens.value} drafted tokens, {alone.at(tokens.value):.2f} for one ({together.basis})",
        f"at most {most} sequences at once, or no speculation" if most else "serve without speculation",
        {"num_sequences": batch, "most": most},
        ({"concurrency": most},) if most else (),
    )


RULE = Rule(
    "SP304",
    "Batch too large for speculation",
    "warning",
    "A large batch keeps the device computing: rows of a verify pass are no longer free, and rejected ones take "
    "the place of "
    "other sequences' tokens.",
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 2048 --max-num-seqs 256 --spec-method "
        "draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-3B-Instruct --spec-tokens 1\n",
        "h100-80gb",
    ),
    Example(
        "serve.sh",
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 2048 --max-num-seqs 8 --spec-method "
        "draft_model \\\n"
        "  --spec-model meta-llama/Llama-3.2-1B-Instruct --spec-tokens 3\n",
        "h100-80gb",
    ),
    "Decode fewer sequences at once, or serve without speculation at this load.",
    check,
)
