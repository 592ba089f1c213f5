"""What the layers of a config.json are: which mixer each has, and what follows it."""

from __future__ import annotations

from collections.abc import Mapping

from specplan.arch import LayerType, MlpType
from specplan.arch_checks import MAX_LAYERS
from specplan.errors import InputError, UnsupportedError
from specplan.families import Family
from specplan.models.config_parts import moe_of
from specplan.models.config_reader import ConfigReader

#: Names that published configs and transformers 5 use, by what mixes tokens.
_ATTENTION: dict[str, LayerType] = {"full_attention": "full_attention", "attention": "full_attention"}
_SPELLINGS: dict[str, dict[str, LayerType]] = {
    "attention": _ATTENTION | {"sliding_attention": "sliding_attention"},
    "linear": _ATTENTION | {"linear_attention": "linear_attention"},
    "mamba": _ATTENTION | {"mamba": "mamba", "linear_attention": "mamba"},
}


def num_layers_of(reader: ConfigReader) -> int:
    """L, within reason."""
    return reader.size("num_hidden_layers", most=MAX_LAYERS)


def layer_types(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    """What mixes tokens, layer by layer.

    Raises:
        InputError: a list of another length or with an unknown entry, an impossible period.
    """
    if family.mixer == "latent":
        return _all(reader, "latent_attention")
    if family.mixer == "linear":
        return _listed(reader, _SPELLINGS["linear"]) or _every(
            reader, "full_attention_interval", reader.integer("full_attention_interval", 4), "linear_attention"
        )
    if family.mixer == "mamba":
        return _mamba_layers(reader, family)
    return _windowed_layers(reader, family)


def _all(reader: ConfigReader, layer: LayerType) -> tuple[LayerType, ...]:
    return (layer,) * num_layers_of(reader)


def _listed(
    reader: ConfigReader, spellings: Mapping[str, LayerType], field: str = "layer_types"
) -> tuple[LayerType, ...] | None:
    types = reader.config.get(field)
    if types is None:
        return None
    layers = num_layers_of(reader)
    if not isinstance(types, list) or len(types) != layers:
        raise InputError(f"{reader.where}: {field} is not a list of {layers} entries, as num_hidden_layers says")
    unknown = [entry for entry in types if not isinstance(entry, str) or entry not in spellings]
    if unknown:
        raise InputError(f"{reader.where}: {field} has {unknown[0]!r}, expected one of {', '.join(spellings)}")
    return tuple(spellings[entry] for entry in types)


def _every(reader: ConfigReader, field: str, period: int, others: LayerType) -> tuple[LayerType, ...]:
    """The last of every ``period`` layers sees everything."""
    if period < 1:
        raise InputError(f"{reader.where}: {field} is {period}, expected at least 1")
    return tuple(others if (index + 1) % period else "full_attention" for index in range(num_layers_of(reader)))


def _windowed_layers(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    present = "sliding_window" in reader.config
    window = reader.config.get("sliding_window") if present else family.default_window
    unused = family.windows in ("if_used", "all_if_used") and not reader.flag("use_sliding_window", False)
    if family.windows == "none" or window is None or unused:
        return _all(reader, "full_attention")
    listed = _listed(reader, _SPELLINGS["attention"])
    if listed is not None:
        return listed
    if family.windows in ("all", "all_if_used"):
        return _all(reader, "sliding_attention")
    if family.windows == "if_used":
        layers = num_layers_of(reader)
        first = reader.size("max_window_layers", 28, least=0)
        return tuple("full_attention" if index < first else "sliding_attention" for index in range(layers))
    if family.windows == "alternate":
        return _every(reader, "layer_types", 2, "sliding_attention")
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", 6))
    return _every(reader, "sliding_window_pattern", pattern, "sliding_attention")


def _mamba_layers(reader: ConfigReader, family: Family) -> tuple[LayerType, ...]:
    layers = num_layers_of(reader)
    if family.model_type == "falcon_h1":
        return _all(reader, "hybrid")
    if family.model_type == "granitemoehybrid":
        listed, other = (_listed(reader, _SPELLINGS["mamba"], name) for name in ("layer_types", "layers_block_type"))
        if listed and other and listed != other:
            raise InputError(f"{reader.where}: layer_types and layers_block_type differ")
        return listed or other or _all(reader, "mamba")
    if family.model_type == "jamba":
        hits = _hits(reader, "attn_layer", 8, 4)
    else:
        hits = set(reader.layers("attn_layer_indices"))
    return tuple("full_attention" if index in hits else "mamba" for index in range(layers))


def _hits(reader: ConfigReader, prefix: str, period: int, offset: int) -> set[int]:
    """Layers whose number is ``{prefix}_offset`` modulo ``{prefix}_period``."""
    period = reader.size(f"{prefix}_period", period)
    offset = reader.size(f"{prefix}_offset", offset, least=0, most=period - 1)
    return set(range(offset, num_layers_of(reader), period))


def mlp_types(reader: ConfigReader, family: Family) -> tuple[MlpType, ...]:
    """Dense or experts, layer by layer.

    Raises:
        InputError: an impossible period or layer number.
        UnsupportedError: experts in every other layer of a DeepSeek model, which libraries read in two ways.
    """
    layers = num_layers_of(reader)
    only: MlpType = "dense" if moe_of(reader, family) is None else "moe"
    if only == "dense":
        return (only,) * layers
    if family.experts == "deepseek":
        default = 3 if family.model_type == "deepseek_v3" else 0
        first = reader.size("first_k_dense_replace", default, least=0)
        if reader.integer("moe_layer_freq", 1) != 1:
            raise UnsupportedError(f"{reader.where}: moe_layer_freq {reader.config['moe_layer_freq']} is not supported")
        return tuple("dense" if index < first else "moe" for index in range(layers))
    if family.experts == "jamba":
        hits = _hits(reader, "expert_layer", 2, 1)
        return tuple("moe" if index in hits else "dense" for index in range(layers))
    if family.experts == "qwen":
        step, dense = reader.size("decoder_sparse_step", 1), set(reader.layers("mlp_only_layers"))
        return tuple("dense" if index in dense or (index + 1) % step else "moe" for index in range(layers))
    return (only,) * layers
