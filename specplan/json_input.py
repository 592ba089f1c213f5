"""Reading JSON files that somebody else may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.input_file import read_file


def read_json(path: Path, what: str, max_bytes: int) -> Any:
    """Read a JSON file of limited size.

    Raises:
        InputError: missing, unreadable, too large, or not JSON (with line and column).
    """
    try:
        return json.loads(read_file(path, what, max_bytes))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except (ValueError, RecursionError):  # not UTF-8, absurdly long numbers, absurdly deep nesting
        raise InputError(f"{path}: not a JSON {what}") from None
