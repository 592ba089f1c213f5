"""transformers 5: caches grow by concatenation, prompts are prefilled in one pass, drafts of one sequence at a time."""

from __future__ import annotations

from specplan.arch import ModelArch
from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.kv import Cache
from specplan.engine_memory.models import Models
from specplan.engine_memory.weights import activation_bytes
from specplan.engine_memory.whole_device import whole_device_budget
from specplan.provenance import Figure

_FLOAT = 4


def transformers_budget(serving: Serving, models: Models, device: DeviceSpec) -> EngineBudget:
    """A script that generates one sequence of full length on one device.

    Raises:
        CannotTell: more than one sequence, which assisted generation refuses.
    """
    context = models.context
    if serving.max_sequences is not None and serving.max_sequences.value != 1:
        raise CannotTell("assisted generation is for one sequence", serving.location)
    static = (*models.weight_parts, Part("CUDA context", device.context_bytes), *_workspace(serving, models))
    kv_bytes = sum(cache.sequence_bytes(context, context) for _, cache in _caches(models))
    return whole_device_budget(
        models, device, static,
        least_kv_bytes=kv_bytes, slots=context, verify_is="among the workspace", num_sequences=1,
    )  # fmt: skip


def _workspace(serving: Serving, models: Models) -> tuple[Part, ...]:
    """The largest pass, the layer that is being concatenated, and logits of the verify rows with a copy in float32."""
    rows = serving.num_verify_tokens
    passes = [activation_bytes(arch, models.context, models.element_bytes, 1).value for arch, _ in _caches(models)]
    grown = [
        cache.sequence_bytes(models.context, models.context) // arch.num_hidden_layers
        for arch, cache in _caches(models)
    ]
    logits = models.logits_bytes(rows, models.element_bytes + _FLOAT)
    return (
        Part("largest pass", Figure(max(passes), "modelled", f"a prompt of {models.context} tokens in one pass")),
        Part("concatenation", Figure(max(grown), "modelled", "keys and values of a layer, old and new")),
        Part("logits", Figure(logits, "modelled", f"{rows} rows, and in float32")),
    )


def _caches(models: Models) -> list[tuple[ModelArch, Cache]]:
    """Both models; layers with a window are cached in full length too, which is the most that they take."""
    pairs = [(models.arch, models.cache)]
    if models.drafter.arch is not None and models.draft_cache is not None:
        pairs.append((models.drafter.arch, models.draft_cache))
    return pairs
