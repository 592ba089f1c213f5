"""TensorRT-LLM: tensorrt_llm/commands/serve.py and the YAML file behind ``--config``."""

from __future__ import annotations

from specplan.deployments.deployment import Deployment
from specplan.deployments.serving import Given, Method, Serving, SettingReader

_ORIGIN = "default of TensorRT-LLM"
_METHODS: dict[str, Method] = {
    "Draft_Target": "draft_model", "DraftTarget": "draft_model", "Eagle3": "eagle3", "Eagle": "eagle", "MTP": "mtp",
    "NGram": "ngram", "Medusa": "medusa", "DFlash": "dflash", "DSpark": "dspark",
}  # fmt: skip
_BATCH, _TOKENS, _BLOCK, _FRACTION = 2048, 8192, 32, 0.9


def tensorrt_llm_serving(deployment: Deployment) -> Serving:
    """Settings of ``trtllm-serve``, those of its file before those of the command, as it takes them.

    Raises:
        CannotTell: a value that depends on a variable, or is none.
    """
    read = SettingReader(deployment, _ORIGIN)
    method = _method(read)
    drafted = read.integer("speculative_config.max_draft_len", "speculative_config.num_nextn_predict_layers")
    nodes = read.integer("speculative_config.max_total_draft_tokens")
    tokens = drafted if drafted is not None or method is None else nodes
    tree = read.switch("speculative_config.use_dynamic_tree")
    rows = 1 + (nodes.value if tree and nodes is not None else tokens.value if tokens is not None else 0)
    topk = read.integer("speculative_config.dynamic_tree_max_topK")
    return Serving(
        "tensorrt-llm",
        "TensorRT-LLM",
        deployment.engine_version,
        deployment.location,
        model=read.text("model"),
        draft=read.text("speculative_config.speculative_model", "speculative_config.speculative_model_dir"),
        method=method,
        num_speculative_tokens=tokens,
        topk=topk.value if tree and topk is not None else 1,
        num_verify_tokens=rows if method is not None else 1,
        context=read.integer("max_seq_len") or read.integer("--max_seq_len"),
        max_sequences=read.integer("max_batch_size") or read.integer("--max_batch_size") or read.default(_BATCH),
        batch_tokens=read.integer("max_num_tokens") or read.integer("--max_num_tokens") or read.default(_TOKENS),
        dtype=read.text("dtype") or read.default("auto"),
        quantization=None,
        kv_dtype=read.text("kv_cache_config.dtype") or read.default("auto"),
        page_size=read.integer("kv_cache_config.tokens_per_block") or read.default(_BLOCK),
        tensor_parallel=read.integer("tensor_parallel_size")
        or read.integer("--tensor_parallel_size")
        or read.default(1),
        pipeline_parallel=read.integer("pipeline_parallel_size")
        or read.integer("--pipeline_parallel_size")
        or read.default(1),
        fraction=read.number("kv_cache_config.free_gpu_memory_fraction")
        or read.number("--free_gpu_memory_fraction")
        or read.default(_FRACTION),
        kv_bytes=read.integer("kv_cache_config.max_gpu_total_bytes"),
        kv_tokens=read.integer("kv_cache_config.max_tokens"),
        windows=read.text("kv_cache_config.max_attention_window"),
        overlap=not read.switch("disable_overlap_scheduler"),
        revision=read.text("--revision"),
    )


def _method(read: SettingReader) -> Given[Method] | None:
    named = read.text("speculative_config.decoding_type")
    if named is None:
        return None
    return Given(_METHODS.get(named.value, "other"), named.location, f"{named.origin} {named.value}")
