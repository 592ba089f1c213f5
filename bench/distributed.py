"""Plans over 2 and 4 gloo processes against one process: equal tokens, planned = measured bytes of every rank.

    python -m bench.distributed [--batch 1 --batch 8]

Random models of four layers, split in every way, with a draft model's chain, its tree, and prompt lookup.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from specplan.parallelism import Parallelism
from specplan.plan import Plan
from specplan_runtime.engine import Engine
from specplan_runtime.text import Tokenizer
from tests.rank_helpers import finish, model_folder, save_plan, start, with_tokenizer, write_prompts
from tests.runtime_helpers import perturbed, plan_for, serve

_PROMPTS = [" ".join("abcdefghijklmnopqrstuvwxyz"[first : first + 2 + first % 7]) for first in range(10)]
_NEW_TOKENS = 24
_TREE: dict[str, Any] = {"drafter": "draft_model", "tree": "best", "num_draft_nodes": 6}
_CHAIN: dict[str, Any] = {"drafter": "draft_model", "num_speculative_tokens": 3}
_NGRAM: dict[str, Any] = {"drafter": "ngram", "num_speculative_tokens": 4}


def _splits(batch_size: int) -> Iterator[Parallelism]:
    parts = min(2, batch_size)
    yield Parallelism(2, (4,))
    yield Parallelism(2, (4,), 1, "split")
    yield Parallelism(1, (3, 1), parts, "rank", 1)
    yield Parallelism(4, (4,))
    yield Parallelism(1, (1, 1, 1, 1), parts, "rank", 3)
    yield Parallelism(2, (2, 2), parts, "rank", 2)
    yield Parallelism(2, (1, 3), parts, "split", 2)


def _alone(plan: Plan) -> list[str]:
    tokenizer = Tokenizer(plan.inputs.target)
    tokens = serve(Engine(plan), [tokenizer.encode_prompt(text, raw=True) for text in _PROMPTS], _NEW_TOKENS)
    return [tokenizer.decode(new) for new in tokens]


def _over_ranks(folder: Path, prompts: Path) -> tuple[list[str], dict[str, Any]]:
    output, report = folder / "out.jsonl", folder / "report.json"
    flags = ("--raw", "--static", "--max-new-tokens", _NEW_TOKENS, "--output", output, "--report", report)
    code, _, err = finish(start("specplan", "run", folder / "plan.json", "--prompts", prompts, *flags))
    if code:
        return [err], {"owned_difference_bytes": None, "ranks": []}
    return [json.loads(line)["text"] for line in output.read_text().splitlines()], json.loads(report.read_text())


@click.command()
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8))
def main(batches: tuple[int, ...]) -> None:
    """A table; exit code 1 when a row is not equal."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        model = model_folder(Path(name) / "model", num_key_value_heads=2)
        draft = with_tokenizer(perturbed(model, 0.02), model)
        prompts = write_prompts(Path(name) / "prompts.jsonl", _PROMPTS)
        for batch_size in batches:
            for label, drafting in (("chain", _CHAIN), ("tree", _TREE), ("ngram", _NGRAM)):
                options = drafting | ({} if label == "ngram" else {"draft": draft}) | {"batch_size": batch_size}
                expected = _alone(plan_for(model, dtype="float32", kv_dtype="float32", **options))
                for parallelism in _splits(batch_size):
                    folder = Path(tempfile.mkdtemp(dir=name))
                    save_plan(folder / "plan.json", model, parallelism, **options)
                    found, report = _over_ranks(folder, prompts)
                    what = f"{parallelism.describe()}, draft {parallelism.draft_placement}"
                    rows.append([what, label, batch_size, found == expected, report["owned_difference_bytes"]])
                    click.echo(f"{rows[-1]} {'' if found == expected else found[:1]}", err=True)
    headers = ["ranks", "drafts", "batch", "tokens equal", "planned - measured, bytes, all ranks"]
    click.echo(tabulate(rows, headers))
    sys.exit(not all(row[3] and row[4] == 0 for row in rows))


if __name__ == "__main__":
    main()
