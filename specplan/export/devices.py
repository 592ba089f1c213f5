"""What an engine cannot do with several devices."""

from __future__ import annotations

import dataclasses

from specplan.engine_memory.stages import pipeline_stages
from specplan.export.limits import Limits
from specplan.export.obstacle import Obstacle, drafting, ngrams_instead
from specplan.export.request import Request
from specplan.speculation import Chain


def equal_devices(request: Request, limits: Limits) -> Obstacle | None:
    """Several of them, which are all alike."""
    if request.num_devices > 1 and not limits.shares_models:
        return Obstacle(f"{limits.title}: a model over {request.num_devices} devices is not modelled there")
    if len(request.device_names) > 1:
        names = ", ".join(request.device_names)
        return Obstacle(f"{limits.title} takes its devices to be equal, the plan is for {names}")
    return None


def staged_drafts(request: Request, limits: Limits) -> Obstacle | None:
    """Drafts over stages."""
    if request.num_stages == 1 or request.drafter == "none":
        return None
    reason = f"{limits.title} does not speculate over {request.num_stages} stages: {limits.plain_stages}"
    return Obstacle(reason, drafting(request, "none", Chain(0)), "plain decoding")


def stage_layers(request: Request, limits: Limits) -> Obstacle | None:
    """Layers of each stage are the engine's own choice."""
    given = request.parallelism
    if given is None or given.num_stages == 1:
        return None
    layers = request.target.arch.num_hidden_layers
    own = tuple(stage.num_layers for stage in pipeline_stages(limits.engine, layers, given.num_stages))
    if own == given.stage_layers:
        return None
    planned, instead = (" + ".join(map(str, counts)) for counts in (given.stage_layers, own))
    reason = f"{limits.title} has no option for stages of {planned} layers"
    changed = dataclasses.replace(request, parallelism=dataclasses.replace(given, stage_layers=own))
    return Obstacle(reason, changed, instead)


def draft_share(request: Request, limits: Limits) -> Obstacle | None:
    """The draft is shared over the devices that share the target."""
    given, parts = request.parallelism, request.tensor_parallel
    if given is None or request.draft is None or parts == 1:
        return None
    heads = request.draft.arch.num_attention_heads
    if heads % parts:
        return ngrams_instead(request, f"{limits.title} shares the draft over {parts} devices, it has {heads} heads")
    if given.draft_placement == "split":
        return None
    where = f"whole on rank {given.draft_rank}" if given.draft_placement == "rank" else "whole on each"
    shared = dataclasses.replace(request, parallelism=dataclasses.replace(given, draft_placement="split"))
    return Obstacle(f"{limits.title} shares the draft over {parts} devices, the plan has it {where}", shared, "shared")
