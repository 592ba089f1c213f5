"""Settings of one ``[[deployment]]`` table changed where they stand: comments, order and line ends stay."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from specplan.deployments.readers.toml_tables import HEADER, KEY
from specplan.errors import InputError

#: A value of one line: a string, or what stands before a comment.
_VALUE = re.compile(r"""[ \t]*("[^"\n]*"|'[^'\n]*'|[^\s#,"']+)""")
_INDENT = re.compile(r"[ \t]*")


def with_settings(path: str, text: str, table: int, settings: Mapping[str, int | float | str]) -> str:
    """The text of a specplan.toml with other values; keys that are not there are added behind the last one.

    Args:
        path: for messages.
        text: the file, line ends as they are.
        table: which ``[[deployment]]``, from 0.
        settings: numbers and plain strings by key.

    Raises:
        InputError: the text is written so that only a person should change it.
    """
    changed = text
    for key, value in settings.items():
        changed = _with_setting(changed, table, key, _toml(value))
    expected = tomllib.loads(text)
    expected["deployment"][table].update(settings)
    if _parsed(changed) != expected:
        raise InputError(f"{path}: deployment {table + 1} is written in a way that --fix does not change: {settings}")
    return changed


def _with_setting(text: str, table: int, key: str, value: str) -> str:
    starts = [match.start() for match in HEADER.finditer(text)]
    start, end = starts[table], (*starts[1:], len(text))[table]
    keys = list(KEY.finditer(text, start, end))
    for match in keys:
        old = _VALUE.match(text, match.end()) if match.group(1) == key else None
        if old is not None:
            return text[: old.start(1)] + value + text[old.end(1) :]
    last = keys[-1].start() if keys else start
    indent = _INDENT.match(text, last)
    newline = "\r\n" if "\r\n" in text else "\n"
    line_end = text.find("\n", last)
    head, tail = (text[: line_end + 1], text[line_end + 1 :]) if line_end >= 0 else (text + newline, "")
    return f"{head}{indent.group() if indent else ''}{key} = {value}{newline}{tail}"


def _toml(value: int | float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
