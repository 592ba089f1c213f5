"""Greedy output of every drafter and γ against transformers' generate, on real weights in float32.

    python -m bench.greedy_equality --model FILE.gguf [--tokens 64] [--gammas 1 2 3 4 5 6 7 8] [--batch-size 8]

Sixty prompts are decoded in a batch with ragged acceptance, finished rows taking the next prompt; the reference decodes
them one by one. Exits with 1 when any token differs.
"""

from __future__ import annotations

import argparse
import sys

import torch
from tabulate import tabulate

from bench.kill import QUESTIONS
from bench.ours import Models, engine_of, plan_of
from bench.reference import generate, load_reference
from specplan.models.resolve import resolve_model
from specplan.speculation import Drafter
from specplan_runtime import Engine
from specplan_runtime.engine import Request
from specplan_runtime.text import Tokenizer

PROMPTS = [
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "List five fruits.",
    "Repeat after me: one two three four five six seven eight nine ten, one two three four five.",
    "Explain recursion to a child.",
    "What is the capital of Peru?",
    "Translate to French: good morning, my friend.",
    "Write a Python function that reverses a string.",
    "Give me three tips for better sleep.",
    "What is 12 times 13?",
    "Summarize: The cat sat on the mat. The cat was warm. The mat was red. The cat slept.",
    "Tell me a short story about a lighthouse.",
    "Describe the water cycle.",
    "Write a polite email that declines a meeting.",
    "What are prime numbers?",
    "Name the planets in order.",
    "Correct this: she go to school every days.",
    "How do I boil an egg?",
    "Write a SQL query that counts users by country.",
    "Copy this list: apple, pear, plum, apple, pear, plum, apple, pear, plum.",
    *QUESTIONS,
]


def engine_for(model: str, drafter: Drafter, gamma: int | None, batch_size: int) -> Engine:
    """Whose texts have no end but the asked number of tokens."""
    plan = plan_of(Models(model, model), drafter, 256, gamma=gamma, batch_size=batch_size)
    return engine_of(plan, ())


def main() -> int:
    """Print one line for every drafter and γ; 1 when any token differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--gammas", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--drafters", nargs="+", default=["ngram", "draft_model", "early_exit"])
    parser.add_argument("--batch-size", type=int, default=20)
    options = parser.parse_args()
    target = resolve_model(options.model)
    tokenizer = Tokenizer(target)
    prompts = [tokenizer.encode_prompt(text, raw=False) for text in PROMPTS]
    reference = load_reference(target, torch.float32)
    expected = [list(generate(reference, prompt, options.tokens).tokens) for prompt in prompts]
    del reference
    rows = []
    for drafter, gamma in [
        ("none", None),
        *((d, g) for d in options.drafters for g in options.gammas),
    ]:
        engine = engine_for(options.model, drafter, gamma, options.batch_size)
        found: list[list[int]] = [[] for _ in prompts]
        with torch.inference_mode():
            for emission in engine.serve(Request(i, prompt, options.tokens) for i, prompt in enumerate(prompts)):
                found[emission.index] += emission.tokens
        equal = sum(ours == reference for ours, reference in zip(found, expected, strict=True))
        rows.append([drafter, gamma or 0, f"{equal} of {len(prompts)}", f"{engine.stats.mean_accepted_length:.2f}"])
        print(*rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, ["drafter", "γ", "outputs equal", "accepted length"]))
    return 0 if all(row[2] == f"{len(prompts)} of {len(prompts)}" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
