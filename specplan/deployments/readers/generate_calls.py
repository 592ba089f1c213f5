"""Calls of transformers' ``generate`` that speculate, with the models that they are given."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from specplan.deployments.commands import pinned_version
from specplan.deployments.deployment import Deployment, Setting
from specplan.deployments.source import Source

#: Keywords that make generation speculative.
_SPECULATES = ("assistant_model", "prompt_lookup_num_tokens")
_READ = (*_SPECULATES, "max_length")
_OF_MODEL = ("dtype", "torch_dtype", "revision")


def generate_deployments(tree: ast.Module, values: Mapping[str, ast.expr], source: Source) -> Iterator[Deployment]:
    """Deployments of a module.

    Args:
        tree: of the module.
        values: expressions by the names that they are assigned to, once.
        source: the module.
    """
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == "generate"):
            continue
        keywords = {keyword.arg: keyword for keyword in call.keywords if keyword.arg in _READ}
        model = _loaded(call.func.value, values)
        if model is None or not any(name in keywords for name in _SPECULATES):
            continue
        settings = list(_model_settings(model, "model", _OF_MODEL, source))
        for name, keyword in keywords.items():
            draft = _loaded(keyword.value, values) if name == "assistant_model" else None
            if draft is not None:
                settings += _model_settings(draft, "assistant_model", (), source)
                settings += _assistant_settings(tree, keyword.value, source)
            else:
                settings.append(_setting(str(name), keyword.value, source))
        version = pinned_version(source.text, "transformers")
        yield Deployment("transformers", version, tuple(settings), source.node_location(call))


def _loaded(node: ast.expr, values: Mapping[str, ast.expr]) -> ast.Call | None:
    """The call of ``from_pretrained`` behind a name: ``.to(…)`` and the like are looked through."""
    if isinstance(node, ast.Name) and node.id in values:
        node = values[node.id]
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if node.func.attr == "from_pretrained":
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            return node if name.endswith("ForCausalLM") else None
        node = owner
    return None


def _model_settings(call: ast.Call, name: str, keywords: tuple[str, ...], source: Source) -> Iterator[Setting]:
    if call.args:
        yield _setting(name, call.args[0], source)
    for keyword in call.keywords:
        if keyword.arg in keywords:
            yield _setting(str(keyword.arg), keyword.value, source)


def _assistant_settings(tree: ast.Module, assistant: ast.expr, source: Source) -> Iterator[Setting]:
    """``draft.generation_config.num_assistant_tokens = 4``, the only place where transformers looks."""
    prefix = f"{_text(assistant)}.generation_config."
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Attribute):
            target = _text(node.targets[0])
            if target.startswith(prefix):
                yield _setting(target.removeprefix(prefix), node.value, source)


def _setting(name: str, value: ast.expr, source: Source) -> Setting:
    """A literal, or ``torch.float16``; anything else is not known."""
    location = source.node_location(value)
    if isinstance(value, ast.Constant) and isinstance(value.value, str | int | float):
        return Setting(name, str(value.value), location)
    text = _text(value)[:60]
    if name in ("dtype", "torch_dtype") and isinstance(value, ast.Attribute):
        return Setting(name, value.attr, location)
    return Setting(name, text, location, "", (text,))


def _text(node: ast.expr) -> str:
    """An expression as it would be written; one that is too deep has no text."""
    try:
        return ast.unparse(node)
    except (RecursionError, ValueError):
        return "…"
