"""Reading models: folders, GGUF files, profiles; and files that lie."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from specplan.arch import ModelArch, RopeScaling
from specplan.errors import EnvironmentProblem, InputError, SpecplanError, UnsupportedError
from specplan.models import hub
from specplan.models.config import read_config
from specplan.models.gguf_header import GGML_TYPES, ArrayLength, read_gguf_header
from specplan.models.resolve import resolve_model
from specplan.models.safetensors_header import read_headers
from specplan.models.tensors import expected_tensors
from specplan.plan import ModelInput
from specplan.profiles import profile_names, read_profile
from tests.conftest import gguf_tensors, llama_config, random_model, write_config, write_gguf

# --- folders and configs ----------------------------------------------------------------------------------------


def read(config: Any) -> ModelArch:
    return read_config(config, "config.json")


def test_a_folder_with_weights(checkpoint: Path) -> None:
    model = resolve_model(str(checkpoint))
    assert model.kind == "folder"
    assert model.reference == str(checkpoint.resolve())
    assert len(model.config_sha256) == 64
    arch = model.arch
    assert (arch.num_hidden_layers, arch.hidden_size, arch.head_dim, arch.vocab_size) == (2, 16, 4, 32)
    assert (arch.num_attention_heads, arch.num_key_value_heads) == (4, 2)
    assert (arch.dtype, arch.eos_token_ids, arch.tie_word_embeddings) == ("float32", (2,), False)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    model = resolve_model(str(write_config(tmp_path, llama_config())))
    assert model.arch == read(llama_config())


def test_a_sharded_folder(tmp_path: Path) -> None:
    random_model(llama_config()).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert resolve_model(str(tmp_path)).arch.num_hidden_layers == 2


def test_a_tied_folder(tmp_path: Path) -> None:
    random_model(llama_config(tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert resolve_model(str(tmp_path)).arch.tie_word_embeddings


@pytest.mark.parametrize("name", profile_names("models"))
def test_configs_read_the_same_after_transformers_5_rewrote_them(name: str, tmp_path: Path) -> None:
    """rope_parameters for rope_scaling and rope_theta, dtype for torch_dtype, defaults written out."""
    config = read_profile("models", name)["config"]
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in rewritten
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
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
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


@pytest.mark.parametrize("name", ["gpt2", "deepseek_v3", "gemma3", "LLAMA", "", "x" * 1000])
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


@pytest.mark.parametrize("config", [None, 5, "llama", [], [llama_config()], True, 1.5], ids=repr)
def test_a_config_that_is_no_object_is_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        resolve_model(str(write_config(tmp_path, config)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 200000,
        b'{"a":' * 50000,
        b"\x00" * 100,
        b"9" * 5000,
        b'{"model_type": "llama", "vocab_size": ' + b"9" * 5000 + b"}",
        b"{}",
        b'{"model_type": "\xc3("}',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_config_that_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_a_config_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="expected at most"):
        resolve_model(str(tmp_path))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted(
    {*llama_config(), "head_dim", "rope_scaling", "rope_parameters", "sliding_window", "layer_types", "hidden_act"}
    | {"dtype", "quantization_config", "auto_map", "attention_bias", "mlp_bias", "use_sliding_window"}
    | {"hidden_activation", "max_window_layers", "sliding_window_pattern"}
)


@settings(max_examples=400)
@given(
    st.sampled_from(("llama", "mistral", "qwen2", "qwen3", "gemma3_text")),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3),
)
def test_any_config_is_read_or_refused(family: str, changes: dict[str, Any]) -> None:
    try:
        arch = read(llama_config(model_type=family) | changes)
    except SpecplanError:
        return
    assert expected_tensors(dataclasses.replace(arch, num_hidden_layers=1))


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["llama-2-7b-chat", "Llama 2 7B chat", "meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"])
def test_profiles_by_any_spelling(typed: str) -> None:
    model = resolve_model(typed)
    assert (model.kind, model.reference) == ("profile", "llama-2-7b-chat")
    assert model.arch.num_key_value_heads == 32


def test_the_same_profile_has_the_same_fingerprint() -> None:
    models = [resolve_model(name) for name in profile_names("models")]
    assert models == [resolve_model(name) for name in profile_names("models")]
    assert len({model.config_sha256 for model in models}) >= len(models) - 2  # tunes may share a config


@pytest.mark.parametrize(
    "reference",
    [
        "",
        " ",
        "lama-2-7b",
        "./nothing",
        "/nothing/here",
        "nothing.gguf",
        "a/b/c",
        "nothing/",
        "\x00",
        "a\x00b/c",
        "~nosuchuser/model",
        "~",
        "../..",
        "x" * 300,
        "x" * 5000 + ".gguf",
        "�",
        "owner/na me",
        "-",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_name_for_nothing_is_refused(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError):
        resolve_model(reference)


def test_a_near_miss_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did you mean .*qwen3-0\.6b"):
        resolve_model("qwen3-0.7b")


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(EnvironmentProblem, match="cannot be reached"):
        resolve_model("nobody/no-such-model-anywhere")


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "pytorch_model.pt", "model"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match=name):
        resolve_model(str(tmp_path / name))


# --- safetensors ------------------------------------------------------------------------------------------------


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header, content[8 + length :]


def join(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        resolve_model(str(folder))
    return str(caught.value)


def test_every_truncated_checkpoint_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    header_end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for length in [*range(size - 1, header_end, -97), *range(header_end, 0, -13), *range(8, -1, -1)]:
        os.truncate(path, length)
        assert "model.safetensors" in refused(folder)


@pytest.mark.parametrize("length", [0, 1, 7, 99, 1 << 20, 100_000_001, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_a_wrong_header_length_is_refused(length: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    assert "corrupt" in refused(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"null",
        b"[]",
        b"{",
        b'"x"',
        b"\xff" * 16,
        b"[" * 100000,
        b"9" * 5000,
        b'{"a": null}',
        b'{"a": []}',
        b'{"a": {}}',
        b'{"a": "dtype"}',
        b'{"a": 5}',
    ],
    ids=lambda header: repr(header[:16]),
)
def test_a_header_that_is_no_directory_is_refused(header: bytes, folder: Path) -> None:
    join(folder / "model.safetensors", header, b"")
    refused(folder)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F33"},
        {"dtype": 5},
        {"dtype": None},
        {"dtype": ["F32"]},
        {"dtype": {}},
        {"shape": [17]},
        {"shape": [-16]},
        {"shape": [16.0]},
        {"shape": ["16"]},
        {"shape": [True] * 4},
        {"shape": "16"},
        {"shape": 16},
        {"shape": None},
        {"shape": {}},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": []},
        {"data_offsets": None},
        {"data_offsets": [0]},
        {"data_offsets": [0, 64, 128]},
        {"data_offsets": ["0", "64"]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [-64, 0]},
        {"data_offsets": [0, 63]},
        {"data_offsets": [1 << 62, (1 << 62) + 64]},
        {"data_offsets": [0.0, 64.0]},
        {"data_offsets": 64},
    ],
    ids=str,
)
def test_a_corrupt_entry_is_refused(change: dict[str, Any], folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = split(path)
    header[NORM] |= change
    join(path, header, data)
    assert NORM in refused(folder)


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_an_incomplete_entry_is_refused(key: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = split(path)
    del header[NORM][key]
    join(path, header, data)
    assert NORM in refused(folder)


def test_overlapping_tensors_are_refused(folder: Path) -> None:
    """safetensors itself refuses a file whose tensors share bytes."""
    path = folder / "model.safetensors"
    header, data = split(path)
    other = "model.layers.0.input_layernorm.weight"
    assert header[other]["data_offsets"] != header[NORM]["data_offsets"]
    header[other]["data_offsets"] = header[NORM]["data_offsets"]
    join(path, header, data)
    refused(folder)


def test_tensors_past_the_end_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = split(path)
    begin, end = header[NORM]["data_offsets"]
    header[NORM]["data_offsets"] = [begin + len(data), end + len(data)]
    join(path, header, data)
    assert "truncated" in refused(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = split(path)
    del header[NORM]
    join(path, header, data)
    assert NORM in refused(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    write_config(folder, llama_config(intermediate_size=25))
    assert "mlp.gate_proj.weight" in refused(folder)


def test_tensors_of_another_architecture_are_named(folder: Path) -> None:
    write_config(folder, llama_config(num_hidden_layers=1))
    assert "model.layers.1." in refused(folder)


def test_a_missing_bias_is_named(folder: Path) -> None:
    write_config(folder, llama_config(attention_bias=True))
    assert "q_proj.bias" in refused(folder)


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The checkpoint with an index that lists its one file."""
    header, _ = split(folder / "model.safetensors")
    names = [name for name in header if name != "__metadata__"]
    write_index(folder, {"weight_map": dict.fromkeys(names, "model.safetensors")})
    return folder


def write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_of_one_file(sharded: Path) -> None:
    assert resolve_model(str(sharded)).arch.num_hidden_layers == 2


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        ".",
        "",
        "missing.safetensors",
        "a\x00b",
        "x" * 300,
        5,
        None,
        ["model.safetensors"],
        {},
        True,
    ],
    ids=lambda name: repr(name)[:24],
)
def test_an_index_that_leaves_the_folder_is_refused(name: Any, sharded: Path) -> None:
    shutil.copy(sharded / "model.safetensors", sharded.parent / "model.safetensors")
    (sharded / "sub").mkdir()
    shutil.copy(sharded / "model.safetensors", sharded / "sub" / "model.safetensors")
    write_index(sharded, {"weight_map": {NORM: name}})
    assert "index.json" in refused(sharded)
    write_index(sharded, {"weight_map": {NORM: name, "model.embed_tokens.weight": "model.safetensors"}})
    assert "index.json" in refused(sharded)


@pytest.mark.parametrize(
    "index", [None, [], 5, {}, {"weight_map": None}, {"weight_map": []}, {"weight_map": "x"}], ids=str
)
def test_a_corrupt_index_is_refused(index: Any, sharded: Path) -> None:
    write_index(sharded, index)
    assert "index.json" in refused(sharded)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 200_000, b"9" * 5000], ids=lambda c: repr(c[:8]))
def test_an_index_that_is_no_json_is_refused(content: bytes, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(content)
    assert "index.json" in refused(sharded)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    write_index(folder, {"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}})
    assert "two files" in refused(folder)


@settings(max_examples=300)
@given(data=st.data())
def test_any_damaged_header_is_read_or_refused(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    header_end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header_end - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        entries = read_headers([path])
    except SpecplanError:
        return
    assert all(0 <= entry.offset <= entry.offset + entry.num_bytes <= len(content) for entry in entries.values())


# --- GGUF -------------------------------------------------------------------------------------------------------


def read_gguf(path: Path) -> ModelInput:
    model = resolve_model(str(path))
    assert model.kind == "gguf"
    return model


def damaged(tmp_path: Path, content: bytes | bytearray) -> Path:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    return path


def test_a_gguf_file(tiny_gguf: Path) -> None:
    arch = read_gguf(tiny_gguf).arch
    assert (arch.model_type, arch.num_hidden_layers, arch.hidden_size, arch.intermediate_size) == ("llama", 1, 8, 16)
    assert (arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim) == (2, 1, 4)
    assert (arch.vocab_size, arch.max_position_embeddings, arch.eos_token_ids) == (32, 64, (2,))
    assert arch.tie_word_embeddings
    assert arch.rms_norm_eps == pytest.approx(1e-5)
    assert arch.rope_scaling is None


def test_gguf_and_the_gguf_package_agree(tiny_gguf: Path) -> None:
    header = read_gguf_header(tiny_gguf)
    reader = gguf.GGUFReader(tiny_gguf)
    assert set(header.tensors) == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        entry = header.tensors[tensor.name]
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        assert entry.num_bytes == tensor.n_bytes
        assert entry.offset == tensor.data_offset
        assert entry.dtype == tensor.tensor_type.name


def test_ggml_types_equal_the_gguf_package() -> None:
    for number, (name, block, block_bytes) in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == name
        assert gguf.GGML_QUANT_SIZES[kind] == (block, block_bytes)


def test_gguf_rope_factors(tmp_path: Path) -> None:
    tensors = gguf_tensors() | {"rope_freqs.weight": np.ones(2, dtype=np.float32)}
    assert read_gguf(write_gguf(tmp_path / "m.gguf", tensors)).arch.rope_scaling == RopeScaling("factors")


def test_gguf_biases_and_overrides(tmp_path: Path) -> None:
    tensors = gguf_tensors() | {
        f"blk.0.attn_{x}.bias": np.ones(n, dtype=np.float32) for x, n in zip("qkv", (8, 4, 4), strict=True)
    }
    path = write_gguf(tmp_path / "m.gguf", tensors, rope_freq_base=5e5, rope_scaling_type=gguf.RopeScalingType.LINEAR)
    arch = read_gguf(path).arch
    assert arch.qkv_bias
    assert not arch.output_bias
    assert arch.rope_theta == 5e5
    assert arch.rope_scaling == RopeScaling("linear", 1.0)


def test_long_arrays_are_skipped(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", gguf_tensors(), token_list=[f"<{i}>" for i in range(32)], token_scores=[0.5] * 32
    )
    assert read_gguf(path).arch.vocab_size == 32
    tensors = gguf_tensors() | {"token_embd.weight": np.ones((100, 8), dtype=np.float32)}
    tokens = [f"<{i}>" for i in range(100)]
    path = write_gguf(tmp_path / "n.gguf", tensors, token_list=tokens, token_scores=[0.5] * 100)
    header = read_gguf_header(path)
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayLength(100)
    assert header.metadata["tokenizer.ggml.scores"] == ArrayLength(100)
    assert header.metadata["llama.block_count"] == 1
    assert read_gguf(path).arch.vocab_size == 100


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf_tensors(), token_list=[str(i) for i in range(33)])
    with pytest.raises(InputError, match="33 tokens"):
        read_gguf(path)


def wide_tensors(kind: gguf.GGMLQuantizationType) -> dict[str, Any]:
    """The tiny model with a hidden size of 32, as quantization blocks need it, its table in ``kind``."""
    random = np.random.default_rng(1)
    shapes = {
        "token_embd.weight": (64, 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate.weight": (16, 32),
        "blk.0.ffn_up.weight": (16, 32), "blk.0.ffn_down.weight": (32, 16),
    }  # fmt: skip
    tensors: dict[str, Any] = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return tensors | {
        "table": tensors["token_embd.weight"],
        "token_embd.weight": quantized(tensors["token_embd.weight"], kind),
    }


def quantized(array: Any, kind: gguf.GGMLQuantizationType) -> tuple[Any, gguf.GGMLQuantizationType]:
    return gguf.quantize(array, kind), kind


Q = gguf.GGMLQuantizationType


@pytest.mark.parametrize("head", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q5_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("embedding", [Q.F32, Q.F16, Q.Q8_0, Q.Q4_1], ids=lambda kind: kind.name)
def test_a_head_that_repeats_the_embedding_is_tied(embedding: Any, head: Any, tmp_path: Path) -> None:
    tensors = wide_tensors(embedding)
    table = tensors.pop("table")
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": quantized(table, head)}, embedding_length=32)
    assert read_gguf(path).arch.tie_word_embeddings
    other = np.random.default_rng(2).standard_normal(table.shape, dtype=np.float32)
    path = write_gguf(tmp_path / "n.gguf", tensors | {"output.weight": quantized(other, head)}, embedding_length=32)
    assert not read_gguf(path).arch.tie_word_embeddings


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 3e38])
def test_a_degenerate_head_is_not_tied(value: float, tmp_path: Path) -> None:
    head = np.full((32, 8), value, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", gguf_tensors() | {"output.weight": head})
    assert not read_gguf(path).arch.tie_word_embeddings


def test_a_head_in_double_precision_is_read_or_refused(tmp_path: Path) -> None:
    tensors = gguf_tensors()
    head = tensors["token_embd.weight"].astype(np.float64)
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": head})
    with suppress(SpecplanError):
        assert read_gguf(path).arch.tie_word_embeddings


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    head = np.ones((16, 8), dtype=np.float32)
    with pytest.raises(InputError, match=r"output\.weight"):
        read_gguf(write_gguf(tmp_path / "m.gguf", gguf_tensors() | {"output.weight": head}))


@pytest.mark.parametrize("name", sorted(gguf_tensors()))
def test_a_missing_gguf_tensor_is_refused(name: str, tmp_path: Path) -> None:
    tensors = gguf_tensors()
    del tensors[name]
    with pytest.raises(InputError, match="missing"):
        read_gguf(write_gguf(tmp_path / "m.gguf", tensors))


@pytest.mark.parametrize(
    "metadata",
    [
        {"block_count": 2},
        {"block_count": 0},
        {"block_count": 4_000_000_000},
        {"embedding_length": 9},
        {"head_count": 0},
        {"head_count": 3},
        {"head_count_kv": 0},
        {"head_count_kv": [1, 1]},
        {"feed_forward_length": 0},
        {"feed_forward_length": [16]},
        {"context_length": 0},
        {"key_length": 3},
        {"key_length": 0},
        {"layer_norm_rms_eps": 0.0},
        {"layer_norm_rms_eps": float("nan")},
        {"rope_freq_base": float("inf")},
        {"rope_freq_base": -1.0},
        {"rope_scaling_type": gguf.RopeScalingType.YARN},
        {"custom_alignment": 0},
        {"architecture": "gpt2"},
        {"architecture": ""},
    ],
    ids=str,
)
def test_absurd_gguf_metadata_is_refused(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = gguf_with(tmp_path / "m.gguf", **metadata)
    with pytest.raises(InputError, match=r"m\.gguf"):
        read_gguf(path)


def gguf_with(path: Path, **metadata: Any) -> Path:
    """A GGUF file whose metadata has other values than its tensors need; later keys win."""
    if metadata.get("custom_alignment") == 0:
        write_gguf(path, gguf_tensors(), custom_alignment=32)
        content = path.read_bytes()
        place = content.index(b"general.alignment") + len("general.alignment") + 4
        path.write_bytes(content[:place] + struct.pack("<I", 0) + content[place + 4 :])
        return path
    return write_gguf(path, gguf_tensors(), **metadata)


def test_every_truncated_gguf_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.gguf"
    shutil.copy(tiny_gguf, path)
    last = max(entry.offset + entry.num_bytes for entry in read_gguf_header(path).tensors.values())
    assert last == path.stat().st_size
    for length in range(last - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(InputError):
            resolve_model(str(path))


def header_end(path: Path) -> int:
    return min(entry.offset for entry in read_gguf_header(path).tensors.values())


def read_or_refuse(path: Path) -> None:
    """Any exception but SpecplanError fails the test; so does taking far more memory than the file has."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy on random numbers
            read_gguf(path)
    except SpecplanError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.fixture(scope="session")
def untied_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a head of its own and an array, so that every branch of the reader is walked."""
    head = np.random.default_rng(3).standard_normal((32, 8), dtype=np.float32)
    tensors = gguf_tensors() | {"output.weight": head}
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "untied.gguf", tensors, token_list=["a", "b"], custom_alignment=32
    )


@settings(max_examples=500)
@given(data=st.data())
def test_any_damaged_gguf_is_read_or_refused(
    untied_gguf: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(untied_gguf.read_bytes())
    last = header_end(untied_gguf) - 1
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, last))] ^= data.draw(st.integers(1, 255))
    read_or_refuse(damaged(tmp_path_factory.getbasetemp(), content))


@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_any_overwritten_byte_is_read_or_refused(value: int, untied_gguf: Path, tmp_path: Path) -> None:
    content = untied_gguf.read_bytes()
    path = damaged(tmp_path, content)
    with path.open("r+b", buffering=0) as file:
        for position in range(header_end(untied_gguf)):
            file.seek(position)
            file.write(bytes([value]))
            read_or_refuse(path)
            file.seek(position)
            file.write(content[position : position + 1])


def shape_places(content: bytes, name: str) -> Iterator[int]:
    """Where a tensor's dimensions stand."""
    place = content.rindex(name.encode()) + len(name)
    (rank,) = struct.unpack_from("<I", content, place)
    yield from range(place + 4, place + 4 + 8 * rank, 8)


@pytest.mark.parametrize("dimension", [0, 1])
@pytest.mark.parametrize("size", [0, 1 << 32, 1 << 63])
def test_tables_of_absurd_shape_are_refused(dimension: int, size: int, tmp_path: Path) -> None:
    tensors = gguf_tensors()
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": tensors["token_embd.weight"]})
    content = bytearray(path.read_bytes())
    for name in ("token_embd.weight", "output.weight"):
        place = list(shape_places(bytes(content), name))[dimension]
        struct.pack_into("<Q", content, place, size)
    with pytest.raises(InputError):
        read_gguf(damaged(tmp_path, content))


def test_an_unknown_ggml_type_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    for kind in (4, 5, 9, 31, 99, 1 << 31):
        content = bytearray(tiny_gguf.read_bytes())
        *_, last = shape_places(bytes(content), "blk.0.attn_q.weight")
        struct.pack_into("<I", content, last + 8, kind)
        with pytest.raises(UnsupportedError, match=rf"attn_q.* {kind}"):
            read_gguf(damaged(tmp_path, content))


@pytest.mark.parametrize("magic", [b"GGML", b"gguf", b"FUGG", b"\x00\x00\x00\x00", b"PK\x03\x04"], ids=repr)
def test_another_magic_is_refused(magic: bytes, tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a GGUF file"):
        read_gguf(damaged(tmp_path, magic + tiny_gguf.read_bytes()[4:]))


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24, (1 << 32) - 1])
def test_another_version_is_refused(version: int, tiny_gguf: Path, tmp_path: Path) -> None:
    content = tiny_gguf.read_bytes()
    with pytest.raises(UnsupportedError, match=f"version {version} "):
        read_gguf(damaged(tmp_path, content[:4] + struct.pack("<I", version) + content[8:]))


@pytest.mark.parametrize("count", [0, 1, 12, 1 << 20, 1 << 40, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("place", [8, 16], ids=["tensors", "entries"])
def test_a_wrong_count_is_refused(place: int, count: int, tiny_gguf: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    struct.pack_into("<Q", content, place, count)
    with pytest.raises(InputError):
        read_gguf(damaged(tmp_path, content))


def test_a_tensor_twice_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    content = tiny_gguf.read_bytes().replace(b"blk.0.attn_k.weight", b"blk.0.attn_v.weight")
    with pytest.raises(InputError, match="twice"):
        read_gguf(damaged(tmp_path, content))


@pytest.mark.parametrize("depth", [3, 10, 5000])
def test_nested_arrays_do_not_exhaust_the_stack(depth: int, tmp_path: Path) -> None:
    key = b"a"
    nested = struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 1) + b"\x00"
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<I", 9) + nested
    with pytest.raises(InputError):
        read_gguf(damaged(tmp_path, content))


def test_the_fingerprint_covers_the_header_only(tiny_gguf: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    content[-1] ^= 1
    assert read_gguf(damaged(tmp_path, content)).config_sha256 == read_gguf(tiny_gguf).config_sha256
    content = bytearray(tiny_gguf.read_bytes())
    place = content.index(b"llama.context_length") + len("llama.context_length") + 4
    content[place] ^= 1
    assert read_gguf(damaged(tmp_path, content)).config_sha256 != read_gguf(tiny_gguf).config_sha256
