"""Fields that several quantization methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specplan.dtypes import canonical_dtype
from specplan.errors import InputError
from specplan.models.config_reader import ConfigReader

#: No published group is larger.
MAX_GROUP = 1 << 20


def group_size(section: ConfigReader, field: str, default: int) -> int:
    """Values that share a scale; -1 stands for a whole row, which ``StoredFormat`` calls 0."""
    group = section.integer(field, default, least=-1, most=MAX_GROUP)
    if group == 0:
        raise InputError(f"{section.where}: {field} is 0, expected -1 or at least 1")
    return max(0, group)


def model_dtype(config: Mapping[str, Any]) -> str | None:
    """The dtype that a config states, of the text model where there are several."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, Mapping) else {}):
        name = holder.get("dtype", holder.get("torch_dtype"))
        if isinstance(name, str):
            return canonical_dtype(name)
    return None
