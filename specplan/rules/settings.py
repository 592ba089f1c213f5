"""Settings of ``check`` in pyproject.toml (``[tool.specplan]``) or specplan.toml (``[check]``)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.rules.checking import Options
from specplan.strict import decode
from specplan.toml_input import read_toml

_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a file may say: the options of ``check`` of the same names."""

    gpu: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    baseline: str | None = None


def with_settings(options: Options, folder: Path) -> Options:
    """Options filled up from the files of a folder; what is on the command line goes first, specplan.toml second.

    Raises:
        InputError: a file that is not TOML, or an unknown or wrong key.
    """
    for name, keys in (("specplan.toml", ("check",)), ("pyproject.toml", ("tool", "specplan"))):
        path = folder / name
        if path.is_file():
            where = f"{name}: [{'.'.join(keys)}]"
            found = decode(_Settings, _table(path, keys, where), where, defaults=True)
            options = _filled(options, found, folder)
    return options


def _table(path: Path, keys: tuple[str, ...], where: str) -> Any:
    data: Any = read_toml(path, "settings", _MAX_BYTES)
    for key in keys:
        data = data.get(key, {})
        if not isinstance(data, dict):
            raise InputError(f"{where}: {key} must be a table")
    return data


def _filled(options: Options, found: _Settings, folder: Path) -> Options:
    return dataclasses.replace(
        options,
        gpu=options.gpu or found.gpu,
        select=options.select or found.select,
        ignore=options.ignore or found.ignore,
        baseline=options.baseline or (folder / found.baseline if found.baseline else None),
    )
