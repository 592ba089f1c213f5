"""Medusa heads on disk: a folder with config.json and the heads, as their authors publish them.

The file decides how many heads there are: medusa-vicuna-7b-v1.3 has five, and its config says two.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from specplan.arch import ModelArch
from specplan.errors import InputError, UnsupportedError
from specplan.models.medusa_names import MedusaNames, medusa_names
from specplan.models.safetensors_header import read_headers
from specplan.models.tensors import TensorEntry
from specplan.plan import HeadsInput

CONFIG_NAME = "config.json"
SAFETENSORS_NAME = "medusa_lm_head.safetensors"
PICKLE_NAME = "medusa_lm_head.pt"
#: Measured acceptance beside the heads, where ``specplan train-heads`` wrote them.
ACCEPTANCE_NAME = "acceptance.json"
#: The files that may hold heads, the first of them that is there.
FILE_NAMES = (SAFETENSORS_NAME, "model.safetensors", PICKLE_NAME)

#: Entries of a .pt, and bytes of its pickle, that more heads than anyone trains would need.
_MAX_ENTRIES, _MAX_PICKLE_BYTES = 4096, 1 << 20
_FLOATS = ("F32", "F16", "BF16")


def medusa_input(folder: Path, config: dict[str, Any], config_path: Path, arch: ModelArch) -> HeadsInput:
    """Read what a folder of Medusa heads holds, without reading any of their weights.

    Args:
        folder: where they are.
        config: content of its config.json.
        config_path: that file.
        arch: of the target that they are for.

    Raises:
        InputError: a damaged file, or heads of another target's sizes.
        UnsupportedError: tensors or a format that Medusa heads do not have.
    """
    _refuse_others(config, config_path)
    path = heads_file(folder)
    layers = _layers(config, arch, config_path)
    digest = hashlib.sha256(config_path.read_bytes())
    if path.suffix == ".pt":
        sizes = _storage_sizes(path, digest)
        num_heads, num_layers, shares_head = _from_sizes(sizes, arch, layers or 1, path)
    else:
        entries = read_headers([path])
        digest.update(repr(sorted(entries.items())).encode())
        names = check_heads_tensors(entries, arch, str(path))
        num_heads, num_layers, shares_head = names.num_heads, names.num_layers, names.shares_head
        if layers not in (None, num_layers):
            raise InputError(f"{config_path}: medusa_num_layers is {layers}, {path.name} has {num_layers}")
    return HeadsInput(str(folder.resolve()), digest.hexdigest(), num_heads, num_layers, shares_head)


def _refuse_others(config: dict[str, Any], path: Path) -> None:
    """Other EAGLE heads, and whatever else the speculators library writes, say what they are."""
    kind = config.get("speculators_model_type")
    architectures = config.get("architectures")
    named = [kind] if kind is not None else architectures if isinstance(architectures, list) else []
    for name in map(str, named):
        if kind is not None or "eagle" in name.lower():
            raise UnsupportedError(f"{path}: {name[:40]!r} is not loaded, --heads takes Medusa and EAGLE-3 heads")


def heads_file(folder: Path) -> Path:
    """The file of a folder that holds heads.

    Raises:
        InputError: there is none.
    """
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds none of {', '.join(FILE_NAMES)}")


def check_heads_tensors(entries: dict[str, TensorEntry], arch: ModelArch, where: str) -> MedusaNames:
    """Hold the tensors of a file against the target that the heads are for.

    Raises:
        InputError: a tensor that is missing, of another shape or not in floats.
        UnsupportedError: a tensor that no Medusa head has.
    """
    names = medusa_names(entries.keys(), where)
    for name, entry in entries.items():
        if entry.dtype not in _FLOATS:
            raise UnsupportedError(f"{where}: tensor {name} is {entry.dtype}, expected one of {', '.join(_FLOATS)}")
    shapes = {name: entry.shape for name, entry in entries.items()}
    check_shapes(shapes, names, arch, where)
    return names


def check_shapes(shapes: dict[str, tuple[int, ...]], names: MedusaNames, arch: ModelArch, where: str) -> None:
    """Refuse tensors of other sizes than the target's.

    Raises:
        InputError: names the tensor.
    """
    h, vocab = arch.hidden_size, arch.vocab_size
    for head in range(names.num_heads):
        expected: dict[str | None, tuple[int, ...]] = {names.head(head): (vocab, h)}
        for layer in range(names.num_layers):
            expected |= {names.block(head, layer): (h, h), names.bias(head, layer): (h,)}
        for name, shape in expected.items():
            if name is not None and shapes[name] != shape:
                raise InputError(f"{where}: tensor {name} is {list(shapes[name])}, this target needs {list(shape)}")


def _layers(config: dict[str, Any], arch: ModelArch, path: Path) -> int | None:
    """``medusa_num_layers`` where the config has it; sizes that it names must be the target's."""
    for key in ("medusa_num_heads", "medusa_num_layers"):
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024):
            raise InputError(f"{path}: {key} must be a whole number from 1 to 1024, found {json.dumps(value)[:40]}")
    for key in ("hidden_size", "vocab_size"):
        value, needed = config.get(key), getattr(arch, key)
        if value is not None and value != needed:
            raise InputError(f"{path}: {key} is {json.dumps(value)[:40]}, this target's is {needed}")
    layers = config.get("medusa_num_layers")
    return layers if isinstance(layers, int) else None


def _storage_sizes(path: Path, digest: Any) -> Counter[int]:
    """How often each size of a tensor's storage occurs in a .pt: a zip archive whose pickle is never looked into.

    Format: torch.save since 1.6: ``<name>/data.pkl`` and, not compressed, ``<name>/data/<number>``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, struct.error, zlib.error, EOFError, NotImplementedError,
            OverflowError):  # fmt: skip
        raise InputError(f"{path}: not a zip archive as torch.save writes it, or truncated") from None
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(entries) > _MAX_ENTRIES or len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
        raise InputError(f"{path}: not an archive of a few tensors as torch.save writes it")
    data = [entry for entry in entries if re.fullmatch(r"[^/]+/data/\d{1,9}", entry.filename)]
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in data):
        raise InputError(f"{path}: its tensors are compressed, which torch.save does not do")
    if sum(entry.file_size for entry in data) > path.stat().st_size:
        raise InputError(f"{path}: its tensors are larger than the file")
    digest.update(repr([(entry.filename, entry.file_size, entry.CRC) for entry in entries]).encode())
    return Counter(entry.file_size for entry in data)


def _from_sizes(sizes: Counter[int], arch: ModelArch, num_layers: int, path: Path) -> tuple[int, int, bool]:
    """Heads, layers and sharing of a .pt: its storages must be blocks, biases and output heads of this target."""
    h, vocab = arch.hidden_size, arch.vocab_size
    for element_bytes in (2, 4):
        block, bias, head = h * h * element_bytes, h * element_bytes, vocab * h * element_bytes
        num_heads, rest = divmod(sizes[block], num_layers)
        whole = num_heads > 0 and not rest and sizes[bias] == sizes[block] and sizes[head] in (0, num_heads)
        if whole and set(sizes) <= {block, bias, head}:
            return num_heads, num_layers, not sizes[head]
    raise InputError(
        f"{path}: its tensors are not heads of {num_layers} layers for a target with hidden_size {h} and "
        f"vocab_size {vocab}"
    )
