"""Trees of proposals: bundled ones by name, and those of users' files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specplan.errors import InputError
from specplan.json_input import read_json
from specplan.profiles import find_profile, read_profile, unknown_profile
from specplan.speculation import MAX_NODES, Tree
from specplan.strict import decode

_MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 64
_MAX_RANK = 1024


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A tree as it is stored.

    Attributes:
        schema_version: 1.
        name: of the tree.
        aliases: other names.
        source: where it comes from.
        nodes: the path of every node, a parent before its children.
    """

    schema_version: int
    name: str
    aliases: tuple[str, ...]
    source: str
    nodes: tuple[tuple[int, ...], ...]


def find_tree(reference: str) -> Tree:
    """A bundled tree, or one of a JSON file: an object like the bundled ones, or a bare list of paths.

    Raises:
        InputError: no such tree, or paths that are not a tree.
    """
    name = find_profile("trees", reference)
    if name is not None:
        where = f"profiles/trees/{name}.json"
        return checked_tree(decode(TreeFile, read_profile("trees", name), where).nodes, where)
    path = Path(reference)
    if not path.is_file():
        raise InputError(f"--tree: {unknown_profile('trees', reference)} (or a JSON file)")
    data = read_json(path, "tree", _MAX_FILE_BYTES)
    if isinstance(data, list):
        data = {"schema_version": 1, "name": path.stem, "aliases": [], "source": str(path), "nodes": data}
    return checked_tree(decode(TreeFile, data, str(path)).nodes, str(path))


def checked_tree(nodes: tuple[tuple[int, ...], ...], where: str) -> Tree:
    """A tree of these paths.

    Raises:
        InputError: no or too many nodes, a path twice, without its parent before it, or with a rank out of range.
    """
    if not 1 <= len(nodes) <= MAX_NODES:
        raise InputError(f"{where}: a tree of {len(nodes)} nodes, expected 1 to {MAX_NODES}")
    known: set[tuple[int, ...]] = {()}
    for index, path in enumerate(nodes):
        if not path or len(path) > MAX_DEPTH or not all(0 <= rank < _MAX_RANK for rank in path):
            raise InputError(f"{where}: nodes[{index}] is {list(path)}, expected 1 to {MAX_DEPTH} ranks from 0")
        if path in known:
            raise InputError(f"{where}: nodes[{index}] {list(path)} is there twice")
        if path[:-1] not in known:
            raise InputError(f"{where}: nodes[{index}] {list(path)} comes before its parent {list(path[:-1])}")
        known.add(path)
    return Tree(nodes)
