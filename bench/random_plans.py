"""Part two of bench.gpu_validate: predicted against measured bytes for plans with random weights.

Published architectures with fewer layers, each run in a process of its own: batches of 1 to 8, chains and trees,
contexts up to 32k. Compared are what the runtime asked for, what the allocator reserved, and what the process took.
On a CPU the storages that operators create are counted instead, contexts are shorter, and float16, which CPUs
emulate, becomes bfloat16 of the same size.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

#: model, layers, drafter, γ or tree, batch, context, dtype
CASES: tuple[tuple[str, int, str, int | str, int, int, str], ...] = (
    ("llama-3.2-1b", 4, "none", 0, 1, 8192, "bfloat16"),
    ("llama-3.2-1b", 4, "ngram", 7, 8, 4096, "bfloat16"),
    ("llama-3.1-8b", 2, "ngram", 4, 1, 32768, "float16"),
    ("llama-3.1-8b", 2, "early_exit", 3, 4, 8192, "bfloat16"),
    ("llama-2-7b-chat", 3, "medusa", "medusa-default", 1, 4096, "float16"),
    ("llama-2-7b-chat", 3, "medusa", "specmemo-44", 4, 2048, "float16"),
    ("tinyllama-1.1b", 4, "medusa", "medusa-default", 8, 2048, "float16"),
    ("mistral-7b-v0.1", 3, "ngram", 5, 2, 8192, "bfloat16"),
    ("mistral-7b-v0.1", 3, "none", 0, 1, 16384, "float16"),
    ("qwen2.5-7b", 2, "ngram", 6, 1, 16384, "bfloat16"),
    ("qwen2.5-0.5b", 6, "early_exit", 2, 8, 4096, "float32"),
    ("qwen2.5-1.5b", 4, "medusa", "specmemo-44", 2, 4096, "bfloat16"),
    ("qwen3-8b", 2, "ngram", 8, 4, 8192, "bfloat16"),
    ("qwen3-0.6b", 6, "none", 0, 8, 4096, "float16"),
    ("gemma-2-2b", 4, "ngram", 4, 1, 8192, "bfloat16"),
    ("gemma-3-1b", 6, "ngram", 5, 2, 16384, "bfloat16"),
    ("gemma-3-270m", 12, "early_exit", 2, 4, 8192, "float32"),
    ("phi-3-mini-4k", 3, "ngram", 3, 1, 4096, "bfloat16"),
    ("olmo-2-1b", 4, "medusa", "medusa-default", 1, 4096, "bfloat16"),
    ("olmo-2-7b", 2, "ngram", 6, 2, 4096, "bfloat16"),
    ("pythia-1.4b", 4, "early_exit", 4, 4, 2048, "float16"),
    ("pythia-160m", 12, "ngram", 10, 8, 2048, "float32"),
    ("mixtral-8x7b", 1, "none", 0, 1, 4096, "bfloat16"),
    ("qwen3-30b-a3b", 1, "ngram", 4, 2, 8192, "bfloat16"),
)
_CPU_CONTEXT = 512
_NEW_TOKENS = 8


def measure_case(index: int) -> dict[str, Any]:
    """Run one case in this process."""
    import torch

    from specplan.plan import Plan
    from specplan.planner.analyze import analyze
    from specplan.planner.ask import ask
    from specplan_runtime import Engine, SamplingParams, budget
    from specplan_runtime.tracing.tracker import StorageTracker

    model, layers, drafter, drafted, batch, context, dtype = CASES[index]
    cuda = torch.cuda.is_available()
    context = context if cuda else min(context, _CPU_CONTEXT)
    dtype = "bfloat16" if dtype == "float16" and not cuda else dtype
    options: dict[str, Any] = {"tree": drafted} if isinstance(drafted, str) else {}
    if drafter != "none" and not options:
        options = {"num_speculative_tokens": drafted}
    question = ask(model=model, gpu="local", drafter=drafter, context=context, batch_size=batch, dtype=dtype, **options)
    inputs = dataclasses.replace(question.inputs, target=_shallow(question.inputs.target, layers))
    plan = analyze(dataclasses.replace(question, inputs=inputs))
    assert isinstance(plan, Plan), "does not fit this device"
    plan = dataclasses.replace(plan, forward="specplan")
    device = budget.torch_device(plan)
    before = _outside_torch(device)
    tracker = StorageTracker((device.type,))
    with tracker:
        with tracker.phase("load") as load:
            engine = Engine(plan, random_weights=True)
        engine.assembly.eos_token_ids = ()
        prompt = [7 * i % 1000 for i in range(min(context // 2, 700))]
        with tracker.phase("run") as run:
            for row in range(batch):
                engine.start(engine.open(prompt, _NEW_TOKENS, row), SamplingParams())
            new = engine.generate(prompt, _NEW_TOKENS)
    assert len(new) == _NEW_TOKENS
    items = plan.ledger.by_name()
    reserved = plan.ledger.owned_bytes + sum(
        items[name].bytes for name in ("allocator_rounding", "cublas_workspace") if name in items
    )
    stats = torch.cuda.memory_stats() if cuda else {}
    return {
        "case": list(CASES[index]),
        "context": context,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": {"torch": torch.__version__},
        "owned_planned_bytes": plan.ledger.owned_bytes,
        "owned_measured_bytes": engine.own.layout.arena.high_water + engine.assembly.largest_kernel_output(),
        "traced_peak_bytes": run.peak_bytes,
        "load_traced_bytes": load.peak_bytes,
        "load_planned_bytes": plan.ledger.owned_bytes + plan.ledger.phase_bytes("load"),
        "reserved_planned_bytes": reserved,
        "requested_measured_bytes": stats.get("requested_bytes.all.peak"),
        "allocated_measured_bytes": stats.get("allocated_bytes.all.peak"),
        "reserved_measured_bytes": stats.get("reserved_bytes.all.peak"),
        "context_planned_bytes": items["device_context"].bytes if "device_context" in items else None,
        "context_measured_bytes": before,
        "tokens_per_s_planned": plan.estimate.tokens_per_s.value,
        "tokens_per_s_measured": engine.timings.tokens_per_s,
    }


def _shallow(model: Any, layers: int) -> Any:
    arch = model.arch
    changed = dataclasses.replace(
        arch, num_hidden_layers=layers, layer_types=arch.layer_types[:layers], mlp_types=arch.mlp_types[:layers]
    )
    return dataclasses.replace(model, arch=changed)


def _outside_torch(device: Any) -> int | None:
    """What the driver holds once the context exists and before anything is allocated; CUDA only."""
    import torch

    if device.type != "cuda":
        return None
    torch.cuda.init()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def validate_plans(output: Path | None) -> int:
    """All cases, each in a fresh process; 1 when a byte that the runtime owns differs."""
    rows, results = [], []
    for index, case in enumerate(CASES):
        code = f"import json; from bench.random_plans import measure_case; print(json.dumps(measure_case({index})))"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        name = " ".join(map(str, case))
        if done.returncode:
            rows.append([name, done.stderr.strip().splitlines()[-1][:80], "", "", ""])
            results.append({"case": list(case), "error": rows[-1][1]})
            print(*rows[-1], file=sys.stderr, flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        owned = result["owned_measured_bytes"] - result["owned_planned_bytes"]
        traced = result["traced_peak_bytes"] - result["owned_planned_bytes"]
        reserved = result["reserved_measured_bytes"]
        beyond = "" if reserved is None else f"{reserved - result['reserved_planned_bytes']:+d}"
        speed = f"{result['tokens_per_s_measured']:.3g} of {result['tokens_per_s_planned']:.3g}"
        rows.append([name, f"{result['owned_planned_bytes']}", f"{owned:+d}", f"{traced:+d}", beyond, speed])
        print(*rows[-1], file=sys.stderr, flush=True)
    headers = ["case", "owned bytes planned", "measured", "traced", "reserved", "tokens/s"]
    print(tabulate(rows, headers, disable_numparse=True))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"schema_version": 1, "results": results}, indent=1, sort_keys=True) + "\n")
    return 0 if all("error" not in result and _holds(result) for result in results) else 1


def _holds(result: dict[str, Any]) -> bool:
    """What the runtime owns is planned to the byte, a run takes no more, and loading stays within its item."""
    owned = result["owned_planned_bytes"]
    measured = {result["owned_measured_bytes"], result["traced_peak_bytes"]}
    return measured == {owned} and result["load_traced_bytes"] <= result["load_planned_bytes"]
