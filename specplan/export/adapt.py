"""What an engine cannot do is refused with the reason, or replaced by the nearest thing that it can."""

from __future__ import annotations

import dataclasses

from specplan.dtypes import FLOAT_BYTES, STORED, weight_format
from specplan.errors import UnsupportedError
from specplan.export.devices import draft_share, equal_devices, stage_layers, staged_drafts
from specplan.export.limits import Limits
from specplan.export.obstacle import Obstacle, Step, ngrams_instead
from specplan.export.request import Request
from specplan.speculation import Chain, Tree

#: The option of engines for a cache in the dtype of the model.
AUTO = "auto"


def adapted(request: Request, limits: Limits, nearest: bool) -> tuple[Request, tuple[str, ...]]:
    """The request as the engine can take it, formats of caches in its own words, and what was replaced.

    Raises:
        UnsupportedError: something that it cannot do, and ``nearest`` is false or nothing comes near.
    """
    replaced = []
    for step in _STEPS:
        obstacle = step(request, limits)
        if obstacle is None:
            continue
        if obstacle.instead is None:
            raise UnsupportedError(obstacle.reason)
        if not nearest:
            raise UnsupportedError(f"{obstacle.reason}; --nearest takes {obstacle.nearest} instead")
        replaced.append(f"{obstacle.reason}: {obstacle.nearest} instead")
        request = obstacle.instead
    return _with_kv_options(request, limits), tuple(replaced)


def _device(request: Request, limits: Limits) -> Obstacle | None:
    if request.device.kind in limits.devices:
        return None
    kinds = ", ".join(limits.devices)
    return Obstacle(f"{limits.title} is modelled on {kinds} devices, the plan is for {request.device.name}")


def _weights(request: Request, limits: Limits) -> Obstacle | None:
    """Formats of files and of weights."""
    named = (("target", request.target, request.workload.dtype), ("draft", request.draft, request.workload.draft_dtype))
    for role, model, dtype in named:
        if model is None:
            continue
        if model.kind == "gguf" and not limits.reads_gguf:
            return Obstacle(
                f"{limits.title}: memory of GGUF files is not modelled there: the {role} is {model.reference}"
            )
        if limits.reads_gguf and model.kind != "gguf" and dtype not in FLOAT_BYTES:
            stored = model.arch.stored.name if model.arch.stored is not None else dtype
            return Obstacle(
                f"{limits.title} reads GGUF files, the {role} is stored as {stored}: make a plan of its file"
            )
        if model.kind == "gguf" or dtype in (*FLOAT_BYTES, STORED):
            continue
        if model.arch.stored is None or model.kind == "profile" or model.arch.stored.name != dtype:
            option = "--model" if role == "target" else "--draft"
            return Obstacle(f"{limits.title} has no {dtype} weights of a plain {role}: name a checkpoint with {option}")
    return None


def _draft_dtype(request: Request, limits: Limits) -> Obstacle | None:
    workload = request.workload
    floats = workload.dtype in FLOAT_BYTES and workload.draft_dtype in FLOAT_BYTES
    if request.draft is None or limits.reads_gguf or not floats or workload.dtype == workload.draft_dtype:
        return None
    return Obstacle(
        f"{limits.title} loads the draft in the target's dtype, the plan has it in {workload.draft_dtype}",
        _with_workload(request, draft_dtype=workload.dtype),
        workload.dtype,
    )


def _draft_place(request: Request, limits: Limits) -> Obstacle | None:
    if request.draft_device == "host":
        reason = f"{limits.title}: a draft in the host's memory is not modelled there"
        return Obstacle(reason, dataclasses.replace(request, draft_device="device"), "the device's memory")
    if request.draft_context:
        reason = f"{limits.title}: a draft that sees {request.draft_context} tokens only is not modelled there"
        return Obstacle(reason, dataclasses.replace(request, draft_context=0), "the whole context")
    return None


def _drafter(request: Request, limits: Limits) -> Obstacle | None:
    drafter = request.drafter
    if drafter == "none" and limits.only_speculates:
        return Obstacle(f"the plan decodes plainly: {limits.title} needs nothing from it")
    if drafter not in limits.drafters:
        return ngrams_instead(request, f"{limits.title} has no {drafter} drafter")
    if drafter == "eagle3" and request.draft_name is None:
        return Obstacle("the plan knows the size of an EAGLE-3 head, not its checkpoint: name it with --draft")
    return None


def _shape(request: Request, limits: Limits) -> Obstacle | None:
    tree = request.shape
    if not isinstance(tree, Tree):
        return None
    # both engines keep the best topk of what the best topk paths go on with
    most = tree.topk + (tree.depth - 1) * tree.topk**2 if request.drafter in limits.trees else 0
    if tree.num_draft_nodes <= most:
        return None
    chain = Chain(tree.depth)
    has = f"at most {most} nodes of {tree.topk} branches" if most else f"no trees with {request.drafter}"
    reason = f"{limits.title} drafts {has}, the plan has a tree of {tree.num_draft_nodes}"
    return Obstacle(reason, dataclasses.replace(request, shape=chain), f"a chain of {chain.num_speculative_tokens}")


def _vocabularies(request: Request, limits: Limits) -> Obstacle | None:
    if request.draft is None or limits.maps_vocabularies:
        return None
    sizes = request.target.arch.vocab_size, request.draft.arch.vocab_size
    if abs(sizes[0] - sizes[1]) <= limits.vocab_tolerance:
        return None
    allowed = f"at most {limits.vocab_tolerance} apart" if limits.vocab_tolerance else "of one size"
    return ngrams_instead(
        request, f"{limits.title} wants vocabularies {allowed}, these have {sizes[0]} and {sizes[1]} entries"
    )


def _mapped(request: Request, limits: Limits) -> Obstacle | None:
    """vLLM: what has to be asked for is no silent default."""
    if request.draft is None or not limits.maps_vocabularies:
        return None
    sizes = request.target.arch.vocab_size, request.draft.arch.vocab_size
    if sizes[0] == sizes[1]:
        return None
    reason = f"{limits.title} wants vocabularies of one size, these have {sizes[0]} and {sizes[1]} entries"
    return Obstacle(reason, request, "drafts of the tokens that both have (use_heterogeneous_vocab)")


def _batch(request: Request, limits: Limits) -> Obstacle | None:
    batch = request.workload.batch_size
    if limits.max_batch is None or batch <= limits.max_batch or request.drafter == "none":
        return None
    reason = f"{limits.title} speculates for {limits.max_batch} sequence at a time, the plan for {batch}"
    return Obstacle(reason, _with_workload(request, batch_size=limits.max_batch), f"batch {limits.max_batch}")


def _kv(request: Request, limits: Limits) -> Obstacle | None:
    workload = request.workload
    if _kv_option(request, limits, workload.kv_dtype) is not None:
        return None
    option = limits.nearest_kv.get(workload.kv_dtype)
    reason = f"{limits.title} has no {workload.kv_dtype} cache as the plan has it"
    # nearest: the engine's own word, which _kv_option passes through
    return Obstacle(reason, _with_workload(request, kv_dtype=option or AUTO), option or "the dtype of the model")


def _draft_kv(request: Request, limits: Limits) -> Obstacle | None:
    workload = request.workload
    if request.draft is None:
        return None
    option, target = (
        _kv_option(request, limits, workload.draft_kv_dtype),
        _kv_option(request, limits, workload.kv_dtype),
    )
    if option is not None and (limits.own_draft_kv or option == target):
        return None
    instead = limits.nearest_kv.get(workload.draft_kv_dtype) if limits.own_draft_kv else target
    reason = f"{limits.title} has no {workload.draft_kv_dtype} cache of the draft"
    reason += "" if limits.own_draft_kv else f" beside one of the target in {workload.kv_dtype}"
    return Obstacle(
        reason, _with_workload(request, draft_kv_dtype=instead or AUTO), instead or "the dtype of the model"
    )


def _kv_option(request: Request, limits: Limits, name: str) -> str | None:
    """The engine's option for a format; its own words are left as they are."""
    if name == AUTO or name in limits.nearest_kv.values():
        return name
    workload = request.workload
    compute = weight_format(workload.dtype, request.target.arch.stored).compute_dtype
    if name == compute and not limits.reads_gguf:
        return AUTO
    return limits.kv_options.get(name)


def _with_kv_options(request: Request, limits: Limits) -> Request:
    workload = request.workload
    target = _kv_option(request, limits, workload.kv_dtype)
    draft = _kv_option(request, limits, workload.draft_kv_dtype) if request.draft is not None else target
    return _with_workload(request, kv_dtype=target or AUTO, draft_kv_dtype=draft or AUTO)


def _with_workload(request: Request, **changes: str | int) -> Request:
    return dataclasses.replace(request, workload=dataclasses.replace(request.workload, **changes))  # type: ignore[arg-type]


_STEPS: tuple[Step, ...] = (
    _device, equal_devices, staged_drafts, stage_layers, _weights, _drafter, draft_share, _vocabularies, _mapped,
    _shape, _draft_dtype, _draft_place, _batch, _kv, _draft_kv,
)  # fmt: skip
