"""Differences of two plans as text, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from specplan.differences import Change, Difference, ItemChange, Peak
from specplan.output.tables import GITHUB, PLAIN, Style, Table
from specplan.strict import encode
from specplan.units import format_bytes, format_exact_bytes

_NONE = ""
_ABSENT = '"none"'
#: Columns at which a value is cut; JSON has all of it.
_WIDTH = 48


def to_text(found: Difference) -> str:
    """Tables for a terminal."""
    return _drawn(found, PLAIN)


def to_markdown(found: Difference) -> str:
    """Tables for a pull request."""
    return _drawn(found, GITHUB)


def to_json(found: Difference) -> str:
    """Every change, with values as JSON."""
    data = {
        "equal": found.is_empty,
        "settings": [_values(change) for change in found.settings],
        "items": [{**encode(change), "added_bytes": change.added_bytes} for change in found.items],
        "before": encode(found.before),
        "after": encode(found.after),
        "estimates": [_values(change) for change in found.estimates],
        "others": list(found.others),
    }
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _values(change: Change) -> dict[str, object]:
    values = {"before": change.before, "after": change.after}
    return {"name": change.name, **{key: json.loads(text) for key, text in values.items() if text is not None}}


def _drawn(found: Difference, style: Style) -> str:
    if found.is_empty:
        return "The plans are equal.\n"
    sections = []
    if found.settings:
        sections += [style.heading("Settings"), style.draw(*_changed(found.settings))]
    if found.items:
        sections += [style.heading("Bytes by item"), style.draw(*_items(found.items))]
    sections.append(_peaks(found.before, found.after))
    if found.estimates:
        sections += [style.heading("Estimates and marks"), style.draw(*_changed(found.estimates))]
    shown = {"marks"} if any(change.name.startswith("marks.") for change in found.estimates) else set()
    if others := [name for name in found.others if name not in shown]:
        sections.append(f"Also different: {', '.join(others)}.")
    return "\n\n".join(sections) + "\n"


def _changed(changes: tuple[Change, ...]) -> Table:
    rows = [[change.name, _cut(change.before), _cut(change.after)] for change in _collapsed(changes)]
    return rows, ["key", "before", "after"], ["left", "left", "left"]


def _collapsed(changes: tuple[Change, ...]) -> Iterator[Change]:
    """Changes; an object that came or went as a whole, null in the other plan, is one."""
    nulls = [change.name for change in changes if "null" in (change.before, change.after)]
    owners = {c.name: next((name for name in nulls if c.name.startswith(f"{name}.")), None) for c in changes}
    for change in changes:
        parts = [part for part in changes if owners[part.name] == change.name]
        if parts and owners[change.name] is None:
            yield _whole(change, parts)
        elif owners[change.name] is None:
            yield change


def _whole(null: Change, parts: list[Change]) -> Change:
    """An object that came or went, by its reference where it has one."""
    went = null.before is None
    texts = {part.name[len(null.name) + 1 :]: _cut(part.before if went else part.after) for part in parts}
    text = json.dumps(texts.get("reference") or ", ".join(f"{key} {value}" for key, value in texts.items()))
    return Change(null.name, text if went else _ABSENT, _ABSENT if went else text)


def _cut(text: str | None) -> str:
    """A value for people: numbers grouped or with four digits, long values cut."""
    if text is None:
        return _NONE
    value = json.loads(text)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return format_exact_bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else text
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _items(changes: tuple[ItemChange, ...]) -> Table:
    rows = [
        [change.name, change.phase, _bytes(change.before), _bytes(change.after), _signed(change.added_bytes)]
        for change in changes
    ]
    return rows, ["item", "phase", "before", "after", "change"], ["left", "left", "right", "right", "right"]


def _bytes(num_bytes: int | None) -> str:
    return _NONE if num_bytes is None else format_exact_bytes(num_bytes)


def _signed(num_bytes: int) -> str:
    return f"+{format_exact_bytes(num_bytes)}" if num_bytes > 0 else format_exact_bytes(num_bytes)


def _peaks(before: Peak, after: Peak) -> str:
    binds = f"{after.phase} binds, mostly {after.item}"
    if (before.phase, before.item) != (after.phase, after.item):
        binds += f"; before {before.phase}, mostly {before.item}"
    if before.bytes == after.bytes:
        return f"Peak {format_exact_bytes(after.bytes)} bytes as before. {binds}."
    return (
        f"Peak {format_exact_bytes(before.bytes)} -> {format_exact_bytes(after.bytes)} bytes, "
        f"{_signed(after.bytes - before.bytes)} ({format_bytes(before.bytes)} -> {format_bytes(after.bytes)}). {binds}."
    )


FORMATTERS: dict[str, Callable[[Difference], str]] = {"text": to_text, "json": to_json, "markdown": to_markdown}
