"""Medusa heads from a checkpoint into the arena: those that a plan uses, in its precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.models.medusa import check_heads_tensors, check_shapes, heads_file
from specplan.models.medusa_names import MedusaNames, medusa_names
from specplan.models.safetensors_header import read_headers
from specplan.plan import HeadsInput
from specplan_runtime.heads import Medusa
from specplan_runtime.linear import FloatLinear
from specplan_runtime.loading.sources import TILE_ELEMENTS, FileTiles


class Tiles(Protocol):
    """Reads a checkpoint."""

    def __call__(self, name: str, within: range | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows of a tensor, all or those of a range: (first row, rows)."""


def load_heads(medusa: Medusa, files: HeadsInput, arch: ModelArch, rows: range | None = None) -> None:
    """Fill the heads of a plan with the first ones of a checkpoint.

    Args:
        medusa: placed in the arena; overwritten.
        files: where they come from.
        arch: of the target.
        rows: of the output matrices, None for all.

    Raises:
        InputError: files that are not those of the plan.
    """
    path = heads_file(Path(files.reference))
    names, tiles = _open_pickle(path, arch) if path.suffix == ".pt" else _open_safetensors(path, arch)
    found = (names.num_heads, names.num_layers, names.shares_head)
    if found != (files.num_heads, files.num_layers, files.shares_head):
        raise InputError(f"{path}: is not the checkpoint that the plan was made for")
    for index, head in enumerate(medusa.heads):
        for layer, block in enumerate(head.blocks):
            assert block.bias is not None
            bias = names.bias(index, layer)
            _fill(block.weight, tiles(names.block(index, layer)))
            if bias is None:
                block.bias.zero_()
            else:
                _fill(block.bias, tiles(bias))
        own = names.head(index)
        if own is not None:
            assert isinstance(head.head, FloatLinear)
            _fill(head.head.weight, tiles(own, rows), 0 if rows is None else rows.start)


def _fill(place: torch.Tensor, tiles: Iterator[tuple[int, torch.Tensor]], before: int = 0) -> None:
    for first, rows in tiles:
        place[first - before : first - before + len(rows)].copy_(rows)


def _open_safetensors(path: Path, arch: ModelArch) -> tuple[MedusaNames, Tiles]:
    entries = read_headers([path])
    return check_heads_tensors(entries, arch, str(path)), FileTiles([path], entries).tiles


def _open_pickle(path: Path, arch: ModelArch) -> tuple[MedusaNames, Tiles]:
    """A .pt, memory-mapped: torch reads nothing but tensors and plain containers from it."""
    try:
        tensors: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001 - torch's reader of pickles raises whatever damage makes of it
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: torch cannot read it as weights only: {reason}") from None
    floats = isinstance(tensors, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        for name, tensor in tensors.items()
    )
    if not floats:
        raise InputError(f"{path}: holds something else than tensors of floats by name")
    names = medusa_names(tensors.keys(), str(path))
    check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, names, arch, str(path))

    def tiles(name: str, within: range | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        tensor = tensors[name]
        wanted = range(len(tensor)) if within is None else within
        step = max(1, TILE_ELEMENTS // (tensor.shape[1] if tensor.dim() > 1 else 1))
        for first in range(wanted.start, wanted.stop, step):
            yield first, tensor[first : min(first + step, wanted.stop)]

    return names, tiles
