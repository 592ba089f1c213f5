"""``plan.json``: canonical, versioned, and read as untrusted input."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from specplan.atomic import write_atomically
from specplan.errors import InputError
from specplan.json_input import read_json
from specplan.plan import SCHEMA_VERSION, Plan
from specplan.plan_checks import check_plan_values
from specplan.strict import canonical, decode, encode

_MAX_PLAN_BYTES = 16 << 20


def dumps(plan: Plan) -> str:
    """Canonical text: sorted keys, integer bytes, no timestamps. Planning twice gives the same bytes.

    The key ``sha256`` is the hash of everything else, so that an edit or a bad merge does not pass for a plan.
    """
    data = encode(plan)
    return canonical({**data, "sha256": _sha256(data)})


def save(plan: Plan, path: Path) -> None:
    """Write the plan atomically.

    Raises:
        EnvironmentProblem: the file cannot be written.
        InputError: there is a file of that name which is not JSON.
    """
    try:
        with path.open("rb") as file:
            foreign = path.is_file() and file.read(1) not in (b"", b"{")
    except OSError:
        foreign = False
    if foreign:
        raise InputError(f"{path}: is there already and is not a plan: not overwritten")
    write_atomically(path, dumps(plan))


def load(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        InputError: no such file, not JSON, another schema version, an unknown key, values that contradict
            one another.
    """
    return _decoded(read_json(path, "plan", _MAX_PLAN_BYTES), str(path))


def loads(text: str, where: str) -> Plan:
    """The same for a text.

    Args:
        text: content of a plan file.
        where: it comes from, for error messages.

    Raises:
        InputError: as ``load``.
    """
    if len(text) > _MAX_PLAN_BYTES:
        raise InputError(f"{where}: plan of {len(text)} characters, expected at most {_MAX_PLAN_BYTES}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not a JSON plan") from None
    return _decoded(data, where)


def _decoded(data: Any, where: str) -> Plan:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(f"{where}: schema_version is {version!r}, this specplan reads {SCHEMA_VERSION}: analyze again")
    stored = data.pop("sha256", None)
    plan = decode(Plan, data, where)
    check_plan_values(plan, where)
    if stored is None:
        raise InputError(f"{where}: missing key sha256")
    if stored != _sha256(encode(plan)):
        raise InputError(f"{where}: was changed after it was planned (its sha256 does not match): analyze again")
    return plan


def plan_sha256(plan: Plan) -> str:
    """The hash that a plan's file carries: of everything in it."""
    return _sha256(encode(plan))


def _sha256(data: Any) -> str:
    return hashlib.sha256(canonical(data).encode("utf-8", "surrogatepass")).hexdigest()
