"""Files of settings that commands name: ``--config file.yaml``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from specplan.deployments.deployment import Deployment, Problem, Setting
from specplan.deployments.source import Source, Word
from specplan.deployments.tables import option_table
from specplan.deployments.written_files import written_file
from specplan.deployments.yaml_nodes import Mapping, Node, Sequence, compose
from specplan.errors import InputError

#: More than any engine has: aliases may repeat a mapping without end.
_MAX_SETTINGS = 2000


def with_config_file(deployment: Deployment, source: Source) -> Deployment:
    """The deployment with what its file says: in front of the command's own settings, except for TensorRT-LLM."""
    setting = deployment.get("--config")
    if setting is None or setting.unresolved:
        return deployment
    path = Path(source.path).parent / setting.value
    try:
        file = written_file(source, setting.value) or Source.read(path)
        settings = tuple(itertools.islice(_settings(deployment, file), _MAX_SETTINGS))
    except InputError as error:
        message = f"{setting.name} {setting.value} cannot be read: {error}: put it beside this file"
        problem = Problem("missing-file", setting.name, message, setting.location)
        return dataclasses.replace(deployment, problems=(*deployment.problems, problem))
    first = settings if deployment.engine != "tensorrt-llm" else ()
    last = settings if deployment.engine == "tensorrt-llm" else ()
    return dataclasses.replace(deployment, settings=(*first, *deployment.settings, *last))


def _settings(deployment: Deployment, source: Source) -> Iterator[Setting]:
    for document in compose(source):
        if isinstance(document, Mapping):
            yield from nested_settings(deployment, document, "", source)


def nested_settings(deployment: Deployment, mapping: Mapping, prefix: str, source: Source) -> Iterator[Setting]:
    """Keys of a mapping as settings: dotted names, and options of the command where they are one."""
    table = option_table(deployment.engine)
    for key, node in mapping.entries:
        name = f"{prefix}{key.text}"
        if isinstance(node, Mapping):
            yield from nested_settings(deployment, node, f"{name}.", source)
            continue
        text = _text(node)
        if text is None:
            continue
        flag = None if prefix or deployment.engine == "tensorrt-llm" else table.find(f"--{name.replace('_', '-')}")
        yield Setting(flag or name, text, source.location(key.start))


def _text(node: Node) -> str | None:
    """A scalar, or a list of scalars with commas; None for what is empty or deeper."""
    if isinstance(node, Word):
        return node.text
    if isinstance(node, Sequence):
        words = [word.text for word in node.nodes if isinstance(word, Word)]
        return ", ".join(words) if words and len(words) == len(node.nodes) else None
    return None
