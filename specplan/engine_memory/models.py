"""``Models``: the models of a deployment on one of its devices, as every engine's arithmetic needs them."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.dtypes import float_bytes
from specplan.engine_memory.budget import Part
from specplan.engine_memory.drafters import NO_DRAFTER, DrafterMemory, drafter_memory
from specplan.engine_memory.kv import Cache, cache_format, cache_of
from specplan.engine_memory.stages import Stage
from specplan.engine_memory.weights import compute_dtype, weight_bytes
from specplan.plan import ModelInput
from specplan.provenance import Figure


@dataclass(frozen=True, slots=True)
class Models:
    """What one device holds of the models.

    Attributes:
        arch: of the target.
        element_bytes: of an activation.
        devices: that share each model.
        stage: the layers of the target that they hold.
        weights: of these layers.
        drafter: weights and architecture of the drafter.
        cache: of the target.
        draft_cache: of the drafter, None without one.
        context: tokens per sequence.
    """

    arch: ModelArch
    element_bytes: int
    devices: int
    stage: Stage
    weights: Figure
    drafter: DrafterMemory
    cache: Cache
    draft_cache: Cache | None
    context: int

    @property
    def weight_parts(self) -> tuple[Part, ...]:
        """Weights as items."""
        target = Part("target weights", self.weights)
        return (target, Part("draft weights", self.drafter.weights)) if self.drafter.weights.value else (target,)

    @property
    def slot_bytes(self) -> int:
        """A token in the layers of both models that see everything."""
        return self.cache.slot_bytes + self.draft_slot_bytes

    @property
    def draft_slot_bytes(self) -> int:
        """The drafter's share."""
        return self.draft_cache.slot_bytes if self.draft_cache is not None else 0

    def logits_bytes(self, rows: int, bytes_per_logit: int) -> int:
        """Logits of all rows over the whole vocabulary; none where the head is on another device."""
        if not self.stage.head:
            return 0
        return rows * self.arch.vocab_size * bytes_per_logit


def models_of(
    serving: Serving,
    target: ModelInput,
    draft: ModelInput | None,
    device: DeviceSpec,
    stage: Stage,
    drafts: bool = True,
) -> Models:
    """The models of a deployment on a device with one stage of the target, with the drafter or without.

    Raises:
        CannotTell: a format, head or layer that specplan does not know.
    """
    devices = max(1, serving.tensor_parallel.value if serving.tensor_parallel is not None else 1)
    dtype = compute_dtype(target, serving.dtype.value if serving.dtype is not None else "auto", device)
    quantization = serving.quantization.value if serving.quantization is not None else None
    drafter = drafter_memory(serving, target, draft, device, devices) if drafts else NO_DRAFTER
    option = serving.kv_dtype.value if serving.kv_dtype is not None else "auto"
    draft_option = serving.draft_kv_dtype.value if serving.draft_kv_dtype is not None else option
    values = serving.values_dtype.value if serving.values_dtype is not None else option
    form, draft_form = cache_format(serving.engine, option, dtype), cache_format(serving.engine, draft_option, dtype)
    value_form = cache_format(serving.engine, values, dtype)
    return Models(
        target.arch,
        float_bytes(dtype),
        devices,
        stage,
        weight_bytes(target, dtype, quantization, devices, stage),
        drafter,
        cache_of(target.arch, form, value_form, devices, stage),
        None if drafter.arch is None else cache_of(drafter.arch, draft_form, draft_form, devices, drafter.stage),
        serving.context.value if serving.context is not None else target.arch.max_position_embeddings,
    )
