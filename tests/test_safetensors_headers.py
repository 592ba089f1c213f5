"""Headers and indexes of safetensors files, and files that lie."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.errors import InputError, SpecplanError
from specplan.models.resolve import resolve_model
from specplan.models.safetensors_header import read_headers
from tests.conftest import llama_config, write_config


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
