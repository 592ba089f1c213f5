"""Files and folders to deployments: which reader a file needs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath

from specplan.deployments.config_files import with_config_file
from specplan.deployments.deployment import Deployment
from specplan.deployments.readers.dockerfiles import read_dockerfile
from specplan.deployments.readers.manifests import read_manifest
from specplan.deployments.readers.markdown import read_markdown
from specplan.deployments.readers.plans import read_plan
from specplan.deployments.readers.python_calls import read_python
from specplan.deployments.readers.scripts import read_script
from specplan.deployments.readers.toml_tables import read_toml
from specplan.deployments.source import Source

Reader = Callable[[Source], list[Deployment]]

_SUFFIXES: dict[str, Reader] = {
    **dict.fromkeys((".sh", ".bash", ".zsh", ".service"), read_script),
    **dict.fromkeys((".yaml", ".yml"), read_manifest),
    **dict.fromkeys((".md", ".markdown"), read_markdown),
    **dict.fromkeys((".dockerfile", ".containerfile"), read_dockerfile),
    ".py": read_python,
    ".json": read_plan,
}
_NAMES = re.compile(r"(?i)(dockerfile|containerfile)(\..*)?")
_SETTINGS = re.compile(r"(?i)(.*[.\-_])?specplan\.toml")
_MENTIONS = re.compile(r"(?i)vllm|sglang|llama|trtllm|tensorrt|specplan")
_LEFT_OUT = ("node_modules", "__pycache__", "venv")


def read_deployments(source: Source) -> list[Deployment]:
    """All deployments of a file, in order.

    Raises:
        InputError: a file that cannot be understood.
    """
    reader = reader_of(source.path) or _by_content(source)
    return [with_config_file(deployment, source) for deployment in reader(source)]


def reader_of(path: str) -> Reader | None:
    """The reader of a file by its name; None where the name says nothing."""
    name = PurePath(path).name
    if is_settings_file(path):
        return read_toml
    if _NAMES.fullmatch(name):
        return read_dockerfile
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def mentions_engine(source: Source) -> bool:
    """Whether a file may have a deployment; what is read as code or YAML is cheaper not parsed at all."""
    return _MENTIONS.search(source.text) is not None or PurePath(source.path).suffix in (".json", ".toml")


def is_settings_file(path: str) -> bool:
    """Whether a file is a specplan.toml by its name: ``specplan.toml``, ``chat.specplan.toml``."""
    return _SETTINGS.fullmatch(PurePath(path).name) is not None


def _by_content(source: Source) -> Reader:
    """For files that were named by the user: Python by its first line, everything else as a script."""
    first = source.text.partition("\n")[0]
    if source.path.endswith(".toml"):
        return read_toml
    return read_python if first.startswith("#!") and "python" in first else read_script


def deployment_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files among paths, and those that may have deployments in folders, sorted; hidden folders are left out."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found: list[Path] = []
        for folder, folders, names in os.walk(path):  # passes over what it may not read, or what has gone meanwhile
            folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
            found += [Path(folder, name) for name in names if reader_of(name) is not None]
        yield from (child for child in sorted(found) if child.is_file())
