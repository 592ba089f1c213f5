"""Writing a file so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from specplan.errors import EnvironmentProblem


def check_writable(path: Path, option: str) -> None:
    """Refuse before the work what ``write_atomically`` would refuse after it.

    Args:
        path: of the file that will be written.
        option: that names it.

    Raises:
        EnvironmentProblem: no such folder, or one that may not be written to.
    """
    try:
        if _takes_bytes(path):
            return
        folder = Path(os.path.realpath(path)).parent
        found, writable = folder.is_dir(), os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:  # a name that is too long
        raise EnvironmentProblem(f"{option} {path}: cannot be written: {error.strerror or error}") from None
    if not found or not writable:
        raise EnvironmentProblem(f"{option} {path}: {folder} {'may not be written to' if found else 'is not there'}")


def _takes_bytes(path: Path) -> bool:
    """/dev/stdout, a pipe: there is nothing to replace."""
    return path.exists() and not path.is_file()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8, to ``path`` through a temporary file in the same folder.

    Raises:
        EnvironmentProblem: the folder is missing, not writable, or the disk is full. Nothing is left behind.
    """
    temporary: str | None = None
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
        if _takes_bytes(path):
            path.write_bytes(data)
            return
        path = Path(os.path.realpath(path))  # links that go round in a circle stay as they are
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}") from error
    except UnicodeEncodeError:
        raise EnvironmentProblem(f"cannot write {path}: it would hold a file name that is not UTF-8") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
