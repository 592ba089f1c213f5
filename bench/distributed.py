"""Plans over 2 and 4 gloo processes against one process: equal tokens and proposals, planned = measured on every rank.

    python -m bench.distributed [--batch 1 --batch 8]

Random models of four layers, split in every way, with a draft model's chain and its tree, prompt lookup, and heads.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from specplan.parallelism import Parallelism
from tests.eagle_helpers import eagle_folder
from tests.head_helpers import heads_folder, medusa_tensors
from tests.rank_helpers import alone, among_ranks
from tests.runtime_helpers import perturbed, plan_for, prompt_of, spread_over, variant

_PROMPTS = [prompt_of(1 + 5 * index % 7, seed=index) * (1 + index % 4) for index in range(10)]
_NEW_TOKENS = 24


def _drafters(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and options of a plan: a draft that is right some of the time, heads that are random."""
    draft = perturbed(_target(), 0.03)
    yield "draft, chain", {"drafter": "draft_model", "draft": draft, "num_speculative_tokens": 3}
    yield "draft, tree", {"drafter": "draft_model", "draft": draft, "tree": "best", "num_draft_nodes": 6}
    yield "ngram", {"drafter": "ngram", "num_speculative_tokens": 4}
    heads = heads_folder(folder / "medusa", medusa_tensors(4), medusa_num_heads=4)
    yield "medusa, tree", {"drafter": "medusa", "heads": heads, "tree": "medusa-default", "num_draft_nodes": 20}
    yield "eagle3, chain", {"drafter": "eagle3", "heads": eagle_folder(folder / "eagle3"), "num_speculative_tokens": 3}


def _target() -> Path:
    return variant("llama-gqa", num_hidden_layers=4, num_key_value_heads=2)


def _splits(batch_size: int, drafter: str) -> Iterator[Parallelism]:
    """Tensor ranks, stages and both; drafts and heads beside the logits or split, micro-batches where they may be."""
    parts = 1 if drafter == "eagle3" else min(2, batch_size)
    yield Parallelism(2, (4,))
    yield Parallelism(1, (3, 1), parts, "rank", 1)
    yield Parallelism(4, (4,))
    yield Parallelism(1, (1, 1, 1, 1), parts, "rank", 3)
    yield Parallelism(2, (2, 2), parts, "rank", 2)
    if drafter in ("draft_model", "medusa"):
        yield Parallelism(2, (4,), 1, "split")
        yield Parallelism(2, (1, 3), parts, "split", 2)


@click.command()
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8))
def main(batches: tuple[int, ...]) -> None:
    """A table; exit code 1 when a row is not equal."""
    rows: list[list[Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for label, options in _drafters(Path(name)):
            for batch_size in batches:
                usual: dict[str, Any] = {"dtype": "float32", "kv_dtype": "float32", "knobs": {"prefill_chunk": 7}}
                plan = plan_for(_target(), batch_size=batch_size, **usual, **options)
                expected = alone(plan, _PROMPTS, _NEW_TOKENS)
                for parallelism in _splits(batch_size, options["drafter"]):
                    found = among_ranks(spread_over(plan, parallelism), _PROMPTS, _NEW_TOKENS)
                    equal = (found.tokens, found.proposals) == (expected.tokens, expected.proposals)
                    what = f"{parallelism.describe()}, {parallelism.draft_placement}"
                    accepted = f"{found.num_accepted}/{sum(len(p) for step in found.proposals for p in step)}"
                    rows.append([what, label, batch_size, accepted, equal, sum(found.differences)])
                    click.echo(f"{rows[-1]}", err=True)
    headers = ["ranks, place of the drafter", "drafts", "batch", "accepted", "equal", "bytes off, all ranks"]
    click.echo(tabulate(rows, headers))
    good = sum(1 for row in rows if row[4] and row[5] == 0)
    click.echo(f"{good} of {len(rows)} as one process, in the planned bytes; {time.monotonic() - began:.0f} s")
    sys.exit(good < len(rows))


if __name__ == "__main__":
    main()
