"""The items of a plan with ``forward: transformers``, where PyTorch allocates tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from specplan.arch import ModelArch
from specplan.device import DeviceSpec
from specplan.errors import UnsupportedError
from specplan.families import EAGER_FAMILIES
from specplan.formulas.bind import Value
from specplan.formulas.term import Knobs, Term, device_terms, host_terms, term
from specplan.formulas.transformers_families import FORWARDS, forward_id
from specplan.formulas.transformers_forward import LATENT_ROWS_FROM, check_head_dim, forward_flags, release_of
from specplan.formulas.values import arch_values, precision_values, slot_values
from specplan.ledger import Phase
from specplan.provenance import Source
from specplan.scenario import Scenario


def transformers_terms(scenario: Scenario, knobs: Knobs) -> Iterator[Term]:
    """All items in order of presentation.

    Raises:
        UnsupportedError: a device, drafter, dtype or model whose allocations have no closed form.
    """
    _refuse(scenario)
    resident, phases = tuple(_resident_terms(scenario, knobs)), tuple(_phase_terms(scenario, knobs))
    yield from resident
    yield from phases
    if scenario.device.kind == "cpu":
        yield from host_terms(scenario)
        return
    yield from device_terms(scenario)
    forwards = [item.bytes for item in phases if item.name.endswith(".forward")]
    largest = forwards[0]
    for forward in forwards[1:]:
        largest = np.maximum(largest, forward)
    sampling = phases[-1].bytes  # the same in every phase
    block: dict[str, Value] = {"N": sum((item.bytes for item in resident), start=sampling)}
    yield term("allocator_rounding", "system", "resident", "allocator_rounding", block, "published")
    yield term("allocator_slack", "system", "resident", "allocator_slack", {"N": largest}, "modelled")


def _resident_terms(scenario: Scenario, knobs: Knobs) -> Iterator[Term]:
    """Models, caches and draft probabilities."""
    yield from _model_terms(scenario, knobs, "target")
    if scenario.draft is not None:
        yield from _model_terms(scenario, knobs, "draft")
        probs: dict[str, Value] = {
            "B": scenario.workload.batch_size,
            "gamma": knobs.gamma,
            "V": scenario.draft.vocab_size,
        }
        yield term("draft_probs", "drafter", "resident", "draft_probs", probs)


def _phase_terms(scenario: Scenario, knobs: Knobs) -> Iterator[Term]:
    """What each phase's forward allocates, and the buffers that all phases share."""
    sampling = _sampling(scenario, knobs)
    for phase, values in _passes(scenario, knobs):
        owner = scenario.draft if "draft" in phase and scenario.draft is not None else scenario.target
        source = forward_source(owner, scenario.device)
        forward = term(f"{phase}.forward", "runtime", phase, forward_id(owner.model_type), values, source)
        yield forward
        yield term(f"{phase}.sampling", "runtime", phase, "sampling", sampling)


def forward_source(arch: ModelArch, device: DeviceSpec) -> Source:
    """Exact where a family's form was traced with a GPU's kernels."""
    return "exact" if arch.model_type in FORWARDS and device.kind == "cuda" else "modelled"


def _sampling(scenario: Scenario, knobs: Knobs) -> dict[str, Value]:
    """Buffers that all phases share: of the larger vocabulary, and the largest tile of logits."""
    archs = [arch for arch in (scenario.target, scenario.draft) if arch is not None]
    rows = scenario.workload.batch_size * (knobs.gamma + 1)
    return {"V": max(arch.vocab_size for arch in archs), "R": _tile(knobs, rows)}


def _tile(knobs: Knobs, rows: Value) -> Value:
    """Rows of logits at one time: places are kept for two at least."""
    return np.maximum(2, np.minimum(knobs.logits_rows, rows))


def _refuse(scenario: Scenario) -> None:
    device, speculation, workload = scenario.device, scenario.speculation, scenario.workload
    if device.kind not in ("cuda", "cpu"):
        raise UnsupportedError(
            f"--forward transformers: its workspace is known on CUDA devices and CPUs, not on {device.name}"
        )
    if speculation.drafter not in ("none", "ngram", "draft_model"):
        raise UnsupportedError(f"--forward transformers: has no drafter {speculation.drafter}")
    if speculation.draft_context or speculation.draft_device != "device":
        raise UnsupportedError("--forward transformers: its draft sees the whole context, beside the target")
    for dtype, kv_dtype in ((workload.dtype, workload.kv_dtype), (workload.draft_dtype, workload.draft_kv_dtype)):
        if kv_dtype != dtype:
            raise UnsupportedError(f"--forward transformers: weights {dtype} with a {kv_dtype} cache are not supported")


def _model_terms(scenario: Scenario, knobs: Knobs, owner: Literal["target", "draft"]) -> Iterator[Term]:
    values = _values(scenario, knobs, owner)
    yield term(f"{owner}.weights", owner, "resident", "weights", values)
    yield term(f"{owner}.kv_cache", owner, "resident", "kv_cache", values)
    yield term(f"{owner}.buffers", owner, "resident", "rope_buffers", values)


def _values(scenario: Scenario, knobs: Knobs, owner: Literal["target", "draft"]) -> dict[str, Value]:
    """Symbols of one model; its cache keeps every token in every layer.

    Raises:
        UnsupportedError: layers that keep a state: it cannot take rejected tokens back.
    """
    workload = scenario.workload
    if owner == "target":
        arch, slots = scenario.target, workload.context + knobs.gamma + 1
        precision = precision_values(workload.dtype, workload.kv_dtype, arch.stored)
    else:
        assert scenario.draft is not None
        arch, slots = scenario.draft, workload.context + knobs.gamma
        precision = precision_values(workload.draft_dtype, workload.draft_kv_dtype, arch.stored)
    if not set(arch.layer_types) <= {"full_attention", "sliding_attention", "latent_attention"}:
        raise UnsupportedError(
            f"--forward transformers: layers of {arch.model_type} keep a state, which cannot take rejected tokens back"
        )
    kinds = len(set(arch.layer_types))
    everywhere = slot_values(arch, slots, slots) | {"L_w": 0, "S_w": 1, "S_x": slots, "x_f": 1, "x_w": 0}
    forward: dict[str, Value] = {"n_m": kinds, "n_o": kinds if arch.local_rope_theta is not None else 1}
    forward["f_t"] = int(arch.embedding_multiplier != 1.0)
    return arch_values(arch) | precision | everywhere | forward | {"B": workload.batch_size, "C": workload.context}


def _passes(scenario: Scenario, knobs: Knobs) -> Iterator[tuple[Phase, dict[str, Value]]]:
    """Phase, and T rows of b sequences with R rows of logits."""
    batch = scenario.workload.batch_size
    chunk = np.minimum(knobs.prefill_chunk, scenario.workload.context)
    target = _values(scenario, knobs, "target")
    yield "prefill_target", _shaped(scenario, scenario.target, target, chunk, 1, 1)
    if scenario.draft is not None:
        draft = _values(scenario, knobs, "draft")
        yield "prefill_draft", _shaped(scenario, scenario.draft, draft, chunk, 1, 1)
        drafted = _shaped(scenario, scenario.draft, draft, 2 * batch, batch, np.minimum(knobs.logits_rows, batch))
        yield "draft", drafted | {"f_c": int(batch > 1)}  # of each sequence's two rows one needs logits
    rows = batch * (knobs.gamma + 1)
    yield "verify", _shaped(scenario, scenario.target, target, rows, batch, np.minimum(knobs.logits_rows, rows))


def _shaped(
    scenario: Scenario, arch: ModelArch, values: dict[str, Value], rows: Value, batch: int, logits: Value
) -> dict[str, Value]:
    assert scenario.transformers_version is not None
    shaped = values | {"T": rows, "b": batch, "R": logits, "f_c": 0}
    on_host = scenario.device.kind == "cpu"
    if not on_host:
        width = arch.head_dim if arch.latent is None else arch.latent.qk_nope_head_dim + arch.head_dim
        check_head_dim(width, int(shaped["s"]))
    if arch.latent is not None and release_of(scenario.transformers_version) < LATENT_ROWS_FROM:
        least = ".".join(map(str, LATENT_ROWS_FROM))
        raise UnsupportedError(f"--forward transformers: latent attention needs transformers {least} or later")
    whole = arch.model_type in EAGER_FAMILIES or (on_host and arch.latent is not None)
    return shaped | forward_flags(scenario.transformers_version, shaped) | {"f_e": int(whole)}
