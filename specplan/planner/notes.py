"""What a reader of an answer should know besides the figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from specplan.dtypes import FLOAT_BYTES, RUNTIME_FORMATS, STORED, WeightFormat, weight_format
from specplan.families import FAMILIES, runnable, transformers_runnable
from specplan.formulas.memory import MemoryModel
from specplan.formulas.reconstruction import kernels
from specplan.formulas.transformers_terms import forward_source
from specplan.models.safetensors_header import safetensors_files
from specplan.plan import ModelInput, PlanInputs
from specplan.planner.acceptance import CACHE_AGREEMENT
from specplan.planner.question import Question
from specplan.planner.variants import Variant, scenario_of
from specplan.speculation import HEAD_DRAFTERS
from specplan.speed.acceptance import ASSUMED_ALPHA
from specplan.units import counted, format_bytes

#: Drafters whose heads the runtime loads.
_LOADED_HEADS = ("medusa", "eagle3")
#: Types of GGUF tensors whose 4-bit values the runtime keeps in int4.
KEPT_IN_INT4 = frozenset(("ggml-q4_0", "ggml-q4_1", "ggml-q4_k"))


def notes(question: Question, variant: Variant | None = None) -> tuple[str, ...]:
    """What a reader should know besides the figures.

    Args:
        question: what was asked.
        variant: what was chosen, None before a choice.
    """
    found = []
    context = question.workload.context
    if question.assumed_lengths:
        workload = question.workload
        found.append(
            f"assumed: a conversation of {counted(workload.num_turns, 'turn')} in which {workload.prompt_tokens} of "
            f"the {counted(context, 'token')} are given; say --turns, --prompt-tokens, --new-tokens"
        )
    if variant is not None:
        found += [*_rate_notes(question, variant), *_variant_notes(question, variant)]
    for role, model in (("target", question.inputs.target), ("draft", question.inputs.draft)):
        if model is None:
            continue
        if model.kind == "folder" and not safetensors_files(Path(model.reference)):
            found.append(f"the {role}'s folder has a config and no weights: only the config was read")
        trained = model.arch.max_position_embeddings
        if context > trained:
            found.append(f"context {context} is beyond the {trained} tokens that the {role} was trained for")
        found += _forward_notes(model, question.inputs)
        found += _weight_notes(role, model, weight_format(question.dtype_of(model), model.arch.stored), question)
    found += _card_notes(question)
    found += _head_notes(question)
    return tuple(dict.fromkeys(found))


def _head_notes(question: Question) -> list[str]:
    """Heads that the runtime does not load."""
    found = []
    if any(drafter in _LOADED_HEADS for drafter in question.drafters) and question.inputs.head_files is None:
        found.append("no heads to load without --heads: a plan for reading")
    if any(drafter in HEAD_DRAFTERS and drafter not in _LOADED_HEADS for drafter in question.drafters):
        found.append(f"the runtime loads heads of {' and '.join(_LOADED_HEADS)} only: a plan for reading")
    return found


def _forward_notes(model: ModelInput, inputs: PlanInputs) -> list[str]:
    """Who computes a model, where it is not the runtime's own forward."""
    arch, version = model.arch, inputs.transformers_version
    scaling = arch.rope_scaling
    of = f" with {scaling.rope_type} rope" if scaling and FAMILIES[arch.model_type].runnable else ""
    if version is None:
        if runnable(arch):
            return []
        return [
            f"the runtime's own forward does not run {arch.model_type}{of}: a plan for reading, its workspace modelled"
        ]
    if not transformers_runnable(arch):
        return [f"{arch.model_type}{of}, whose frequencies change with the longest sequence: a plan for reading"]
    how = "to the byte" if forward_source(arch, inputs.device) == "exact" else "as a bound: modelled"
    return [f"workspace of the forward of transformers {version}, which runs {arch.model_type}; planned {how}"]


def _card_notes(question: Question) -> list[str]:
    """What several devices are taken to be."""
    if not question.cards:
        return []
    found = ["all devices are taken to be on one node"]
    smallest = question.inputs.budget_bytes
    if any(card.budget_bytes != smallest for card in question.cards):
        found.append(
            "budgets and bytes against speed are those of the smallest card, the others having as much more as they do"
        )
    if question.inputs.device.kind == "cpu":
        found.append(f"the {len(question.cards)} processes share the host's memory, bandwidth and cores evenly")
    return found


def _rate_notes(question: Question, variant: Variant | None) -> list[str]:
    """Drafters whose acceptance nobody gave and nobody measured for these models."""
    assumed = []
    for drafter in question.drafters:
        known = drafter == "none" or question.alpha_of(drafter) is not None
        layers = variant.num_exit_layers if variant is not None and variant.drafter == drafter else 0
        found = (profile for profile in question.profiles if profile.drafter == drafter)
        if known or any(layers in (0, profile.num_exit_layers) for profile in found):
            continue
        rate = "by layer" if drafter == "early_exit" else f"{ASSUMED_ALPHA[drafter].value:g}"
        assumed.append(f"{drafter} {rate}")
    better = "--alpha or --acceptance says better, specplan calibrate measures"
    return [f"assumed: how often drafts are accepted ({', '.join(assumed)}); {better}"] if assumed else []


def _variant_notes(question: Question, variant: Variant) -> list[str]:
    """What was chosen that a reader may not expect."""
    found = []
    given, chosen = question.workload, variant.workload
    if chosen.dtype != given.dtype:
        found.append(f"weights in {chosen.dtype} instead of {given.dtype} change the output: allowed by --allow")
    if chosen.kv_dtype != given.kv_dtype and chosen.kv_dtype not in FLOAT_BYTES:
        agrees = f"{100 * CACHE_AGREEMENT[chosen.kv_dtype]:.0f} % of the tokens of SmolLM2-135M stayed the same"
        found.append(f"a KV cache in {chosen.kv_dtype} changes the output: allowed by --allow; {agrees}")
    if variant.drafter != "draft_model":
        return found
    if chosen.draft_kv_dtype != given.draft_kv_dtype:
        found.append(f"the draft's cache is in {chosen.draft_kv_dtype}: how often it is then right is assumed")
    if variant.draft_context:
        found.append(
            f"the draft sees the last {counted(variant.draft_context, 'token')}: how often it is then right is assumed"
        )
    if variant.draft_device == "host":
        taken = format_bytes(_host_bytes(question, variant))
        found.append(
            f"the draft takes {taken} of the host's memory; the runtime does not place drafts there yet: "
            "a plan for reading"
        )
    return found


def _host_bytes(question: Question, variant: Variant) -> int:
    """What a draft on the host takes there: weights, cache and constants."""
    beside = dataclasses.replace(variant, draft_device="device")
    items = MemoryModel(scenario_of(question, beside)).ledger().items
    return sum(item.bytes for item in items if item.owner == "draft")


def _weight_notes(role: str, model: ModelInput, weights: WeightFormat, question: Question) -> list[str]:
    """How quantized weights are held, and by which kernels a plan takes them to be multiplied."""
    stored = model.arch.stored
    if weights.name == "int4":
        return [_int4_note(role, model)]
    if weights.stored is None:
        if stored is None or model.kind == "gguf":
            return []
        return [f"the {role} is stored as {stored.name} and dequantized at load, which the runtime does not do"]
    kind = question.inputs.device.kind
    named = ", ".join(f"{rule.name} ({rule.reference})" for rule in kernels(weights, kind))
    how = f"as stored, {weights.stored.name}" if weights.name == STORED else f"as {weights.name}"
    return [f"the runtime has no kernel for the {role} {how}: a plan for reading; kernels assumed: {named}"]


def _int4_note(role: str, model: ModelInput) -> str:
    """What 4 bits cost, and which matrices of a GGUF file had no more before."""
    note = f"the {role}'s layers are held in int4, its output head in int8: this changes the output"
    if model.arch.stored is None:
        return note
    counts = [(form.name, n) for form, kind, n in model.arch.stored.counts() if kind not in ("embedding", "head")]
    kept = sum(n for name, n in counts if name in KEPT_IN_INT4)
    return f"{note}; {kept} of {sum(n for _, n in counts)} matrices of layers keep the file's 4-bit values"


def runtime_loads(model: ModelInput, dtype: str) -> bool:
    """Whether our own runtime reads this model's files and has kernels for the dtype."""
    return dtype in RUNTIME_FORMATS and (model.arch.stored is None or model.kind == "gguf")
