"""Reading TOML files that somebody else may have written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.input_file import read_file


def read_toml(path: Path, what: str, max_bytes: int) -> dict[str, Any]:
    """Read a TOML file of limited size.

    Raises:
        InputError: missing, unreadable, too large, or not TOML.
    """
    try:
        return tomllib.loads(read_file(path, what, max_bytes).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
