"""Bytes of the KV cache of one sequence on one device, as engines lay it out."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.arch import LayerType, ModelArch
from specplan.caches.kv_formats import KV_FORMATS, KvFormat, engine_kv_format, head_bytes
from specplan.deployments.deployment import CannotTell
from specplan.dtypes import canonical_dtype
from specplan.engine_memory.stages import Stage
from specplan.errors import UnsupportedError

#: Cached as one row per token on every device, whatever the tensor parallelism.
_ROW: LayerType = "latent_attention"


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of one model on one device.

    Attributes:
        slot_bytes: of a token in all layers that see everything.
        window_slot_bytes: of a token in all windowed layers.
    """

    slot_bytes: int
    window_slot_bytes: int

    def sequence_bytes(self, slots: int, window_slots: int) -> int:
        """One sequence."""
        return slots * self.slot_bytes + window_slots * self.window_slot_bytes


def cache_format(engine: str, option: str, dtype: str) -> KvFormat:
    """The format of an engine's option; ``auto`` is the model's dtype.

    Raises:
        CannotTell: an option whose layout specplan does not know.
    """
    if option == "auto":
        return KV_FORMATS[canonical_dtype(dtype)]
    try:
        return engine_kv_format(engine, option)
    except UnsupportedError as error:
        raise CannotTell(str(error)) from None


def cache_of(arch: ModelArch, keys: KvFormat, values: KvFormat, devices: int, stage: Stage) -> Cache:
    """What a token takes on one of the devices that share a stage; heads are split, at least one on each.

    Raises:
        CannotTell: layers with a recurrent state, which engines keep in pools of their own.
    """
    if arch.num_layers_of("mamba", "linear_attention", "hybrid"):
        raise CannotTell(
            f"how the engine keeps the recurrent state of a {arch.model_type} model is not known to specplan: "
            "its memory has to be measured"
        )
    each = _layer_bytes(arch, keys, values, devices)
    windowed = sum(layer == "sliding_attention" for layer in arch.layer_types[stage.start : stage.end])
    return Cache(each * (stage.num_layers - windowed), each * windowed)


def _layer_bytes(arch: ModelArch, keys: KvFormat, values: KvFormat, devices: int) -> int:
    if arch.latent is not None and arch.num_layers_of(_ROW):
        return head_bytes(keys, arch.latent.kv_lora_rank + arch.latent.qk_rope_head_dim)
    heads = max(1, -(-arch.num_key_value_heads // devices))
    return heads * (head_bytes(keys, arch.head_dim) + head_bytes(values, arch.head_dim))
