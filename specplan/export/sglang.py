"""SGLang 0.5.23: ``sglang.launch_server``. Its pool has an exact size in tokens, within a fraction of free memory."""

from __future__ import annotations

from specplan.dtypes import STORED
from specplan.export.command import Command, Pool, listening
from specplan.export.request import Request
from specplan.speculation import Drafter, Tree

_PORT = 30000
_ALGORITHMS: dict[Drafter, str] = {
    "draft_model": "STANDALONE", "ngram": "NGRAM", "eagle3": "EAGLE3", "mtp": "NEXTN",
}  # fmt: skip


def sglang_command(request: Request, pool: Pool | None) -> Command:
    """``python -m sglang.launch_server``; with the default pool where none is given."""
    workload = request.workload
    argv = ["python", "-m", "sglang.launch_server", "--model-path", request.target_name]
    argv += ["--revision", request.revision] if request.revision is not None else []
    argv += ["--dtype", "auto" if workload.dtype == STORED else workload.dtype]
    argv += ["--context-length", str(workload.context), "--max-running-requests", str(workload.batch_size)]
    argv += ["--chunked-prefill-size", str(request.prefill_chunk)]
    argv += ["--cuda-graph-max-bs-decode", str(workload.batch_size), "--kv-cache-dtype", workload.kv_dtype]
    if pool is not None:
        argv += ["--mem-fraction-static", f"{pool.fraction:.3f}", "--max-total-tokens", str(pool.tokens)]
    sizes = {"--tp-size": request.tensor_parallel, "--pp-size": request.num_stages}
    argv += [word for option, size in sizes.items() if size > 1 for word in (option, str(size))]
    return Command((*argv, *_speculation(request)), request.names, listen=listening(_PORT), port=_PORT)


def _speculation(request: Request) -> list[str]:
    """``num-draft-tokens`` counts the root; n-grams have neither steps nor branches."""
    if request.drafter == "none":
        return []
    argv = ["--speculative-algorithm", _ALGORITHMS[request.drafter]]
    if request.draft_name is not None:
        argv += ["--speculative-draft-model-path", request.draft_name]
    if request.draft_revision is not None:
        argv += ["--speculative-draft-model-revision", request.draft_revision]
    if request.drafter != "ngram":
        branches = request.shape.topk if isinstance(request.shape, Tree) else 1
        argv += ["--speculative-num-steps", str(request.shape.depth), "--speculative-eagle-topk", str(branches)]
    argv += ["--speculative-num-draft-tokens", str(request.num_verify_tokens)]
    if request.draft is not None and request.workload.draft_kv_dtype != request.workload.kv_dtype:
        argv += ["--speculative-draft-kv-cache-dtype", request.workload.draft_kv_dtype]
    return argv
