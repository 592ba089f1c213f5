"""How a multi-token-prediction layer of a quantized target is stored."""

from __future__ import annotations

import dataclasses
from collections import Counter

from specplan.arch import ModelArch
from specplan.heads import MtpLayer, head_layer
from specplan.quantized.stored import FormatCounts, KindCount, MatrixFormat, StoredWeights

#: (model_type, method) of published checkpoints that store the layer as those before it.
_AS_THE_OTHERS = (("deepseek_v3", "fp8"),)


def mtp_storage(heads: MtpLayer, target: ModelArch) -> StoredWeights | None:
    """The matrices of the layer without embedding and output head, which are the target's; None where nobody published.

    DeepSeek-V3's layer 61 has blocks of float8 as the layers before it. Other methods usually leave the layer alone:
    NVIDIA's NVFP4 files of the same model exclude ``model.layers.61*``.

    Args:
        heads: how many layers.
        target: has ``stored``.
    """
    stored = target.stored
    assert stored is not None
    if (target.model_type, stored.method) not in _AS_THE_OTHERS:
        return None
    here, there = _layers_by_part(head_layer(heads, target)), _layers_by_part(target)
    forms: dict[str, MatrixFormat] = {}
    kinds: Counter[str] = Counter()
    for form, kind, count in stored.counts():
        part = kind.split(".")[0]
        if not here.get(part):
            continue
        if forms.setdefault(kind, form) != form:  # which of the layers has which is not kept
            return None
        kinds[kind] = count * here[part] // there[part]
    formats = tuple(
        FormatCounts(
            form, tuple(KindCount(kind, count) for kind, count in sorted(kinds.items()) if forms[kind] == form)
        )
        for form in dict.fromkeys(forms.values())
    )
    return dataclasses.replace(stored, formats=formats, other_bytes=0)


def _layers_by_part(arch: ModelArch) -> dict[str, int]:
    """Layers that hold the matrices of a part."""
    experts = arch.num_mlps_of("moe")
    latent, dense = arch.num_layers_of("latent_attention"), arch.num_mlps_of("dense")
    return {"latent": latent, "mlp": dense, "experts": experts, "shared": experts}
