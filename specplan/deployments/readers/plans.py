"""plan.json, and commands that run one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from specplan.deployments.deployment import Deployment, Setting
from specplan.deployments.readers.exports import is_export, read_export
from specplan.deployments.source import Location, Source, Word

_COMMANDS = ("run", "check", "verify")


def read_plan(source: Source) -> list[Deployment]:
    """A plan as a deployment of specplan, or what was exported from one; other JSON has none."""
    try:
        data = json.loads(source.text)
    except (ValueError, RecursionError):
        data = None
    if is_export(data):
        return read_export(source)
    is_plan = isinstance(data, dict) and {"schema_version", "ledger", "inputs"} <= data.keys()
    return [plan_deployment(source.path, Location(source.path, 1, 1))] if is_plan else []


def plan_deployment(path: str, location: Location) -> Deployment:
    """The plan at a path."""
    return Deployment("specplan", None, (Setting("plan", path, location),), location)


def plan_command(words: Sequence[Word], source: Source) -> Deployment | None:
    """``specplan run plan.json`` in a script; None for other commands."""
    for index, word in enumerate(words[:-1]):
        if word.text.rpartition("/")[2] == "specplan" and words[index + 1].text in _COMMANDS:
            for argument in words[index + 2 :]:
                if argument.text.endswith(".json") and not argument.unresolved:
                    return plan_deployment(_beside(source, argument.text), source.location(argument.start))
    return None


def _beside(source: Source, name: str) -> str:
    """The file of that name beside the script where there is one, else the name as the current folder has it."""
    path = Path(source.path).parent / name
    try:
        return str(path) if path.is_file() else name
    except OSError:  # a name that no file can have
        return name
