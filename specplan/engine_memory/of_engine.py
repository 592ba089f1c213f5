"""Which arithmetic belongs to an engine, and which of its devices has the least room."""

from __future__ import annotations

import dataclasses

from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget
from specplan.engine_memory.drafters import WEIGHTLESS
from specplan.engine_memory.llama_cpp import llama_cpp_budget
from specplan.engine_memory.models import models_of
from specplan.engine_memory.own import own_budget
from specplan.engine_memory.sglang import sglang_budget
from specplan.engine_memory.stages import Stage, pipeline_stages, whole
from specplan.engine_memory.tensorrt_llm import tensorrt_llm_budget
from specplan.engine_memory.transformers import transformers_budget
from specplan.engine_memory.vllm import vllm_budget
from specplan.plan import ModelInput


def engine_budget(
    serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec, offline: bool = False
) -> EngineBudget:
    """Memory of a deployment on the device that needs most; layers in a row are spread as the engine does.

    As ``stage_budgets``.
    """
    return fullest(stage_budgets(serving, target, draft, device, offline))


def fullest(stages: tuple[EngineBudget, ...]) -> EngineBudget:
    """The budget of the stage that needs most, with the verify pass of the last one, where the head is."""
    most = max(stages, key=lambda budget: budget.needed_bytes)
    return dataclasses.replace(most, verify=stages[-1].verify)


def stage_budgets(
    serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec, offline: bool = False
) -> tuple[EngineBudget, ...]:
    """Memory of a deployment on one device of every stage, in order; there is one where layers are not spread.

    Args:
        serving: as read.
        target: its model.
        draft: its draft model, None for other drafters.
        device: one of its devices.
        offline: ``LLM(…)`` instead of a server.

    Raises:
        CannotTell: something that sizes memory is not known.
    """
    if serving.engine == "specplan":
        return (own_budget(serving, target, draft, device),)
    if serving.engine == "llama.cpp":
        return (llama_cpp_budget(serving, target, draft, device),)
    return tuple(
        _stage_budget(serving, target, draft, device, stage, offline)
        for stage in _stages(serving, target.arch.num_hidden_layers)
    )


def _stages(serving: Serving, layers: int) -> tuple[Stage, ...]:
    pipeline = serving.pipeline_parallel
    if pipeline is None or pipeline.value <= 1:
        return (whole(layers),)
    if pipeline.value > layers:
        raise CannotTell(f"{pipeline.origin} {pipeline.value}: the model has {layers} layers", pipeline.location)
    drafts = serving.method is not None and serving.method.value not in WEIGHTLESS
    if drafts and serving.engine != "vllm":
        raise CannotTell(
            f"on which of the {pipeline.value} devices in a row {serving.title} holds a drafter is not known to "
            f"specplan: check without {pipeline.origin}, or without the drafter",
            pipeline.location,
        )
    return pipeline_stages(serving.engine, layers, pipeline.value)


def _stage_budget(
    serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec, stage: Stage, offline: bool
) -> EngineBudget:
    models = models_of(serving, target, draft, device, stage, drafts=stage.head)
    if serving.engine == "vllm":
        return vllm_budget(serving, models, device, offline)
    if serving.engine == "sglang":
        return sglang_budget(serving, models, device)
    if serving.engine == "transformers":
        return transformers_budget(serving, models, device)
    return tensorrt_llm_budget(serving, models, device)
