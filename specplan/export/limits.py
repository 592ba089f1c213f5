"""``Limits``: what an engine can take from a plan, as read in its released source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from specplan.device import DeviceKind
from specplan.speculation import Drafter

Target = Literal["vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers"]

#: Drafters that every engine has.
_ALWAYS: tuple[Drafter, ...] = ("none", "ngram", "draft_model")


@dataclass(frozen=True, slots=True)
class Limits:
    """An engine.

    Attributes:
        engine, title: its name for programs and for people.
        drafters: that it has.
        trees: drafters that it drafts trees with.
        devices: kinds of devices that it is built for.
        reads_gguf: it loads GGUF files, and nothing else.
        max_batch: sequences that it speculates for at once; None for any number.
        vocab_tolerance: entries by which the vocabularies of target and draft may differ.
        maps_vocabularies: vocabularies that differ can be mapped onto each other, if asked for.
        kv_options: its option by the format of a cache; what is not here it does not have.
        nearest_kv: its option that comes nearest, for formats that it does not have.
        only_speculates: it has no server that would be sized.
        own_draft_kv: the draft's cache may have a format of its own.
        shares_models: over several devices, by options of its own.
        plain_stages: why it decodes plainly where layers are spread over stages.
    """

    engine: Target
    title: str
    drafters: tuple[Drafter, ...]
    trees: tuple[Drafter, ...] = ()
    devices: tuple[DeviceKind, ...] = ("cuda",)
    reads_gguf: bool = False
    max_batch: int | None = None
    vocab_tolerance: int = 0
    maps_vocabularies: bool = False
    kv_options: dict[str, str] = field(default_factory=dict)
    nearest_kv: dict[str, str] = field(default_factory=dict)
    own_draft_kv: bool = True
    only_speculates: bool = False
    shares_models: bool = False
    plain_stages: str = ""


_FLOATS = {"bfloat16": "bfloat16", "float16": "float16"}
LIMITS: dict[Target, Limits] = {
    "vllm": Limits(
        "vllm",
        "vLLM",
        (*_ALWAYS, "eagle3", "mtp"),
        devices=("cuda", "rocm"),
        maps_vocabularies=True,
        kv_options={**_FLOATS, "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"},
        nearest_kv={"int8": "int8_per_token_head", "int4": "int4_per_token_head"},
        shares_models=True,
        plain_stages="what the last stage accepts does not reach the first reliably (its issues 49355 and 57755)",
    ),
    "sglang": Limits(
        "sglang",
        "SGLang",
        (*_ALWAYS, "eagle3", "mtp"),
        trees=("eagle3", "mtp"),
        devices=("cuda", "rocm"),
        kv_options={"bfloat16": "bfloat16", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"},
        nearest_kv={"int8": "fp8_e4m3", "int4": "fp8_e4m3"},
        shares_models=True,
        plain_stages="it takes EAGLE only there, behind an experimental switch",
    ),
    "llama.cpp": Limits(
        "llama.cpp",
        "llama.cpp",
        (*_ALWAYS, "eagle3", "mtp"),
        devices=("cuda", "rocm", "mps"),
        reads_gguf=True,
        vocab_tolerance=128,
        kv_options={"float32": "f32", "float16": "f16", "bfloat16": "bf16"},
        nearest_kv={"int8": "q8_0", "fp8_e4m3": "q8_0", "fp8_e5m2": "q8_0", "int4": "q4_0"},
    ),
    "tensorrt-llm": Limits(
        "tensorrt-llm",
        "TensorRT-LLM",
        (*_ALWAYS, "eagle3", "mtp"),
        trees=("eagle3", "mtp"),
        kv_options={"fp8_e4m3": "fp8"},
        nearest_kv={"int8": "fp8", "int4": "fp8", "fp8_e5m2": "fp8"},
        own_draft_kv=False,
        shares_models=True,
        plain_stages="which device holds a drafter is not known",
    ),
    "transformers": Limits(
        "transformers",
        "transformers",
        _ALWAYS,
        devices=("cuda", "rocm", "mps", "cpu"),
        max_batch=1,
        vocab_tolerance=128,
        own_draft_kv=False,
        only_speculates=True,
    ),
}
ENGINES: tuple[Target, ...] = tuple(LIMITS)
