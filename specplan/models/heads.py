"""A folder of heads on disk, whichever drafter they are for."""

from __future__ import annotations

from pathlib import Path

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.json_input import read_json
from specplan.models.eagle3 import eagle3_input, is_eagle3
from specplan.models.medusa import CONFIG_NAME, medusa_input
from specplan.plan import HeadFiles

_MAX_CONFIG_BYTES = 1 << 20


def resolve_heads(reference: str, arch: ModelArch) -> HeadFiles:
    """Read what a folder of heads holds, without reading any of their weights.

    Args:
        reference: the folder.
        arch: of the target that they are for.

    Raises:
        InputError: no such folder, a damaged file, or heads of another target's sizes.
        UnsupportedError: tensors or a format that heads of that kind do not have.
    """
    try:
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            raise InputError(f"--heads {reference}: no such folder")
    except (OSError, ValueError, RuntimeError):  # too long for a name, a null byte, no such user
        raise InputError(f"--heads {reference[:80]!r}: no such folder") from None
    path = folder / CONFIG_NAME
    config = read_json(path, "config", _MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise InputError(f"{path}: must be an object")
    read = eagle3_input if is_eagle3(config) else medusa_input
    return read(folder, config, path, arch)
