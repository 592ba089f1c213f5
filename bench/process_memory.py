"""Planned bytes against a trace and against the process, for real weights and every drafter.

    python -m bench.process_memory --model FILE.gguf

For each drafter one fresh process generates under a tracker that keeps a weak reference on every storage that torch
operators create (it knows nothing of our formulas), another one undisturbed. Compared are the tracker's peak with the
ledger's owned bytes (they must be equal), and the kernel's VmHWM with the process before loading plus the owned bytes
plus the loader's tile (1 % is the bar).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from tabulate import tabulate

DRAFTERS = ("none", "ngram", "early_exit", "draft_model")
#: glibc keeps freed blocks in ways that depend on history; pinned, its figures can be compared.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
}


def measure(model: str, drafter: str, context: int, trace: bool) -> dict[str, int]:
    """One process's figures: traced, or undisturbed by a tracker (which imports much of torch)."""
    from specplan.plan import Plan
    from specplan.planner.analyze import analyze
    from specplan.planner.ask import ask

    draft = model if drafter == "draft_model" else None
    gamma = None if drafter == "none" else 4
    options: dict[str, Any] = {"num_speculative_tokens": gamma, "context": context, "dtype": "float32"}
    plan = analyze(ask(model=model, draft=draft, gpu="local", drafter=drafter, **options))
    assert isinstance(plan, Plan)

    import gguf  # noqa: F401 - the loader would import it later
    import torch

    from specplan_runtime import Engine, budget

    with torch.inference_mode():  # starts the thread pool; the library keeps its packing buffers
        for rows in (2, 16, 64):
            torch.mm(torch.ones(49152, 576), torch.ones(576, rows))
            torch.mm(torch.ones(rows, 576), torch.ones(49152, 576).t())
    before = budget.process_bytes("VmRSS")
    engine = Engine(plan)
    prompt = list(range(1000, 1200))
    if not trace:
        engine.generate(prompt, 48)
        return {"before": before or 0, "high_water": budget.process_bytes("VmHWM") or 0}
    from specplan_runtime.tracing.tracker import StorageTracker

    with StorageTracker() as tracker:  # what loading leaves is the arena; from here on nothing may be added to it
        engine.generate(prompt, 48)
    return {
        "owned": plan.ledger.owned_bytes,
        "traced": engine.own.layout.arena.block.nbytes + tracker.peak_bytes,  # type: ignore[union-attr]
        "staging": plan.ledger.by_name()["load_staging"].bytes,
    }


def main() -> int:
    """Print planned, traced and process bytes of every drafter; 1 when they are further apart than the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.one, options.context, options.trace)))
        return 0
    rows, worst = [], 0.0
    for drafter in DRAFTERS:
        command = [
            sys.executable,
            __file__,
            "--model",
            options.model,
            "--context",
            str(options.context),
            "--one",
            drafter,
        ]
        figures: dict[str, int] = {}
        for extra in ([], ["--trace"]):
            done = subprocess.run(
                [*command, *extra], check=True, capture_output=True, text=True, env=os.environ | MALLOC
            )
            figures |= json.loads(done.stdout.splitlines()[-1])
        predicted = figures["before"] + figures["owned"] + figures["staging"]
        off = figures["high_water"] / predicted - 1
        worst = max(worst, abs(off), abs(figures["traced"] - figures["owned"]))
        rows.append([drafter, figures["owned"], figures["traced"], figures["traced"] - figures["owned"], predicted,
                     figures["high_water"], f"{100 * off:+.2f} %"])  # fmt: skip
    headers = ["drafter", "ledger", "trace", "difference", "process predicted", "VmHWM", "difference"]
    print(tabulate(rows, headers, intfmt=" "))
    return 0 if worst < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
