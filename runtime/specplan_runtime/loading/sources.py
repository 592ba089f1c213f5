"""Where tensors are read from: safetensors files or a GGUF file, by Hugging Face name, in tiles of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from specplan.arch import ModelArch
from specplan.errors import EnvironmentProblem, InputError
from specplan.families import FAMILIES
from specplan.models.gguf import embedding_source, read_gguf_arch, tensors_by_name
from specplan.models.gguf_header import GGML_TYPES, read_gguf_header
from specplan.models.gguf_names import ROPE_FACTORS_GGUF
from specplan.models.names import naming_of
from specplan.models.safetensors_header import read_headers, safetensors_files
from specplan.models.tensors import TensorEntry, check_tensors
from specplan_runtime.groups import Groups
from specplan_runtime.loading.gguf_groups import GROUPED, GroupReader

#: Elements per tile, as the plan's ``load_staging`` assumes.
TILE_ELEMENTS = 1 << 20


class TensorSource(Protocol):
    """A checkpoint."""

    def tiles(self, name: str, within: range | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, rows) of a tensor, in order, all or those of a range; vectors come as one tile."""

    def groups(self, name: str) -> Iterator[tuple[int, Groups]] | None:
        """The same rows in the 4-bit groups that the file has them in; None where it has them otherwise."""

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""

    def rope_factors(self) -> torch.Tensor | None:
        """[d/2] divisors of the rotary frequencies, where the file has them."""


def open_source(reference: str, kind: str, arch: ModelArch) -> TensorSource:
    """Open a model's files.

    Raises:
        InputError: a bundled profile, which has no weights, or files that do not match ``arch``.
    """
    if kind == "gguf":
        return GgufSource(Path(reference), arch)
    if kind == "folder":
        return SafetensorsSource(Path(reference), arch)
    raise InputError(f"{reference}: a {kind} has no weights here: give a folder or .gguf file with --model or --draft")


def _row_tiles(entry: TensorEntry, within: range | None, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """(first, count) of row tiles; counts are multiples of ``multiple`` but for the last."""
    wanted = within if within is not None else range(entry.shape[0])
    columns = math.prod(entry.shape[1:])
    step = max(multiple, TILE_ELEMENTS // columns // multiple * multiple)
    for first in range(wanted.start, wanted.stop, step):
        yield first, min(step, wanted.stop - first)


def _read_rows(path: Path, entry: TensorEntry, first: int, count: int) -> bytearray:
    row_bytes = entry.num_bytes // entry.shape[0]
    data = bytearray(count * row_bytes)
    with path.open("rb") as file:
        file.seek(entry.offset + first * row_bytes)
        if file.readinto(data) != len(data):
            raise InputError(f"{path}: truncated while reading")
    return data


class FileTiles:
    """Tensors of safetensors files, row by row.

    Args:
        files: that entries point into.
        entries: of their headers.
    """

    _DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # noqa: RUF012

    def __init__(self, files: list[Path], entries: dict[str, TensorEntry]) -> None:
        self.files, self.entries = files, entries

    def has(self, name: str) -> bool:
        """Whether the headers name it."""
        return name in self.entries

    def tiles(self, name: str, within: range | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows in the file's dtype."""
        entry = self.entries[name]
        path = self.files[entry.file]
        if entry.dtype not in self._DTYPES:
            raise InputError(f"{path}: tensor {name} is {entry.dtype}, expected one of {', '.join(self._DTYPES)}")
        for first, count in _row_tiles(entry, within):
            rows = torch.frombuffer(_read_rows(path, entry, first, count), dtype=self._DTYPES[entry.dtype])
            yield first, rows.view(count, *entry.shape[1:])

    def groups(self, name: str) -> Iterator[tuple[int, Groups]] | None:
        """None: these files hold plain floats."""
        return None

    def integers(self, name: str) -> torch.Tensor:
        """A vector of integers."""
        entry = self.entries[name]
        data = _read_rows(self.files[entry.file], entry, 0, entry.shape[0])
        return torch.frombuffer(data, dtype=torch.int64 if entry.dtype == "I64" else torch.int32)


class SafetensorsSource(FileTiles):
    """A folder of safetensors files.

    Raises:
        InputError: no weights, or tensors that do not match the architecture.
        EnvironmentProblem: a dtype that is not a plain float.
    """

    def __init__(self, folder: Path, arch: ModelArch) -> None:
        files = safetensors_files(folder)
        if not files:
            raise InputError(f"{folder}: no model.safetensors in this folder")
        super().__init__(files, read_headers(files))
        check_tensors(arch, self.entries, str(folder))

    def rope_factors(self) -> torch.Tensor | None:
        """Safetensors checkpoints say it in their config."""
        return None


class GgufSource:
    """A GGUF file; tiles are dequantized to float32.

    Raises:
        InputError: tensors that do not match the architecture.
        EnvironmentProblem: the gguf package is missing.
    """

    def __init__(self, path: Path, arch: ModelArch) -> None:
        try:
            from gguf import GGMLQuantizationType, dequantize
        except ImportError:
            raise EnvironmentProblem(f"{path}: reading GGUF weights needs the gguf package: pip install gguf") from None
        self.path, self.arch = path, arch
        self._dequantize, self._types = dequantize, GGMLQuantizationType
        header = read_gguf_header(path)
        if read_gguf_arch(header, path) != arch:
            raise InputError(f"{path}: is not the model that the plan was made for")
        self.entries = tensors_by_name(arch, header)
        self._rope_entry = header.tensors.get(ROPE_FACTORS_GGUF)

    def has(self, name: str) -> bool:
        """Whether the file has it; a tied embedding may go by the head's name."""
        return name in self.entries or name == f"{naming_of(self.arch).embedding}.weight"

    def tiles(self, name: str, within: range | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows in float32, in Hugging Face's order of rows."""
        if name == f"{naming_of(self.arch).embedding}.weight":
            name = embedding_source(self.arch, self.entries)
        entry, permuted = self.entries[name], self._is_permuted(name)
        for first, count in _row_tiles(entry, within, self.arch.head_dim if permuted else 1):
            rows = self._float_rows(entry, first, count)
            yield first, self._restore_order(rows) if permuted else rows

    def groups(self, name: str) -> Iterator[tuple[int, Groups]] | None:
        """Codes of tensors whose blocks are groups of 32 in 4 bits, in the same order of rows."""
        read = GROUPED.get(self.entries[name].dtype)
        return None if read is None else self._group_tiles(name, read)

    def _group_tiles(self, name: str, read: GroupReader) -> Iterator[tuple[int, Groups]]:
        entry, permuted = self.entries[name], self._is_permuted(name)
        for first, count in _row_tiles(entry, None, self.arch.head_dim if permuted else 1):
            raw = np.frombuffer(_read_rows(self.path, entry, first, count), dtype=np.uint8)
            rows = read(raw.reshape(count, -1))
            if permuted:
                rows = Groups(*(self._restore_order(part) for part in (rows.codes, rows.scale, rows.zero)))
            yield first, rows

    def _is_permuted(self, name: str) -> bool:
        return FAMILIES[self.arch.model_type].permuted_in_gguf and (".q_proj." in name or ".k_proj." in name)

    def rope_factors(self) -> torch.Tensor | None:
        """Llama 3's scaling comes as one divisor per frequency."""
        return None if self._rope_entry is None else self._float_rows(self._rope_entry, 0, self._rope_entry.shape[0])

    def _float_rows(self, entry: TensorEntry, first: int, count: int) -> torch.Tensor:
        raw = np.frombuffer(_read_rows(self.path, entry, first, count), dtype=np.uint8)
        (kind,) = (number for number, (label, _, _) in GGML_TYPES.items() if label == entry.dtype)
        values = self._dequantize(raw.reshape(count, -1) if len(entry.shape) > 1 else raw, self._types(kind))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).view(count, *entry.shape[1:])

    def _restore_order(self, rows: torch.Tensor) -> torch.Tensor:
        """Converters interleave each head's two halves; undo it: [heads, d/2, 2, …] to [heads, 2, d/2, …]."""
        d = self.arch.head_dim
        return rows.view(-1, d // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
