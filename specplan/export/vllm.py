"""vLLM 0.33: ``vllm serve``. KV has an exact size, so the memory fraction only has to be free when it starts."""

from __future__ import annotations

import json

from specplan.dtypes import STORED
from specplan.export.command import Command, Pool
from specplan.export.request import Request

#: Lengths of n-grams that the planned drafter looks up.
_LOOKUP = {"prompt_lookup_min": 2, "prompt_lookup_max": 3}


def vllm_command(request: Request, pool: Pool | None) -> Command:
    """``vllm serve``; with the default pool where none is given."""
    workload = request.workload
    argv = ["vllm", "serve", request.target_name]
    argv += ["--revision", request.revision] if request.revision is not None else []
    argv += ["--dtype", "auto" if workload.dtype == STORED else workload.dtype]
    argv += ["--max-model-len", str(workload.context), "--max-num-seqs", str(workload.batch_size)]
    argv += ["--max-num-batched-tokens", str(request.pass_rows), "--kv-cache-dtype", workload.kv_dtype]
    if pool is not None:
        argv += ["--kv-cache-memory-bytes", str(pool.bytes), "--gpu-memory-utilization", f"{pool.fraction:.3f}"]
    argv += _spread(request)
    if request.drafter != "none":
        argv += ["--speculative-config", json.dumps(_speculation(request))]
    return Command(tuple(argv), request.names)


def _spread(request: Request) -> list[str]:
    """Layers are spread as vLLM itself does it."""
    sizes = {"--tensor-parallel-size": request.tensor_parallel, "--pipeline-parallel-size": request.num_stages}
    return [word for option, size in sizes.items() if size > 1 for word in (option, str(size))]


def _speculation(request: Request) -> dict[str, str | int | bool]:
    config: dict[str, str | int | bool] = {"method": request.drafter}
    if request.draft_name is not None:
        config["model"] = request.draft_name
    if request.draft_revision is not None:
        config["revision"] = request.draft_revision
    config["num_speculative_tokens"] = request.shape.num_draft_nodes
    if request.drafter == "ngram":
        config |= _LOOKUP
    if request.draft is not None:
        config["draft_tensor_parallel_size"] = request.tensor_parallel  # it takes no other
        if request.target.arch.vocab_size != request.draft.arch.vocab_size:
            config["use_heterogeneous_vocab"] = True
        if request.workload.draft_kv_dtype != request.workload.kv_dtype:
            config["kv_cache_dtype"] = request.workload.draft_kv_dtype
    return config
