"""Metadata and tensor directory of a GGUF file, read from its first bytes without the gguf package.

That package maps the whole file and builds every vocabulary string, which takes seconds; planning needs neither.
Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from specplan.errors import InputError, UnsupportedError
from specplan.models.tensors import TensorEntry
from specplan.quantized.ggml import GGML_TYPES as GGML_TYPES

_T = TypeVar("_T")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_NESTING = 4
_KEPT_ARRAY = 64  # longer arrays (vocabularies) are skipped, only their length is kept


@dataclass(frozen=True, slots=True)
class ArrayLength:
    """Stands for an array that was skipped."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says before its data.

    Attributes:
        metadata: key to value; long arrays as ``ArrayLength``.
        tensors: by GGUF name; shapes outermost first (GGUF stores them innermost first).
        sha256: of all bytes before the data.
    """

    metadata: dict[str, Any]
    tensors: dict[str, TensorEntry]
    sha256: str


class _Cursor:
    """A bounds-checked position in the mapped file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise InputError(f"{self.path}: truncated GGUF: header runs past byte {len(self.data)}")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self.data):
            raise InputError(f"{self.path}: truncated GGUF: header runs past byte {len(self.data)}")

    def unpack(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.unpack("Q")).decode("utf-8", errors="replace")

    def count(self, minimum_size: int, what: str) -> int:
        """A 64-bit count, refused when so many entries cannot be in the file."""
        count: int = self.unpack("Q")
        if count * minimum_size > len(self.data) - self.position:
            raise InputError(f"{self.path}: truncated or corrupt GGUF: {count} {what} do not fit the file")
        return count


def read_gguf_header(path: Path) -> GgufHeader:
    """Read metadata and tensor directory.

    Raises:
        InputError: not GGUF, truncated or corrupt.
        UnsupportedError: another GGUF version, big-endian data, or a tensor type that specplan does not know.
    """
    return _with_cursor(path, _read)


def read_gguf_name(path: Path) -> str | None:
    """``general.name`` of a file, None without one; reads no further than there, which is usually near the start.

    Raises:
        InputError: not GGUF, truncated or corrupt.
        UnsupportedError: another GGUF version.
    """
    return _with_cursor(path, _name)


def read_gguf_tokens(path: Path) -> list[str] | None:
    """The vocabulary of a file in the order of ids, None without one.

    Raises:
        InputError: not GGUF, truncated or corrupt.
        UnsupportedError: another GGUF version.
    """
    return _with_cursor(path, _tokens)


def _with_cursor(path: Path, read: Callable[[_Cursor], _T]) -> _T:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read(_Cursor(data, path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise InputError(f"{path}: cannot read as GGUF: {error}") from None


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Tensors and metadata entries, from the first bytes."""
    if cursor.take(4) != b"GGUF":
        raise InputError(f"{cursor.path}: not a GGUF file: it does not start with GGUF")
    version = cursor.unpack("I")
    if version not in (2, 3):
        raise UnsupportedError(f"{cursor.path}: GGUF version {version} is not supported: 2 or 3, little-endian")
    return cursor.count(24, "tensors"), cursor.count(12, "metadata entries")


def _name(cursor: _Cursor) -> str | None:
    _, num_pairs = _counts(cursor)
    for _ in range(num_pairs):
        key = cursor.string()
        value = _value(cursor, cursor.unpack("I"), 0)
        if key == "general.name":
            return value if isinstance(value, str) else None
    return None


def _tokens(cursor: _Cursor) -> list[str] | None:
    _, num_pairs = _counts(cursor)
    for _ in range(num_pairs):
        key, kind = cursor.string(), cursor.unpack("I")
        if key != "tokenizer.ggml.tokens":
            _value(cursor, kind, 0)
        elif kind != _ARRAY or cursor.unpack("I") != _STRING:
            raise InputError(f"{cursor.path}: corrupt GGUF: tokenizer.ggml.tokens is not a list of strings")
        else:
            return [cursor.string() for _ in range(cursor.count(8, "tokens"))]
    return None


def _read(cursor: _Cursor) -> GgufHeader:
    num_tensors, num_pairs = _counts(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.string()
        metadata[key] = _value(cursor, cursor.unpack("I"), 0)
    directory = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment > 1 << 20:
        raise InputError(f"{cursor.path}: corrupt GGUF: general.alignment is {alignment!r}")
    header_bytes = cursor.position
    data_start = -(-header_bytes // alignment) * alignment
    tensors = {name: _place(cursor, name, info, data_start) for name, *info in directory}
    if len(tensors) != num_tensors:
        raise InputError(f"{cursor.path}: corrupt GGUF: a tensor name appears twice")
    return GgufHeader(metadata, tensors, hashlib.sha256(cursor.data[:header_bytes]).hexdigest())


def _value(cursor: _Cursor, kind: int, depth: int) -> Any:
    if kind in _SCALARS:
        return cursor.unpack(_SCALARS[kind])
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY and depth < _MAX_NESTING:
        return _array(cursor, depth)
    raise InputError(f"{cursor.path}: corrupt GGUF: metadata type {kind}")


def _array(cursor: _Cursor, depth: int) -> Any:
    kind = cursor.unpack("I")
    count = cursor.count(1, "array entries")
    if count <= _KEPT_ARRAY:
        return [_value(cursor, kind, depth + 1) for _ in range(count)]
    if kind in _SCALARS:
        cursor.skip(count * struct.calcsize("<" + _SCALARS[kind]))
    elif kind == _STRING:
        for _ in range(count):
            cursor.skip(cursor.unpack("Q"))
    else:
        for _ in range(count):
            _value(cursor, kind, depth + 1)
    return ArrayLength(count)


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    rank = cursor.unpack("I")
    if rank > 4:
        raise InputError(f"{cursor.path}: corrupt GGUF: tensor {name!r} has {rank} dimensions")
    shape = tuple(reversed([cursor.unpack("Q") for _ in range(rank)]))
    return name, shape, cursor.unpack("I"), cursor.unpack("Q")


def _place(cursor: _Cursor, name: str, info: list[Any], data_start: int) -> TensorEntry:
    shape, kind, offset = info
    if kind not in GGML_TYPES:
        raise UnsupportedError(f"{cursor.path}: tensor {name} has ggml type {kind}, which is not supported")
    type_name, block, block_bytes = GGML_TYPES[kind]
    if not shape or shape[-1] % block:
        raise InputError(f"{cursor.path}: corrupt GGUF: tensor {name} of shape {list(shape)} in blocks of {block}")
    num_bytes = math.prod(shape) // block * block_bytes
    if data_start + offset + num_bytes > len(cursor.data):
        raise InputError(
            f"{cursor.path}: truncated GGUF: tensor {name} ends at byte {data_start + offset + num_bytes} "
            f"of {len(cursor.data)}"
        )
    return TensorEntry(type_name, shape, 0, data_start + offset, num_bytes)
