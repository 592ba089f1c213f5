"""Python: calls of engines' classes, read as a syntax tree. Nothing is imported."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from specplan.deployments.arguments import scalar_text
from specplan.deployments.commands import pinned_version
from specplan.deployments.deployment import Deployment, Engine, Problem, Setting
from specplan.deployments.readers.generate_calls import generate_deployments
from specplan.deployments.source import Location, Source
from specplan.deployments.tables import OptionTable, option_table
from specplan.errors import InputError

_CLASSES: dict[str, tuple[Engine, bool]] = {
    "LLM": ("vllm", True), "AsyncEngineArgs": ("vllm", False), "EngineArgs": ("vllm", False),
    "Engine": ("sglang", True),
}  # fmt: skip
_MODULES: dict[str, Engine] = {"vllm": "vllm", "sglang": "sglang", "sgl": "sglang", "tensorrt_llm": "tensorrt-llm"}
#: Classes of TensorRT-LLM's configs, and the decoding type that they stand for.
_DECODING = {
    "DraftTargetDecodingConfig": "Draft_Target", "EagleDecodingConfig": "Eagle3", "Eagle3DecodingConfig": "Eagle3",
    "MTPDecodingConfig": "MTP", "NGramDecodingConfig": "NGram", "KvCacheConfig": "", "SchedulerConfig": "",
}  # fmt: skip
_MAX_DEPTH = 200


@dataclass(frozen=True)
class _Names:
    """What a module imports and assigns.

    Attributes:
        engines: engine by the name of a class or module.
        values: literal values by name; names that are assigned twice are left out.
    """

    engines: dict[str, Engine]
    values: dict[str, ast.expr]


def read_python(source: Source) -> list[Deployment]:
    """Deployments of a module, in order.

    Raises:
        InputError: not Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about code that is not ours
            tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(f"{source.path}: not Python{f' at line {line}' if line else ''}") from None
    names = _Names(dict(_imports(tree)), _assigned(tree))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda node: (node.lineno, node.col_offset))
    found = (_deployment(call, names, source) for call in calls)
    generating = generate_deployments(tree, names.values, source)
    deployments = [*(deployment for deployment in found if deployment is not None), *generating]
    return sorted(deployments, key=lambda deployment: deployment.location)


def _imports(tree: ast.Module) -> Iterator[tuple[str, Engine]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            engine = _MODULES.get(node.module.partition(".")[0])
            yield from ((alias.asname or alias.name, engine) for alias in node.names if engine is not None)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                engine = _MODULES.get(alias.name.partition(".")[0])
                if engine is not None:
                    yield alias.asname or alias.name.partition(".")[0], engine


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    values: dict[str, ast.expr] = {}
    twice: set[str] = set()
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                twice |= {target.id} & values.keys()
                values[target.id] = node.value
    return {name: value for name, value in values.items() if name not in twice}


def _engine(call: ast.Call, names: _Names) -> tuple[Engine, bool] | None:
    """The engine of a call's class, and whether it is an offline one."""
    function = call.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    if name not in _CLASSES:
        return None
    root: ast.expr = function
    while isinstance(root, ast.Attribute):
        root = root.value
    engine = names.engines.get(root.id) if isinstance(root, ast.Name) else None
    if engine is None:
        return None
    return engine, _CLASSES[name][1]


def _deployment(call: ast.Call, names: _Names, source: Source) -> Deployment | None:
    found = _engine(call, names)
    if found is None:
        return None
    engine, offline = found
    reader = _CallReader(source, names, option_table(engine))
    location = reader.location(call)
    if call.args and not isinstance(call.args[0], ast.Starred):
        reader.add("model", call.args[0], reader.location(call.args[0]))
    for keyword in call.keywords:
        if keyword.arg is None:
            message = f"keyword arguments in ** of {ast.unparse(call.func)}(…) are not known: write them out"
            reader.problems.append(Problem("unresolved", "**", message, reader.location(keyword.value)))
        else:
            reader.keyword(keyword.arg, keyword.value, reader.location(keyword))
    version = pinned_version(source.text, engine)
    return Deployment(
        engine, version, tuple(reader.settings), location, tuple(reader.problems), offline=offline and engine == "vllm"
    )


class _CallReader:
    """Keywords of one call as settings of its engine."""

    def __init__(self, source: Source, names: _Names, table: OptionTable) -> None:
        self.source, self.names, self.table = source, names, table
        self.settings: list[Setting] = []
        self.problems: list[Problem] = []

    def location(self, node: ast.AST) -> Location:
        """Where a node stands."""
        return self.source.node_location(node)

    def keyword(self, name: str, value: ast.expr, location: Location) -> None:
        """One keyword argument."""
        known = self.table.keywords
        if known and name not in (*known, "model"):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            message = f"{self.table.title} {self.table.version} has no argument {name}"
            fix = f"did you mean {near[0]}?" if near else "leave it out"
            self.problems.append(Problem("unknown-flag", name, message, location, fix))
            return
        self.add(self._option(name), value, location)

    def _option(self, name: str) -> str:
        if self.table.engine == "tensorrt-llm" or (name == "model" and self.table.engine == "vllm"):
            return name
        flag = self.table.find(f"--{name.replace('_', '-')}")
        return name if flag is None or self.table.flags[flag] == "json" else flag

    def add(self, name: str, value: ast.expr, location: Location, depth: int = 0) -> None:
        """A value: a literal, a name of one, a dict, or a config object."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, ast.Name) and value.id in self.names.values:
            known = self.names.values[value.id]
            if not (isinstance(known, ast.Name) and known.id == value.id):
                self.add(name, known, location, depth + 1)
                return
        if isinstance(value, ast.Dict):
            self._dict(name, value, depth)
        elif isinstance(value, ast.Call):
            self._object(name, value, location, depth)
        else:
            self._literal(name, value, location)

    def _dict(self, name: str, value: ast.Dict, depth: int) -> None:
        for key, entry in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                self.add(f"{name}.{key.value}", entry, self.location(key), depth + 1)
            else:
                self._unresolved(f"{name}.*", entry, self.location(entry))

    def _object(self, name: str, value: ast.Call, location: Location, depth: int) -> None:
        """``KvCacheConfig(…)`` and its kin: keywords as keys, the class as the decoding type."""
        function = value.func
        kind = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if kind not in _DECODING and kind != "dict":
            self._unresolved(name, value, location)
            return
        if _DECODING.get(kind):
            self.settings.append(Setting(f"{name}.decoding_type", _DECODING[kind], location))
        for keyword in value.keywords:
            if keyword.arg is not None:
                self.add(f"{name}.{keyword.arg}", keyword.value, self.location(keyword), depth + 1)

    def _literal(self, name: str, value: ast.expr, location: Location) -> None:
        try:
            literal = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            self._unresolved(name, value, location)
            return
        if literal is not None:
            self.settings.append(Setting(name, scalar_text(literal), location))

    def _unresolved(self, name: str, value: ast.expr, location: Location) -> None:
        try:
            text = ast.unparse(value)[:60]
        except (RecursionError, ValueError):
            text = "…"
        self.settings.append(Setting(name, text, location, "", (text,)))
