"""Names, dtypes and shapes from safetensors headers: eight bytes of length, then JSON. No weight is read.

Format: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.models.tensors import TensorEntry

_MAX_HEADER_BYTES = 100_000_000
_ELEMENT_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "U32": 32, "U64": 64, "F4": 4,
}  # fmt: skip
INDEX_NAME = "model.safetensors.index.json"


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a folder: those an index lists, else ``model.safetensors``, else none.

    Raises:
        InputError: an index that is not valid, leaves the folder, or lists files that are not there.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        return [_shard(folder, name, index) for name in _index_files(index)]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _index_files(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        return sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{index}: not a safetensors index with a weight_map") from None


def _shard(folder: Path, name: object, index: Path) -> Path:
    if not isinstance(name, str) or Path(name).name != name or len(name) > 255 or "\0" in name:
        raise InputError(f"{index}: {name!r} is not a file name in this folder")
    if not (folder / name).is_file():
        raise InputError(f"{index}: lists {name}, which is not there")
    return folder / name


def read_headers(files: list[Path]) -> dict[str, TensorEntry]:
    """Every tensor of the files by name.

    Raises:
        InputError: a truncated or corrupt header, a tensor outside its file, or a name twice.
    """
    tensors: dict[str, TensorEntry] = {}
    for number, path in enumerate(files):
        for name, entry in _read_header(path, number).items():
            if name in tensors:
                raise InputError(f"{path}: tensor {name} appears in two files")
            tensors[name] = entry
    return tensors


def _read_header(path: Path, number: int) -> dict[str, TensorEntry]:
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise InputError(f"{path}: corrupt safetensors header: length {length} in a file of {file_bytes} bytes")
            header = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: corrupt safetensors header: not JSON") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: corrupt safetensors header: not an object")
    header.pop("__metadata__", None)
    data_start = 8 + length
    entries = {name: _entry(name, info, path, number, data_start, file_bytes) for name, info in header.items()}
    _refuse_overlaps(entries, path)
    return entries


def _refuse_overlaps(entries: dict[str, TensorEntry], path: Path) -> None:
    end = 0
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].offset, pair[1].num_bytes)):
        if entry.offset < end:
            raise InputError(f"{path}: corrupt safetensors header: tensor {name} overlaps another")
        end = entry.offset + entry.num_bytes


def _entry(name: str, info: Any, path: Path, number: int, data_start: int, file_bytes: int) -> TensorEntry:
    where = f"{path}: tensor {name}"
    try:
        dtype, shape = info["dtype"], tuple(info["shape"])
        begin, end = info["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: corrupt safetensors header: dtype, shape or data_offsets missing") from None
    if not isinstance(dtype, str) or dtype not in _ELEMENT_BITS:
        raise InputError(f"{where}: unknown dtype {dtype!r}")
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, begin, end))
    if not whole:
        raise InputError(f"{where}: shape and data_offsets must be whole numbers")
    num_bytes = math.prod(shape) * _ELEMENT_BITS[dtype] // 8
    if end - begin != num_bytes:
        raise InputError(f"{where}: {end - begin} bytes stored, its shape {list(shape)} needs {num_bytes}")
    if data_start + end > file_bytes:
        raise InputError(f"{where}: ends at byte {data_start + end} of {file_bytes}: the file is truncated")
    return TensorEntry(dtype, shape, number, data_start + begin, num_bytes)
