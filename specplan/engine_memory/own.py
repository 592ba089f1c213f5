"""specplan's own runtime: the ledger of the plan that the deployment would have."""

from __future__ import annotations

from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.dtypes import weight_format
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.drafters import DRAFTERS
from specplan.errors import SpecplanError
from specplan.heads import published_heads
from specplan.ledger import MemoryLedger
from specplan.plan import ModelInput
from specplan.provenance import Figure, weakest
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation
from specplan.workload import Workload

_CHUNK, _ROWS = 512, 64


def own_budget(serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec) -> EngineBudget:
    """A deployment of specplan on one device, prefilled in chunks of 512 tokens.

    Raises:
        CannotTell: a dtype or drafter that specplan does not plan.
    """
    try:
        ledger = _ledger(serving, target, draft, device)
    except SpecplanError as error:
        raise CannotTell(str(error), serving.location) from None
    caches = [item for item in ledger.items if item.name.endswith("kv_cache")]
    kv, draft_kv = sum(item.bytes for item in caches), sum(item.bytes for item in caches if item.owner != "target")
    total = int(device.memory_bytes.value)
    budget = serving.budget
    limit = Figure(total, device.memory_bytes.source, "the memory of the device")
    if budget is not None:
        limit = Figure(min(total, budget.value), "exact", "the budget" if budget.value < total else limit.reference)
    context = serving.context.value if serving.context is not None else target.arch.max_position_embeddings
    sequences = serving.max_sequences.value if serving.max_sequences is not None else 1
    slots = (context + serving.num_verify_tokens) * sequences
    static = _parts(ledger)
    return EngineBudget(
        device_bytes=total,
        static=static,
        limit=limit,
        pool=Figure(int(limit.value) - sum(part.bytes for part in static), "exact", "what the limit leaves"),
        least_kv_bytes=kv,
        slots=slots,
        slot_bytes=-(-kv // max(1, slots)),
        draft_slot_bytes=-(-draft_kv // max(1, slots)),
        priced_draft_slot_bytes=-(-draft_kv // max(1, slots)),
        verify=Figure(0, "exact", "in the arena"),
        headroom=0,
        num_sequences=sequences,
    )


def _parts(ledger: MemoryLedger) -> tuple[Part, ...]:
    """Resident items but the caches, largest first, and the workspace of the binding phase."""
    resident = [item for item in ledger.items if item.phase == "resident" and not item.name.endswith("kv_cache")]
    parts = [Part(item.name, Figure(item.bytes, item.source, item.formula_id)) for item in resident if item.bytes]
    phase = ledger.binding_phase
    source = weakest(*(item.source for item in ledger.items if item.phase == phase))
    parts.append(Part(f"workspace of {phase}", Figure(ledger.workspace_bytes, source, "the largest phase")))
    return tuple(sorted(parts, key=lambda part: -part.bytes))


def _ledger(serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec) -> MemoryLedger:
    from specplan.formulas.memory import MemoryModel  # late: sympy
    from specplan.planner.weights import draft_weights, target_weights

    target, dtype = target_weights(target, serving.dtype.value if serving.dtype is not None else "auto", device)
    draft_dtype = dtype
    if draft is not None:
        draft, draft_dtype = draft_weights(draft, "auto", target, dtype, device)
    method = serving.method.value if serving.method is not None else "none"
    if method != "none" and method not in DRAFTERS:
        raise CannotTell(f"drafter {method} is not one that specplan plans", serving.location)
    compute = weight_format(dtype, target.arch.stored).compute_dtype
    kv = serving.kv_dtype.value if serving.kv_dtype is not None else "auto"
    kv = compute if kv == "auto" else kv
    draft_kv = weight_format(draft_dtype, draft.arch.stored).compute_dtype if draft is not None else kv
    shape = Chain(serving.num_verify_tokens - 1)
    sequences = serving.max_sequences.value if serving.max_sequences is not None else 1
    context = serving.context.value if serving.context is not None else target.arch.max_position_embeddings
    scenario = Scenario(
        target.arch,
        draft.arch if draft is not None else None,
        device,
        Workload(context, sequences, dtype, kv, draft_dtype, draft_kv),
        Speculation(DRAFTERS.get(method, "none"), shape, 0, min(_CHUNK, context), _ROWS),
        published_heads(method, target.arch, shape, shares_head=False),
    )
    return MemoryModel(scenario).ledger()
