"""llama.cpp: common/arg.cpp and tools/server (as llama-cpp-python 0.3.36 ships them)."""

from __future__ import annotations

from specplan.deployments.deployment import Deployment
from specplan.deployments.serving import Given, Method, Serving, SettingReader, Unsaid

_ORIGIN = "default of llama.cpp"
_METHODS: dict[str, Method] = {
    "none": "none", "draft-simple": "draft_model", "draft-eagle3": "eagle3", "draft-mtp": "mtp",
    "draft-dflash": "dflash", "draft-dspark": "dspark",
}  # fmt: skip
_DRAFTED, _NGRAM_DRAFTED, _NGRAM_COPIED = 3, 64, 48
#: Types of n-grams that copy as many tokens as an option of their own says.
_NGRAM_LENGTHS = {
    "ngram-simple": ("--spec-ngram-simple-size-m", _NGRAM_COPIED),
    "ngram-map-k": ("--spec-ngram-map-k-size-m", _NGRAM_COPIED),
    "ngram-map-k4v": ("--spec-ngram-map-k4v-size-m", _NGRAM_COPIED),
}
_SLOTS = 4


def llama_cpp_serving(deployment: Deployment) -> Serving:
    """Settings of ``llama-server`` or ``llama-cli``.

    Raises:
        CannotTell: a value that depends on a variable, or is none.
    """
    read = SettingReader(deployment, _ORIGIN)
    method = _method(read)
    tokens = _drafted(read, method)
    slots = read.integer("--parallel")
    automatic = slots is None or (not isinstance(slots, Unsaid) and slots.value < 0)
    fit = read.text("--fit")
    context = read.integer("--ctx-size")
    return Serving(
        "llama.cpp",
        "llama.cpp",
        deployment.engine_version,
        deployment.location,
        model=read.text("--model", "--hf-repo"),
        draft=read.text("--spec-draft-model", "--spec-draft-hf"),
        method=method,
        num_speculative_tokens=tokens,
        num_verify_tokens=1 + (tokens.value if tokens is not None else 0),
        context=context if isinstance(context, Unsaid) or (context is not None and context.value > 0) else None,
        max_sequences=read.default(_SLOTS) if automatic else slots,
        batch_tokens=read.integer("--ubatch-size") or read.default(512),
        dtype=read.default("float16"),
        kv_dtype=read.text("--cache-type-k") or read.default("f16"),
        values_dtype=read.text("--cache-type-v") or read.default("f16"),
        draft_kv_dtype=read.text("--spec-draft-type-k") or read.default("f16"),
        page_size=read.default(256),
        tensor_parallel=read.default(1),
        unified_kv=automatic or read.switch("--kv-unified"),
        partial_offload=_partial(read.text("--gpu-layers")),
        partial_draft_offload=_partial(read.text("--spec-draft-ngl")),
        fits_itself=fit is None or fit.value.lower() in ("on", "1", "true", "enabled"),
        revision=None,
    )


def _partial(layers: Given[str] | None) -> Given[str] | None:
    """A number of layers; what is not said, ``auto`` and ``all`` are all of them."""
    return layers if layers is None or isinstance(layers, Unsaid) or layers.value not in ("auto", "all") else None


def _method(read: SettingReader) -> Given[Method] | None:
    """``--spec-type``; a draft model alone turns nothing on."""
    named = read.text("--spec-type")
    if named is None:
        return None
    last = named.value.split(",")[-1].strip()
    method: Method = "ngram" if last.startswith("ngram") else _METHODS.get(last, "other")
    return None if method == "none" else Given(method, named.location, f"{named.origin} {named.value}")


def _drafted(read: SettingReader, method: Given[Method] | None) -> Given[int] | None:
    if method is None:
        return None
    if method.value == "ngram":
        option, default = _NGRAM_LENGTHS.get(
            method.origin.rpartition(" ")[2], ("--spec-ngram-mod-n-max", _NGRAM_DRAFTED)
        )
        return read.integer(option) or read.default(default)
    return read.integer("--spec-draft-n-max") or read.default(_DRAFTED)
