"""GGUF files that are cut off, damaged or made to mislead."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.errors import InputError, SpecplanError, UnsupportedError
from specplan.models.gguf_header import read_gguf_header
from specplan.models.resolve import resolve_model
from tests.conftest import gguf_tensors, write_gguf
from tests.gguf_helpers import damaged, read_gguf


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
