"""Reading a file that somebody else may have written."""

from __future__ import annotations

from pathlib import Path

from specplan.errors import InputError


def read_file(path: Path, what: str, max_bytes: int) -> bytes:
    """The content of a regular file of limited size.

    Raises:
        InputError: missing, unreadable, or too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file, expected a {what}")
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path}: {what} of {path.stat().st_size} bytes, expected at most {max_bytes}")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what} file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read {what}: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte in its name
        raise InputError(f"{str(path)!r}: cannot read {what}: {error}") from None
