"""TensorRT-LLM: ``trtllm-serve`` and the YAML file behind ``--config``, with an exact size of the KV pool."""

from __future__ import annotations

import json
from collections.abc import Iterator

from specplan.dtypes import STORED
from specplan.export.command import Command, Pool, listening
from specplan.export.request import Request
from specplan.speculation import Drafter, Tree

_FILE = "trtllm.yaml"
_BLOCK, _PORT = 32, 8000
_TYPES: dict[Drafter, str] = {
    "draft_model": "Draft_Target", "ngram": "NGram", "eagle3": "Eagle3", "mtp": "MTP",
}  # fmt: skip


def tensorrt_llm_command(request: Request, pool: Pool | None) -> Command:
    """``trtllm-serve``; with the default pool where none is given."""
    text = "\n".join([*_settings(request), *_cache(request, pool), *_speculation(request)]) + "\n"
    revision = ("--revision", request.revision) if request.revision is not None else ()
    argv = ("trtllm-serve", request.target_name, "--config", _FILE, *revision)
    return Command(argv, request.names, {_FILE: text}, listening(_PORT), _PORT)


def _settings(request: Request) -> Iterator[str]:
    workload = request.workload
    if workload.dtype != STORED:
        yield f"dtype: {workload.dtype}"
    yield f"max_batch_size: {workload.batch_size}"
    yield f"max_num_tokens: {-(-request.pass_rows // _BLOCK) * _BLOCK}"
    yield f"max_seq_len: {workload.context}"
    yield f"tensor_parallel_size: {request.tensor_parallel}"
    if request.num_stages > 1:
        yield f"pipeline_parallel_size: {request.num_stages}"
    yield "enable_chunked_prefill: true"


def _cache(request: Request, pool: Pool | None) -> Iterator[str]:
    yield "kv_cache_config:"
    yield f"  dtype: {request.workload.kv_dtype}"
    yield f"  tokens_per_block: {_BLOCK}"
    if pool is not None:
        yield f"  max_gpu_total_bytes: {pool.bytes}"


def _speculation(request: Request) -> Iterator[str]:
    if request.drafter == "none":
        return
    yield "speculative_config:"
    yield f"  decoding_type: {_TYPES[request.drafter]}"
    yield f"  max_draft_len: {request.shape.depth}"
    if isinstance(request.shape, Tree):
        yield f"  max_total_draft_tokens: {request.shape.num_draft_nodes}"
        yield "  use_dynamic_tree: true"
        yield f"  dynamic_tree_max_topK: {request.shape.topk}"
    if request.draft_name is not None:
        yield f"  speculative_model: {_scalar(request.draft_name)}"


def _scalar(text: str) -> str:
    """A path or hub id as YAML: quoted, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
