"""What ``specplan export --format json`` writes: an engine with its arguments and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specplan.deployments.commands import Surroundings, command_deployment
from specplan.deployments.deployment import Deployment
from specplan.deployments.source import Source, Word
from specplan.errors import InputError

_KEYS = {"engine", "version", "argv", "env", "files", "notes"}


def is_export(data: object) -> bool:
    """Whether JSON is an export."""
    return isinstance(data, dict) and data.keys() == _KEYS


def is_exported(path: Path) -> bool:
    """Whether a file is one; what cannot be read is not."""
    try:
        return _export(Source.read(path)) is not None
    except InputError:
        return False


def read_export(source: Source) -> list[Deployment]:
    """The deployment of an export; other JSON has none."""
    data = _export(source)
    if data is None:
        return []
    scripts = [script for name in data["files"] if name.endswith(".py") and (script := exported_file(source, name))]
    if scripts:
        from specplan.deployments.readers.python_calls import read_python  # late: most exports are commands

        return [found for script in scripts for found in read_python(script)]
    words, position = [], max(0, source.text.find('"argv"'))
    for text in data["argv"]:
        written = json.dumps(str(text), ensure_ascii=False)
        found = source.text.find(written, position)
        position = found + len(written) if found >= 0 else position
        start = found + 1 if found >= 0 else position
        words.append(Word(str(text), source.align(str(text), start, position) or (start,)))
    deployment = command_deployment(words, source, Surroundings())
    return [] if deployment is None else [deployment]


def exported_file(source: Source, name: str) -> Source | None:
    """A file in an export; places in it are named ``export.json/file``."""
    data = _export(source)
    text = data["files"].get(name) if data is not None else None
    return Source(f"{source.path}/{name}", text) if isinstance(text, str) else None


def _export(source: Source) -> dict[str, Any] | None:
    try:
        data = json.loads(source.text)
    except (ValueError, RecursionError):
        return None
    is_whole = is_export(data) and isinstance(data["argv"], list) and isinstance(data["files"], dict)
    return data if is_whole else None
