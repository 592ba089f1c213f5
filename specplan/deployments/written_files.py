"""Files that a deployment writes itself: here-documents of scripts, inline files of compose, ConfigMaps, exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from specplan.deployments.source import Source, Word
from specplan.deployments.yaml_nodes import Mapping, Node, Sequence, compose, scalar
from specplan.errors import InputError

_HEREDOC = re.compile(
    r"^[^#\n]*>[ \t]*(['\"]?)(?P<file>[^\s'\"<>|;&]+)\1[ \t]*<<-?[ \t]*(?P<quote>['\"]?)(?P<end>\w+)(?P=quote)"
)
_DATA, _CONTENT = "data", "content"


def written_file(source: Source, name: str) -> Source | None:
    """The file of that name with positions in the file that writes it; None where nothing does.

    Args:
        source: what writes it.
        name: its path, as the command says it.
    """
    if source.path.endswith((".yaml", ".yml")):
        return _in_manifest(source, name)
    if source.path.endswith(".json"):
        from specplan.deployments.readers.exports import exported_file  # late: most JSON is none

        return exported_file(source, name)
    return _here_document(source, name)


def _here_document(source: Source, name: str) -> Source | None:
    for match in re.finditer(_HEREDOC.pattern, source.text, re.MULTILINE):
        if match.group("file") != name:
            continue
        start = source.text.find("\n", match.end()) + 1
        closing = re.compile(rf"^[ \t]*{match.group('end')}[ ]*$", re.MULTILINE).search(source.text, start)
        if not start or closing is None:
            continue
        body = source.text[start : closing.start()]
        if not match.group("quote") and re.search(r"[$`]", body):
            return None  # the shell fills it in
        return source.only(start, closing.start())
    return None


def _in_manifest(source: Source, name: str) -> Source | None:
    try:
        documents = list(compose(source))
    except InputError:
        return None
    base = PurePosixPath(name).name
    for mapping in (each for document in documents for each in _mappings(document, set())):
        kind = scalar(mapping.get("kind"))
        if kind is not None and kind.text == "ConfigMap":
            found = _entry(mapping.get(_DATA), base)
            if found is not None:
                return _block(source, found)
        found = _content(mapping, name)
        if found is not None:
            return _interpolated(_block(source, found))
    return None


def _interpolated(block: Source) -> Source | None:
    """What compose makes of it: ``$$`` is a dollar sign, variables are not known here. Lines keep their lengths."""
    if re.search(r"(?<!\$)(\$\$)*\$(?!\$)", block.text):
        return None
    lines = (line.replace("$$", "$").ljust(len(line)) for line in block.text.split("\n"))
    return Source(block.path, "\n".join(lines))


def _content(mapping: Mapping, path: str) -> Word | None:
    """Compose: the config that some service mounts at the path."""
    configs, services = mapping.get("configs"), mapping.get("services")
    if not isinstance(configs, Mapping):
        return None
    for mount in _mappings(services, set()):
        config, target = scalar(mount.get("source")), scalar(mount.get("target"))
        if config is not None and target is not None and target.text == path:
            named = configs.get(config.text)
            return scalar(named.get(_CONTENT)) if isinstance(named, Mapping) else None
    return None


def _entry(node: Node, key: str) -> Word | None:
    return scalar(node.get(key)) if isinstance(node, Mapping) else None


def _mappings(node: Node, seen: set[int]) -> Iterator[Mapping]:
    if node is None or isinstance(node, Word) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Mapping):
        yield node
    for child in node.nodes if isinstance(node, Sequence) else node.values():
        yield from _mappings(child, seen)


def _block(source: Source, word: Word) -> Source:
    """The lines of a block scalar: their indentation is one that YAML takes too."""
    start = source.line_start(source.location(word.start).line)
    return source.only(start, word.offsets[-1] + 1)
