"""The linear modules of a model, one by one: their names in checkpoints, by which quantization configs pick them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.matrices import matrix_shapes
from specplan.models.names import Naming, naming_of

_LATENT = {
    "q": "q_proj", "q_a": "q_a_proj", "q_b": "q_b_proj", "kv_a": "kv_a_proj_with_mqa", "kv_b": "kv_b_proj",
    "o": "o_proj",
}  # fmt: skip
_LINEAR = {"qkvz": "in_proj_qkvz", "ba": "in_proj_ba", "out": "out_proj"}
_MAMBA = {"in": "in_proj", "x": "x_proj", "dt": "dt_proj", "out": "out_proj"}


@dataclass(frozen=True, slots=True)
class Module:
    """Matrices of equal kind under one name.

    Attributes:
        kind: as in ``specplan.matrices``.
        name: full, without ``.weight``; with ``{expert}`` for experts that are modules of their own.
        count: experts that the name stands for, else 1.
        stacked: the experts are one tensor with a leading dimension.
    """

    kind: str
    name: str
    count: int = 1
    stacked: bool = False


def linear_modules(arch: ModelArch) -> Iterator[Module]:
    """Every matrix of the layers, and the head where it is not tied. Routers count among the vectors."""
    names = naming_of(arch)
    known = matrix_shapes(arch)
    for layer in range(arch.num_hidden_layers):
        for module in (*_mixer(arch, names, layer), *_mlp(arch, names, layer)):
            if module.kind in known:
                yield Module(module.kind, names.layer(layer, module.name), module.count, module.stacked)
    if not arch.tie_word_embeddings:
        yield Module("head", names.head)


def _mixer(arch: ModelArch, names: Naming, layer: int) -> Iterator[Module]:
    kind = arch.layer_types[layer]
    if kind in ("full_attention", "sliding_attention", "hybrid"):
        kinds = ("q", "k", "v") if len(names.qkv) == 3 else ("qkv",)
        for short, name in zip(kinds, names.qkv, strict=True):
            yield Module(f"attention.{short}", name)
        yield Module("attention.o", names.output)
    if kind == "latent_attention":
        yield from (Module(f"latent.{short}", f"self_attn.{name}") for short, name in _LATENT.items())
    if kind == "linear_attention":
        yield from (Module(f"linear.{short}", f"linear_attn.{name}") for short, name in _LINEAR.items())
    if kind in ("mamba", "hybrid"):
        yield from (Module(f"mamba.{short}", f"mamba.{name}") for short, name in _MAMBA.items())


def _mlp(arch: ModelArch, names: Naming, layer: int) -> Iterator[Module]:
    if arch.mlp_types[layer] == "dense":
        fused = len(names.gate_up) == 1
        kinds = ("gate_up",) if fused and arch.gated_mlp else ("up",) if fused else ("gate", "up")
        yield from _parts("mlp", kinds, names.gate_up, names.down, 1, False)
    elif arch.mlp_types[layer] == "moe" and arch.moe is not None:
        stacked = "{expert}" not in names.expert_down
        kinds = ("gate", "up") if len(names.expert_gate_up) == 2 else ("gate_up",)
        yield from _parts("experts", kinds, names.expert_gate_up, names.expert_down, arch.moe.num_experts, stacked)
        if arch.moe.shared_intermediate_size:
            kinds = ("gate", "up") if len(names.shared_gate_up) == 2 else ("gate_up",)
            yield from _parts("shared", kinds, names.shared_gate_up, names.shared_down, 1, False)


def _parts(
    part: str, kinds: tuple[str, ...], names: tuple[str, ...], down: str, count: int, stacked: bool
) -> Iterator[Module]:
    for kind, name in zip(kinds, names, strict=True):
        yield Module(f"{part}.{kind}", name, count, stacked)
    yield Module(f"{part}.down", down, count, stacked)
