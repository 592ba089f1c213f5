"""The user's own profiles: what ``specplan calibrate`` measured on this machine, one JSON file each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from specplan.atomic import check_writable, write_atomically
from specplan.errors import EnvironmentProblem, InputError
from specplan.json_input import read_json
from specplan.strict import canonical, decode, encode

Kind = Literal["acceptance", "devices", "step-times"]
T = TypeVar("T")

#: Names another folder, for tests, for CI, and for profiles that travel with a project.
FOLDER_VARIABLE = "SPECPLAN_PROFILES"

_MAX_PROFILE_BYTES = 4 << 20


def user_folder() -> Path:
    """The folder of all kinds; it need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path  # late: only questions about this machine look here

    return user_data_path("specplan", appauthor=False) / "profiles"


def profile_path(kind: Kind, name: str, folder: Path | None = None) -> Path:
    """Where a profile of that name is kept: whatever a file system may dislike becomes a hyphen."""
    return (folder or user_folder()) / kind / (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") + ".json")


def save(kind: Kind, name: str, profile: Any, folder: Path | None = None) -> Path:
    """Write a profile atomically, over an older one of the same name.

    Args:
        kind: subfolder.
        name: of the profile.
        profile: a dataclass with a ``schema_version``.
        folder: of all kinds, ``user_folder()`` when None.

    Raises:
        EnvironmentProblem: the folder or the file cannot be written.
    """
    path = profile_path(kind, name, folder)
    _make(path.parent)
    write_atomically(path, canonical(encode(profile)))
    return path


def prepare(folder: Path | None = None) -> None:
    """Make the folder of all kinds before anything is measured for it.

    Raises:
        EnvironmentProblem: it cannot be made or written to.
    """
    root = folder or user_folder()
    _make(root)
    check_writable(root / "acceptance", "--output-dir")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"cannot make {folder}: {error.strerror or error}") from error


def load(path: Path, cls: type[T], schema_version: int) -> T:
    """Read one profile strictly.

    Raises:
        InputError: not JSON, another schema version, an unknown or missing key, figures that contradict one another.
    """
    data = read_json(path, "profile", _MAX_PROFILE_BYTES)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != schema_version or isinstance(version, bool):
        raise InputError(f"{path}: schema_version is {version!r}, expected {schema_version}: calibrate again")
    return decode(cls, data, str(path))


def load_all(kind: Kind, cls: type[T], schema_version: int) -> tuple[T, ...]:
    """Every profile of a kind in the user's folder, in the order of their names; none where there is no folder.

    Raises:
        InputError: one of them is damaged: a figure that was measured is used or refused, never passed over.
    """
    folder = user_folder() / kind
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise InputError(f"{folder}: cannot read user profiles: {error.strerror or error}") from None
    return tuple(load(path, cls, schema_version) for path in paths)
