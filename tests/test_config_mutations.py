"""Any config is read or refused in one line that names the file and the field, whatever its fields say."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.arch import ModelArch
from specplan.errors import InputError, SpecplanError
from specplan.formulas.bind import evaluate
from specplan.formulas.values import arch_values, precision_values, slot_values
from specplan.models.config import read_config
from specplan.models.tensors import expected_tensors
from specplan.profiles import profile_names, read_profile
from tests.conftest import llama_config
from tests.family_configs import TINY, tiny_config

MODELS = profile_names("models")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
#: Fields that some family reads and the tiny configs leave out.
OTHERS = [
    "attention_multiplier",
    "attn_logit_softcapping",
    "auto_map",
    "dtype",
    "eos_token_id",
    "experts_per_token",
    "final_logit_softcapping",
    "hidden_act",
    "hidden_activation",
    "layers_block_type",
    "max_window_layers",
    "norm_topk_prob",
    "partial_rotary_factor",
    "quantization_config",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "torch_dtype",
    "use_bidirectional_attention",
]
FIELDS = sorted({*OTHERS, *llama_config(), *(field for config in TINY.values() for field in config)})


def read(config: Any) -> ModelArch | None:
    """The architecture, whose sizes must add up; None where the config is refused."""
    try:
        arch = read_config(config, "config.json")
    except SpecplanError as error:
        text = str(error)
        assert "config.json: " in text
        assert "\n" not in text
        return None
    values = arch_values(arch) | precision_values("float16", "float32") | slot_values(arch, 100, 3)
    values |= {"B": 2, "gamma": 2}
    assert evaluate("weights", values) > 0
    assert evaluate("kv_cache", values) >= 0
    assert evaluate("recurrent_state", values) >= 0
    assert evaluate("kv_cache", values) + evaluate("recurrent_state", values) > 0
    return arch


@settings(max_examples=400)
@given(st.sampled_from(sorted(TINY)), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3))
def test_any_config_is_read_or_refused(family: str, changes: dict[str, Any]) -> None:
    arch = read(tiny_config(family) | changes)
    if arch is not None:
        assert expected_tensors(dataclasses.replace(arch, num_hidden_layers=1))


HOSTILE = [
    -1,
    0,
    1 << 40,
    10**400,
    -(10**400),
    2.5,
    1e300,
    math.nan,
    math.inf,
    True,
    False,
    "x",
    "auto",
    "",
    [],
    [1],
]
HOSTILE += [
    ["x"] * 3,
    [None],
    {},
    {"full_attention": 5},
    {"rope_type": "llama3", "original_max_position_embeddings": 10**400},
]


@settings(max_examples=600)
@given(data=st.data(), name=st.sampled_from(MODELS))
def test_any_mutation_of_a_published_config_is_read_or_refused(data: st.DataObject, name: str) -> None:
    config = copy.deepcopy(read_profile("models", name)["config"])
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from(sorted(config)))
        mutation = data.draw(st.sampled_from(["drop", "null", "other", "scaled", "longer", "inside"]))
        value = config[field]
        if mutation == "drop":
            del config[field]
        elif mutation == "null":
            config[field] = None
        elif mutation == "scaled" and isinstance(value, int | float):
            config[field] = value * data.draw(st.sampled_from([-1, 0, 3, 1 << 20, 10**300]))
        elif mutation == "longer" and isinstance(value, list):
            config[field] = data.draw(st.sampled_from([value[:-1], value * 2, value[:-1] + [None], [value]]))
        elif mutation == "inside" and isinstance(value, dict) and value:
            config[field] = value | {data.draw(st.sampled_from(sorted(value))): data.draw(st.sampled_from(HOSTILE))}
        else:
            config[field] = data.draw(st.sampled_from(HOSTILE))
    before = copy.deepcopy(config)
    read(config)
    assert repr(config) == repr(before)


#: Fields whose refusal has another name: the architecture, and what an absent share of a tiny head leaves.
OTHER_NAMES = {"model_type": "architecture", "rotary_pct": "head_dim", "partial_rotary_factor": "head_dim"}
OTHER_NAMES |= {"mamba_d_ssm": "mamba_n_heads"}


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_refusal_names_the_field(family: str) -> None:
    for field in (*TINY[family], *OTHERS):
        for value in (..., None, *HOSTILE):
            try:
                read_config(tiny_config(family, **{field: value}), "config.json")
            except InputError as error:
                text = str(error)
                assert text.startswith("config.json: ")
                assert field in text or OTHER_NAMES.get(field, field) in text
