"""config.json to an architecture: fields, spellings, and values that make no sense."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from specplan.arch import ModelArch, RopeScaling
from specplan.errors import InputError, UnsupportedError
from specplan.models.config import read_config
from specplan.models.resolve import resolve_model
from specplan.profiles import profile_names, read_profile
from tests.conftest import llama_config, unquantized


def read(config: Any) -> ModelArch:
    return read_config(config, "config.json")


@pytest.mark.parametrize("name", profile_names("models"))
def test_configs_read_the_same_after_transformers_5_rewrote_them(name: str, tmp_path: Path) -> None:
    """rope_parameters for rope_scaling and rope_theta, dtype for torch_dtype, defaults written out."""
    config = unquantized(read_profile("models", name)["config"])
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in rewritten or config["model_type"] == "jamba"
    assert "rope_theta" not in rewritten
    assert "torch_dtype" not in rewritten
    expected = read(config)
    found = resolve_model(str(tmp_path)).arch
    assert dataclasses.replace(found, eos_token_ids=expected.eos_token_ids) == expected


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 2.0}, LLAMA3], ids=str)
def test_old_and_new_spellings_read_the_same(scaling: dict[str, Any] | None) -> None:
    old = llama_config(rope_theta=5e5, rope_scaling=scaling, torch_dtype="bfloat16")
    parameters = {"rope_type": "default"} | (scaling or {}) | {"rope_theta": 5e5}
    new = llama_config(rope_theta=..., torch_dtype=..., rope_parameters=parameters, dtype="bfloat16")
    assert read(old) == read(new)
    assert read(new).rope_theta == 5e5


def test_rope_type_under_its_oldest_name() -> None:
    arch = read(llama_config(rope_scaling={"type": "linear", "factor": 4}))
    assert arch.rope_scaling == RopeScaling("linear", 4.0)


@pytest.mark.parametrize(
    ("changes", "window", "layers"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64, 2),
        ({"model_type": "mistral", "sliding_window": None}, None, 0),
        ({"model_type": "llama", "sliding_window": 64}, None, 0),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, None, 0),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64, 1),
    ],
    ids=str,
)
def test_sliding_windows(changes: dict[str, Any], window: int | None, layers: int) -> None:
    arch = read(llama_config(**changes))
    assert (arch.sliding_window, arch.num_sliding_layers) == (window, layers)


@pytest.mark.parametrize("eos", [None, 2, [2, 3]], ids=str)
def test_eos_tokens(eos: Any) -> None:
    expected = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    assert read(llama_config(eos_token_id=eos)).eos_token_ids == expected


REQUIRED = [
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
]


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [..., None], ids=["absent", "null"])
def test_a_missing_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"config\.json: .*{field}"):
        read(llama_config(**{field: value}))


SIZES = [field for field in REQUIRED if field != "model_type"] + ["num_key_value_heads", "head_dim"]


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1 << 40, 10**30, 2.5, 8.0, "8", True, [8], {}], ids=repr)
def test_an_absurd_size_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"config\.json: .*{field}"):
        read(llama_config(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tie_word_embeddings", "yes"),
        ("tie_word_embeddings", 1),
        ("attention_bias", "no"),
        ("mlp_bias", 0),
        ("rms_norm_eps", "1e-5"),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", float("inf")),
        ("rms_norm_eps", 10**400),
        ("rope_theta", True),
        ("rope_theta", 0),
        ("rope_theta", float("nan")),
        ("rope_theta", 10**400),
        ("rope_scaling", "linear"),
        ("rope_scaling", [1]),
        ("rope_parameters", 5),
        ("rope_parameters", {"full_attention": 5}),
        ("rope_parameters", {"full_attention": None}),
        ("rope_parameters", {"full_attention": [], "sliding_attention": {}}),
        ("rope_scaling", {"rope_type": "linear", "factor": "2"}),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}),
        ("rope_scaling", {"rope_type": "linear", "factor": -2.0}),
        ("rope_scaling", {"rope_type": "linear", "factor": float("nan")}),
        ("rope_scaling", {"rope_type": "linear", "factor": 10**400}),
        ("rope_scaling", LLAMA3 | {"low_freq_factor": 0}),
        ("rope_scaling", LLAMA3 | {"low_freq_factor": float("nan")}),
        ("rope_scaling", LLAMA3 | {"high_freq_factor": 1.0}),
        ("rope_scaling", LLAMA3 | {"high_freq_factor": float("inf")}),
        ("rope_scaling", LLAMA3 | {"original_max_position_embeddings": 0}),
        ("rope_scaling", LLAMA3 | {"original_max_position_embeddings": -8192}),
        ("rope_scaling", {"rope_type": "proportional", "factor": 4.0}),
        ("rope_scaling", {"rope_type": "yarn", "factor": -4.0}),
        ("rope_scaling", LLAMA3 | {"original_max_position_embeddings": 10**400}),
        ("rope_scaling", {"rope_type": None, "factor": 4.0}),
        ("rope_scaling", {"rope_type": ["linear"]}),
        ("rope_scaling", {"rope_type": {}}),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 3),
        ("head_dim", 5),
        ("hidden_act", "gelu"),
        ("hidden_act", 5),
        ("hidden_act", ["silu"]),
        ("eos_token_id", "2"),
        ("eos_token_id", [2, None]),
        ("eos_token_id", 2.0),
        ("eos_token_id", True),
        ("eos_token_id", {}),
        ("model_type", 5),
        ("model_type", ["llama"]),
    ],
    ids=lambda x: str(x)[:60],
)
def test_a_mistyped_or_absurd_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        read(llama_config(**{field: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 0},
        {"sliding_window": -4},
        {"sliding_window": "64"},
        {"sliding_window": 64, "layer_types": ["sliding_attention"] * 3},
        {"sliding_window": 64, "layer_types": ["sliding_attention"]},
        {"sliding_window": 64, "layer_types": "sliding_attention"},
    ],
    ids=str,
)
def test_an_absurd_window_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read(llama_config(model_type="mistral", **changes))


@pytest.mark.parametrize("name", ["gpt2", "deepseek_v4", "gemma3", "LLAMA", "", "x" * 1000])
def test_an_unknown_architecture_is_named(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(llama_config(model_type=name))
    assert repr(name) in str(caught.value)
    assert "config.json" in str(caught.value)
    assert "qwen3" in str(caught.value)


@pytest.mark.parametrize(
    "value", [{"quant_method": "awq", "bits": 4}, {"quant_method": "hqq"}, {"bits": 4}, "gptq", ["awq"], 1], ids=str
)
def test_quantization_that_does_not_fit_the_model_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="quantization_config"):
        read(llama_config(quantization_config=value))


@pytest.mark.parametrize(
    "value", [{"AutoModelForCausalLM": "evil.Model"}, {"AutoConfig": "evil.Config"}, "evil"], ids=str
)
def test_remote_code_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedError, match="auto_map"):
        read(llama_config(auto_map=value))
