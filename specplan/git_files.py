"""Files of a git revision, named as git does: ``REV:path``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from specplan.errors import EnvironmentProblem, InputError

#: What a revision may be spelled with: names, hashes, ``HEAD~2``, ``v1.0^{}``, ``main@{1}``.
_REVISION = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_./@^~{}+-]*")
_SECONDS = 60


def is_git_name(text: str) -> bool:
    """Whether a name is one of a revision: it has a colon, and there is no file of that name."""
    return ":" in text and not Path(text).exists()


def git_file(text: str) -> str:
    """The content of ``REV:path``; a path in front of which stands ``./`` begins in this folder, others at the top.

    Raises:
        InputError: no such revision or file, or a name that git would read as something else.
        EnvironmentProblem: there is no git.
    """
    revision, _, path = text.partition(":")
    if not _REVISION.fullmatch(revision) or ".." in revision or not path or "\0" in path or "\n" in path:
        raise InputError(f"{text!r}: expected a file, or REV:path with a revision of git")
    command = ["git", "--no-pager", "show", "--no-textconv", f"{revision}:{path}"]
    try:
        result = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise EnvironmentProblem(f"{text}: reading a revision needs git") from None
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"{text}: git did not answer in {_SECONDS} s") from None
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{text}: {lines[0].removeprefix('fatal: ') if lines else 'git knows no such file'}")
    try:
        return result.stdout.decode()
    except UnicodeDecodeError:
        raise InputError(f"{text}: is not UTF-8 text") from None
