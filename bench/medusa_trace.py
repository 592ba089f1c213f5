"""The closed forms of ``bench.medusa_reference`` against a trace of Medusa's own code.

    pip install --no-deps medusa-llm==0.1
    python -m bench.medusa_trace

Its prefill, forward, tree decoding and acceptance run as they are, around a target that is only an embedding: small
heads, half precision, and a tracker of storages that knows no formula. Release 0.1 drafts full trees (so many choices
at every depth); the functions that allocate logits are the same for today's sparse ones.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from bench.medusa_code import CacheConfig, medusa_model, res_block
from bench.medusa_reference import prefill_logits_rows, step_logits_rows
from specplan_runtime.tracing.tracker import StorageTracker

_HIDDEN, _VOCAB, _LAYERS, _POSITIONS = 16, 5000, 2, 512
_TREES = ((1, 7, 6), (1, 5, 3, 2), (1, 3, 3))
_PROMPTS = (10, 100, 300)


def _model(num_heads: int) -> Any:
    """Medusa's model around an embedding."""
    blocks = (nn.Sequential(res_block(_HIDDEN), nn.Linear(_HIDDEN, _VOCAB, bias=False)) for _ in range(num_heads))
    embedding, head = nn.Embedding(_VOCAB, _HIDDEN).half(), nn.Linear(_HIDDEN, _VOCAB, bias=False).half()

    def body(input_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (embedding(input_ids),)

    config = CacheConfig(_LAYERS, 2, _POSITIONS, _HIDDEN)
    return medusa_model(body, head, nn.ModuleList(blocks).half(), config)


def traced(choices: tuple[int, ...], prompt_rows: int, temperature: float) -> tuple[int, int]:
    """Bytes beyond the cache at the peak of prompt and first step, and at that of a later step."""
    model = _model(len(choices) - 1)
    steps = model.medusa_generate(
        torch.zeros(1, prompt_rows, dtype=torch.int64), temperature=temperature, medusa_choices=list(choices)
    )
    cache = 2 * _LAYERS * _POSITIONS * _HIDDEN * 2
    with torch.no_grad(), StorageTracker() as tracker:
        with tracker.phase("first") as first:
            next(steps)
        with tracker.phase("later") as later:
            next(steps)
    return first.peak_bytes - cache, later.peak_bytes - cache


def main() -> None:
    """Print closed forms and traced peaks."""
    table = []
    for choices, prompt_rows, temperature in itertools.product(_TREES, _PROMPTS, (0.0, 0.7)):
        heads, leaves = len(choices) - 1, math.prod(choices)
        rows = sum(itertools.accumulate(choices, lambda a, b: a * b))
        paths = leaves * len(choices)
        expected = (
            prefill_logits_rows(heads, prompt_rows, rows, paths) * _VOCAB * 2,
            step_logits_rows(heads, rows, paths) * _VOCAB * 2,
        )
        found = traced(choices, prompt_rows, temperature)
        shares = [f"{have / want - 1:+.2%}" for have, want in zip(found, expected, strict=True)]
        name = "greedy" if temperature == 0 else "typical"
        table.append(["-".join(map(str, choices)), prompt_rows, name, expected[0], found[0], shares[0],
                      expected[1], found[1], shares[1]])  # fmt: skip
    headers = ["choices", "prompt", "acceptance", "first step", "traced", "", "later step", "traced", ""]
    print(tabulate(table, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
