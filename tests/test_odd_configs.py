"""Tiny configs of every family with odd, absent and null fields: what is read is what transformers builds."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.families import FAMILIES
from specplan.formulas.bind import evaluate
from specplan.formulas.values import arch_values, precision_values, slot_values
from specplan.models.config import read_config
from tests.family_configs import TINY, odd_changes, tiny_config
from tests.transformers_counts import count

#: What transformers raises for configs that it builds no model from.
NO_MODEL = (AttributeError, RuntimeError, TypeError, ValueError, ZeroDivisionError, StrictDataclassError)


def sizes(arch: ModelArch, slots: int, batch_size: int) -> tuple[int, ...]:
    """Weights in float16, keys and values in float32, one copy of the states, without speculation."""
    values = arch_values(arch) | precision_values("float16", "float32") | slot_values(arch, slots, 1)
    values |= {"B": batch_size, "gamma": 0}
    return tuple(int(evaluate(item, values)) for item in ("weights", "kv_cache", "recurrent_state"))


@pytest.mark.parametrize("family", sorted(TINY))
def test_odd_configs_equal_transformers_or_are_refused(family: str) -> None:
    compared: list[tuple[str, Any]] = []
    for field, value in odd_changes(family):
        config = tiny_config(family, **{field: value})
        try:
            arch = read_config(config, "config.json")
        except InputError:
            continue
        try:
            counts = count(config, "cpu")
        except NO_MODEL:
            continue
        compared.append((field, value))
        expected = (
            counts.weight_bytes("float16"),
            counts.cache_bytes(10, 2, "float32"),
            counts.state_bytes(2, "float16"),
        )
        assert sizes(arch, 10, 2) == expected, (field, value)
    assert len(compared) > 35


def test_every_family_has_a_tiny_config() -> None:
    assert set(TINY) == set(FAMILIES)
    for family in TINY:
        read_config(tiny_config(family), "config.json")
