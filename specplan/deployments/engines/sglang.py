"""SGLang 0.5.23: sglang/srt/arg_groups (read in the released wheel)."""

from __future__ import annotations

from specplan.deployments.deployment import CannotTell, Deployment
from specplan.deployments.serving import Given, Method, Serving, SettingReader, Unsaid

_READ = "0.5.23"
_METHODS: dict[str, Method] = {
    "EAGLE": "eagle", "EAGLE3": "eagle3", "NEXTN": "mtp", "STANDALONE": "draft_model", "NGRAM": "ngram",
    "DFLASH": "dflash", "DSPARK": "dspark",
}  # fmt: skip
#: What SGLang takes where steps, topk and tokens are left out: by the algorithm, and for EAGLE by the target's name.
_STEPS, _LLAMA_STEPS = (3, 1, 4), (5, 4, 8)
_NGRAM_TOKENS = 12
_DEFAULT_RUNNING = 48
_WINDOW_RATIO = 0.8


def sglang_serving(deployment: Deployment) -> Serving:
    """Settings of ``sglang.launch_server``.

    Raises:
        CannotTell: a value that depends on a variable, or is none.
    """
    read = SettingReader(deployment, f"default of SGLang {_READ}")
    method = _method(read)
    model = read.text("--model-path")
    tokens, topk, rows = _shape(read, method, model)
    return Serving(
        "sglang",
        "SGLang",
        deployment.engine_version,
        deployment.location,
        model=model,
        draft=read.text("--speculative-draft-model-path"),
        method=method,
        num_speculative_tokens=tokens,
        topk=topk,
        num_verify_tokens=rows,
        context=read.integer("--context-length"),
        max_sequences=read.integer("--max-running-requests") or (read.default(_DEFAULT_RUNNING) if method else None),
        batch_tokens=read.integer("--chunked-prefill-size"),
        dtype=read.text("--dtype") or read.default("auto"),
        quantization=read.text("--quantization"),
        kv_dtype=read.text("--kv-cache-dtype") or read.default("auto"),
        draft_kv_dtype=read.text("--speculative-draft-kv-cache-dtype"),
        page_size=read.integer("--page-size") or read.default(1),
        tensor_parallel=read.integer("--tp-size") or read.default(1),
        pipeline_parallel=read.integer("--pp-size") or read.default(1),
        fraction=read.number("--mem-fraction-static"),
        kv_tokens=read.integer("--max-total-tokens"),
        window_ratio=_window_ratio(read, deployment),
        captures_graphs=not read.switch("--disable-cuda-graph"),
        lossy=_lossy(read),
        revision=read.text("--revision"),
    )


def _method(read: SettingReader) -> Given[Method] | None:
    named = read.text("--speculative-algorithm")
    if named is None:
        return None
    return Given(_METHODS.get(named.value.upper(), "other"), named.location, f"{named.origin} {named.value}")


def _shape(
    read: SettingReader, method: Given[Method] | None, model: Given[str] | None
) -> tuple[Given[int] | None, int, int]:
    """Drafted tokens of a path, branches, and verify rows, the root included."""
    if method is None:
        return None, 1, 1
    steps, topk = read.integer("--speculative-num-steps"), read.integer("--speculative-eagle-topk")
    rows = read.integer("--speculative-num-draft-tokens", "--speculative-dflash-block-size")
    if method.value == "ngram":
        count = rows or read.default(_NGRAM_TOKENS)
        return Given(max(0, count.value - 1), count.location, count.origin), 1, count.value
    if steps is None:
        is_llama = model is not None and "llama" in model.value.lower() and method.value != "draft_model"
        default = read.default(_LLAMA_STEPS if is_llama else _STEPS)
        return Given(default.value[0], default.location, default.origin), default.value[1], default.value[2]
    branches = topk.value if topk is not None else 1
    if branches == 1:  # forced by SGLang, whatever is said
        return steps, 1, steps.value + 1
    return steps, branches, rows.value if rows is not None else 1 + branches * steps.value


def _window_ratio(read: SettingReader, deployment: Deployment) -> Given[float] | None:
    """``swa_full_tokens_ratio``; without a radix cache, a stated number of requests sizes the pool instead."""
    if read.switch("--disable-hybrid-swa-memory"):
        return None
    plain = deployment.get("--disable-radix-cache")
    if plain is not None and deployment.get("--max-running-requests") is not None:
        message = "how SGLang sizes the pool of windowed layers without a radix cache is not modelled: measure it"
        return Unsaid(CannotTell(message, plain.location), plain.name, deployment.location)
    return read.number("--swa-full-tokens-ratio") or read.default(_WINDOW_RATIO)


def _lossy(read: SettingReader) -> tuple[Given[str], ...]:
    names = ("--speculative-accept-threshold-single", "--speculative-accept-threshold-acc")
    found = [(read.text(name), read.number(name)) for name in names]
    return tuple(text for text, number in found if text is not None and number is not None and number.value != 1.0)
