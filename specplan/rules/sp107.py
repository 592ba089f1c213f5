"""SP107: the draft's KV is priced higher than it is."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """What an engine reserves for a token of the draft against what it takes."""
    serving = subject.serving
    if not serving.speculates or serving.engine != "sglang":
        return
    budget = subject.budget
    actual, priced = budget.draft_slot_bytes, budget.priced_draft_slot_bytes
    if not actual or priced <= actual or int(budget.pool.value) <= 0:
        return
    pool = int(budget.pool.value)
    if budget.pool.source == "exact":  # --max-total-tokens decides, not the price
        return
    got, possible = pool // budget.slot_bytes, pool // (budget.slot_bytes - priced + actual)
    yield Finding(
        "SP107",
        "note",
        subject.location_of(serving.draft, serving.method),
        f"SGLang reserves {priced} bytes per token for the draft's KV, {priced / actual:.3g} times the {actual} "
        f"that it "
        f"takes: the pool holds {got} tokens instead of {possible}",
        f"set --max-total-tokens {possible} if the memory is measured to be free",
        {"priced_bytes": priced, "actual_bytes": actual, "tokens": got, "possible_tokens": possible},
        ({"max_total_tokens": possible},),
    )


RULE = Rule(
    "SP107",
    "KV of the draft larger than assumed",
    "note",
    "SGLang prices a layer of the draft as a layer of the target when it divides its pool. With a draft of fewer "
    "or smaller "
    "KV heads, that is memory which nobody uses: 2 times for Llama 8B with 1B, 8 times for Qwen2.5 32B with 0.5B.",
    Example(
        "serve.sh",
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct --context-length 8192 \\\n"
        "  --max-running-requests 8 --mem-fraction-static 0.85 --speculative-algorithm STANDALONE \\\n"
        "  --speculative-draft-model-path meta-llama/Llama-3.2-1B-Instruct --speculative-num-steps 3\n",
    ),
    Example(
        "serve.sh",
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct --context-length 8192 \\\n"
        "  --max-running-requests 8 --mem-fraction-static 0.85 --speculative-algorithm NGRAM\n",
    ),
    "Count with the smaller pool, or set its size in tokens.",
    check,
)
