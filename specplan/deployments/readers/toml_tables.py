"""specplan.toml: ``[[deployment]]`` tables in specplan's own words, for every engine."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from specplan.deployments.arguments import scalar_text
from specplan.deployments.deployment import Deployment, Engine, Problem, Setting
from specplan.deployments.source import Location, Source
from specplan.errors import InputError

_ENGINES: tuple[Engine, ...] = ("vllm", "sglang", "llama.cpp", "tensorrt-llm", "specplan")
_KEYS = (
    "name", "engine", "engine_version", "model", "draft", "drafter", "num_speculative_tokens", "gpu",
    "num_gpus", "context",
    "concurrency", "budget", "dtype", "kv_dtype", "memory_fraction", "kv_cache_bytes", "tensor_parallel_size", "alpha",
)  # fmt: skip
#: What an engine calls it; keys that are left out mean nothing to the engine.
_OPTIONS: dict[str, dict[str, str]] = {
    "vllm": {
        "model": "--model", "draft": "speculative_config.model", "drafter": "speculative_config.method",
        "num_speculative_tokens": "speculative_config.num_speculative_tokens", "context": "--max-model-len",
        "concurrency": "--max-num-seqs", "dtype": "--dtype", "kv_dtype": "--kv-cache-dtype",
        "memory_fraction": "--gpu-memory-utilization", "kv_cache_bytes": "--kv-cache-memory-bytes",
        "tensor_parallel_size": "--tensor-parallel-size",
    },
    "sglang": {
        "model": "--model-path", "draft": "--speculative-draft-model-path", "drafter": "--speculative-algorithm",
        "num_speculative_tokens": "--speculative-num-steps", "context": "--context-length",
        "concurrency": "--max-running-requests", "dtype": "--dtype", "kv_dtype": "--kv-cache-dtype",
        "memory_fraction": "--mem-fraction-static", "tensor_parallel_size": "--tp-size",
    },
    "llama.cpp": {
        "model": "--model", "draft": "--spec-draft-model", "drafter": "--spec-type",
        "num_speculative_tokens": "--spec-draft-n-max", "context": "--ctx-size", "concurrency": "--parallel",
        "kv_dtype": "--cache-type-k",
    },
    "tensorrt-llm": {
        "model": "model", "draft": "speculative_config.speculative_model", "drafter":
        "speculative_config.decoding_type",
        "num_speculative_tokens": "speculative_config.max_draft_len", "context": "max_seq_len",
        "concurrency": "max_batch_size", "dtype": "dtype", "kv_dtype": "kv_cache_config.dtype",
        "memory_fraction": "kv_cache_config.free_gpu_memory_fraction",
        "kv_cache_bytes": "kv_cache_config.max_gpu_total_bytes", "tensor_parallel_size": "tensor_parallel_size",
    },
    "specplan": {
        key: key
        for key in (
            "model", "draft", "drafter", "num_speculative_tokens", "context", "concurrency", "dtype",
            "kv_dtype", "budget",
            "gpu", "alpha",
        )
    },
}  # fmt: skip
#: Our names of drafters in the engines' words.
_DRAFTERS: dict[str, dict[str, str]] = {
    "sglang": {"draft_model": "STANDALONE", "ngram": "NGRAM", "eagle3": "EAGLE3", "mtp": "NEXTN", "eagle": "EAGLE"},
    "llama.cpp": {"draft_model": "draft-simple", "ngram": "ngram-mod", "eagle3": "draft-eagle3", "mtp": "draft-mtp"},
    "tensorrt-llm": {"draft_model": "Draft_Target", "ngram": "NGram", "eagle3": "Eagle3", "mtp": "MTP"},
}
_NEEDS_METHOD = ("sglang", "llama.cpp", "tensorrt-llm")
#: Where a table begins, and where a key of it stands.
HEADER = re.compile(r"^[ \t]*\[\[[ \t]*deployment[ \t]*\]\]", re.MULTILINE)
KEY = re.compile(r"^[ \t]*([\w-]+)[ \t]*=", re.MULTILINE)


def read_toml(source: Source) -> list[Deployment]:
    """Deployments of specplan.toml, in order.

    Raises:
        InputError: not TOML, or ``deployment`` is not a list of tables.
    """
    try:
        data: Any = tomllib.loads(source.text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{source.path}: not TOML: {error}") from None
    tables = data.get("deployment", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{source.path}: deployment must be a list of tables: write [[deployment]]")
    starts = [match.start() for match in HEADER.finditer(source.text)]
    if len(starts) != len(tables):
        raise InputError(f"{source.path}: write every deployment as a [[deployment]] table of its own")
    ends = [*starts[1:], len(source.text)]
    return [_deployment(source, table, starts[at], ends[at]) for at, table in enumerate(tables)]


def _deployment(source: Source, table: dict[str, Any], start: int, end: int) -> Deployment:
    places = {match.group(1): match.start(1) for match in KEY.finditer(source.text, start, end)}
    header = source.location(source.text.index("[[", start))

    def place(key: str) -> Location:
        return source.location(places[key]) if key in places else header

    engine: Engine = table.get("engine", "specplan")
    problems = list(_unknown_keys(table, place))
    if engine not in _ENGINES:
        message = f"engine {scalar_text(engine)} is not one of {', '.join(_ENGINES)}"
        raise InputError(f"{source.location(places.get('engine', start))}: {message}")
    version = table.get("engine_version")
    gpu, count = table.get("gpu"), table.get("num_gpus")
    return Deployment(
        engine,
        str(version) if version is not None else None,
        tuple(_settings(engine, table, place)),
        header,
        tuple(problems),
        None if gpu is None else Setting("gpu", scalar_text(gpu), place("gpu")),
        None if count is None else Setting("num_gpus", scalar_text(count), place("num_gpus")),
    )


def _unknown_keys(table: dict[str, Any], place: Any) -> Iterator[Problem]:
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            message = f"[[deployment]] has no key {key}"
            fix = f"did you mean {near[0]}?" if near else "leave it out"
            yield Problem("unknown-flag", key, message, place(key), fix)


def _settings(engine: Engine, table: dict[str, Any], place: Any) -> Iterator[Setting]:
    options = _OPTIONS[engine]
    for key, value in table.items():
        name = options.get(key)
        if name is None:
            continue
        text = scalar_text(value)
        if key == "num_speculative_tokens" and table.get("drafter") == "ngram":
            name, text = _ngram_tokens(engine, name, text)
        if key == "drafter":
            text = _DRAFTERS.get(engine, {}).get(text, text)
        yield Setting(name, text, place(key), key)
    if "draft" in table and "drafter" not in table and engine in _NEEDS_METHOD:
        yield Setting(options["drafter"], _DRAFTERS[engine]["draft_model"], place("draft"), "draft")


def _ngram_tokens(engine: Engine, name: str, text: str) -> tuple[str, str]:
    """Options of their own for drafted n-grams; SGLang counts the root."""
    if engine == "sglang" and text.isdigit():
        return "--speculative-num-draft-tokens", str(int(text) + 1)
    return ("--spec-ngram-mod-n-max" if engine == "llama.cpp" else name), text
