"""llama.cpp: everything is placed while loading: weights, all cells of both caches, compute buffers."""

from __future__ import annotations

from specplan.caches.kv_pages import llama_cpp_cells, llama_cpp_window_cells
from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.models import Models, models_of
from specplan.engine_memory.stages import layers_on_device, offloaded
from specplan.engine_memory.weights import activation_bytes
from specplan.engine_memory.whole_device import whole_device_budget
from specplan.plan import ModelInput
from specplan.provenance import Figure

_FLOAT = 4


def llama_cpp_budget(
    serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec
) -> EngineBudget:
    """A deployment of llama.cpp on one device; layers that are left on the host take nothing there.

    Raises:
        CannotTell: a number of layers that is none, or a context that is chosen while loading.
    """
    stage = offloaded(target.arch.num_hidden_layers, layers_on_device(serving.partial_offload))
    models = models_of(serving, target, draft, device, stage)
    if serving.fits_itself and serving.context is None:
        raise CannotTell("--fit on chooses the context while loading: give -c", serving.location)
    sequences = serving.max_sequences.value if serving.max_sequences is not None else 1
    micro = serving.batch_tokens.value if serving.batch_tokens is not None else 512
    cells = llama_cpp_cells(models.context, sequences, serving.unified_kv)
    static = (*models.weight_parts, *_buffers(serving, models, device, sequences, micro))
    return whole_device_budget(
        models, device, static,
        least_kv_bytes=_kv_bytes(serving, models, cells, sequences, micro), slots=cells,
        verify_is="reserved while loading", num_sequences=sequences,
    )  # fmt: skip


def _buffers(serving: Serving, models: Models, device: DeviceSpec, sequences: int, micro: int) -> tuple[Part, ...]:
    outputs = min(micro, sequences * serving.num_verify_tokens)
    passes = [activation_bytes(models.arch, micro, _FLOAT, 1).value]
    if models.drafter.arch is not None:
        passes.append(activation_bytes(models.drafter.arch, micro, _FLOAT, 1).value)
    logits = models.logits_bytes(outputs, _FLOAT) * len(passes)
    return (
        Part("CUDA context", device.context_bytes),
        Part("compute buffers", Figure(sum(passes), "modelled", f"one per model, {micro} rows in float32")),
        Part("logits", Figure(logits, "modelled", f"n_vocab · {outputs} rows · 4 B per model")),
    )


def _kv_bytes(serving: Serving, models: Models, cells: int, sequences: int, micro: int) -> int:
    """Cells of both models: the draft gets the target's full context."""
    total = 0
    for arch, cache in ((models.arch, models.cache), (models.drafter.arch, models.draft_cache)):
        if arch is None or cache is None:
            continue
        windowed = cells
        if arch.sliding_window is not None:
            streams = 1 if serving.unified_kv else sequences
            each = llama_cpp_window_cells(cells // streams, arch.sliding_window, sequences, micro, serving.unified_kv)
            windowed = each * streams
        total += cache.sequence_bytes(cells, windowed)
    return total
