"""Reading JSON files that somebody else may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specplan.errors import InputError


def read_json(path: Path, what: str, max_bytes: int) -> Any:
    """Read a JSON file of limited size.

    Raises:
        InputError: missing, unreadable, too large, or not JSON (with line and column).
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file, expected a {what}")
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path}: {what} of {path.stat().st_size} bytes, expected at most {max_bytes}")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what} file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read {what}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except (ValueError, RecursionError):  # not UTF-8, absurdly long numbers, absurdly deep nesting
        raise InputError(f"{path}: not a JSON {what}") from None
