"""The rotary embeddings that a config.json describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from specplan.arch import RopeScaling
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family
from specplan.models.reader import ConfigReader

#: Scalings that size nothing: planned, not run. ``su`` is longrope's first name.
_PLANNED_SCALINGS: dict[str, Literal["yarn", "longrope", "dynamic"]] = {
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "dynamic": "dynamic",
}


def rope_parameters(reader: ConfigReader) -> Mapping[str, Any]:
    """The rope fields, under their name before transformers 5 (rope_scaling) or since (rope_parameters)."""
    rope = reader.config.get("rope_parameters") or reader.config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise InputError(f"{reader.where}: rope_scaling is {rope!r}, expected an object")
    if "full_attention" in rope:  # one set per layer type; global layers decide theta
        rope = rope["full_attention"]
    if not isinstance(rope, Mapping):
        raise InputError(f"{reader.where}: rope_parameters.full_attention is {rope!r}, expected an object")
    return rope


def rope_theta(reader: ConfigReader, rope: Mapping[str, Any], family: Family) -> float:
    """The base of the rotary frequencies."""
    named = reader.number("rope_theta", reader.number("rotary_emb_base", family.default_rope_theta))
    return ConfigReader(rope, reader.where).number("rope_theta", named)


def local_rope_theta(reader: ConfigReader, family: Family) -> float | None:
    """Gemma 3's windowed layers have a base of their own."""
    if family.model_type != "gemma3_text":
        return None
    local = reader.number("rope_local_base_freq", 10000.0)
    rope = reader.config.get("rope_parameters")
    sliding = rope.get("sliding_attention") if isinstance(rope, Mapping) else None
    if isinstance(sliding, Mapping):
        local = ConfigReader(sliding, f"{reader.where}: rope_parameters.sliding_attention").number("rope_theta", local)
    return local


def rotary_dim(reader: ConfigReader, rope: Mapping[str, Any], family: Family, head_dim: int) -> int:
    """Some families rotate only the front of each head."""
    share = reader.number("partial_rotary_factor", reader.number("rotary_pct", family.default_rotary_factor))
    share = ConfigReader(rope, reader.where).number("partial_rotary_factor", share)
    if not 0 < share <= 1:
        raise InputError(f"{reader.where}: partial_rotary_factor is {share!r}, expected a share above 0, at most 1")
    return int(head_dim * share)


def rope_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    """How the frequencies are scaled, None for plain ones.

    Raises:
        InputError: a mistyped field.
        UnsupportedError: an unknown kind.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    reader = ConfigReader(rope, f"{where}: rope_scaling")
    if kind == "linear":
        return RopeScaling("linear", reader.number("factor", 1.0))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            reader.number("factor", 8.0),
            reader.number("low_freq_factor", 1.0),
            reader.number("high_freq_factor", 4.0),
            reader.integer("original_max_position_embeddings", 8192),
        )
    if isinstance(kind, str) and kind in _PLANNED_SCALINGS:
        return RopeScaling(_PLANNED_SCALINGS[kind], reader.number("factor", 1.0))
    known = ", ".join(("default", "linear", "llama3", *_PLANNED_SCALINGS))
    raise UnsupportedError(f"{where}: rope type {kind!r} is not supported: one of {known}")
