"""The rotary embeddings that a config.json describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from specplan.arch import RopeScaling
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family
from specplan.models.config_reader import ConfigReader

#: Scalings that size nothing: planned, not run. ``su`` is longrope's first name.
_PLANNED_SCALINGS: dict[str, Literal["yarn", "longrope", "dynamic"]] = {
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "dynamic": "dynamic",
}


def rope_parameters(reader: ConfigReader) -> ConfigReader:
    """The rope fields, under their name before transformers 5 (rope_scaling) or since (rope_parameters)."""
    field = "rope_parameters" if reader.config.get("rope_parameters") else "rope_scaling"
    rope = reader.config.get(field) or {}
    if isinstance(rope, Mapping) and "full_attention" in rope:  # one set per layer type; global layers decide theta
        field, rope = f"{field}.full_attention", rope["full_attention"]
    if not isinstance(rope, Mapping):
        raise InputError(f"{reader.where}: {field} is {rope!r}, expected an object")
    return ConfigReader(rope, f"{reader.where}: {field}")


def rope_theta(reader: ConfigReader, rope: ConfigReader, family: Family) -> float:
    """The base of the rotary frequencies."""
    named = reader.positive("rope_theta", reader.positive("rotary_emb_base", family.default_rope_theta))
    return rope.positive("rope_theta", named)


def local_rope_theta(reader: ConfigReader, family: Family) -> float | None:
    """Gemma 3's windowed layers have a base of their own."""
    if family.model_type != "gemma3_text":
        return None
    local = reader.positive("rope_local_base_freq", 10000.0)
    rope = reader.config.get("rope_parameters")
    sliding = rope.get("sliding_attention") if isinstance(rope, Mapping) else None
    if isinstance(sliding, Mapping):
        where = f"{reader.where}: rope_parameters.sliding_attention"
        local = ConfigReader(sliding, where).positive("rope_theta", local)
    return local


def rotary_dim(reader: ConfigReader, rope: ConfigReader, family: Family, head_dim: int) -> int:
    """Some families rotate only the front of each head."""
    share = _share(reader, "rotary_pct", family.default_rotary_factor)
    share = _share(reader, "partial_rotary_factor", share)
    return int(head_dim * _share(rope, "partial_rotary_factor", share))


def _share(reader: ConfigReader, field: str, default: float) -> float:
    share = reader.number(field, default)
    if not 0 < share <= 1:
        raise InputError(f"{reader.where}: {field} is {share!r}, expected a share above 0, at most 1")
    return share


def rope_scaling(rope: ConfigReader) -> RopeScaling | None:
    """How the frequencies are scaled, None for plain ones.

    Raises:
        InputError: a mistyped field.
        UnsupportedError: an unknown kind.
    """
    kind = rope.config.get("rope_type", rope.config.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", rope.positive("factor", 1.0))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            rope.positive("factor", 8.0),
            rope.positive("low_freq_factor", 1.0),
            rope.positive("high_freq_factor", 4.0),
            rope.size("original_max_position_embeddings", 8192, most=1 << 28),
        )
    if isinstance(kind, str) and kind in _PLANNED_SCALINGS:
        return RopeScaling(_PLANNED_SCALINGS[kind], rope.positive("factor", 1.0))
    known = ", ".join(("default", "linear", "llama3", *_PLANNED_SCALINGS))
    raise UnsupportedError(f"{rope.where}: rope type {kind!r} is not supported: one of {known}")
