"""``Command``: how an engine is started, and ``Pool``: the size of its KV cache."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Where what is written beside the command stands in a container.
CONTAINER_FOLDER = "/etc/specplan"


@dataclass(frozen=True, slots=True)
class Pool:
    """KV of all sequences.

    Attributes:
        bytes: of target and draft together.
        tokens: slots of all sequences.
        fraction: of the memory that the engine divides, where it has no exact size besides.
    """

    bytes: int
    tokens: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments.

    Attributes:
        argv: words, unquoted.
        models: hub ids and paths that it loads, among its words or its files.
        files: by name, what the command reads beside it.
        made: names of models' files that conversions make, among its words.
        listen: arguments that a server in a container needs besides.
        port: that it listens on.
        preparation: the conversions.
    """

    argv: tuple[str, ...]
    models: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[str, ...] = ()
    port: int = 8000
    made: tuple[str, ...] = ()
    preparation: tuple[str, ...] = ()


def listening(port: int) -> tuple[str, ...]:
    """Arguments of a server that else listens inside its container only."""
    return "--host", "0.0.0.0", "--port", str(port)  # noqa: S104


def script(command: Command, comments: tuple[str, ...] = ()) -> str:
    """A shell script: its files as here-documents, then the command, an option per line."""
    lines = ["#!/bin/sh", *(f"# {comment}" for comment in comments), "set -e"]
    lines += [f"# once: {line}" for line in command.preparation]
    for name, text in command.files.items():
        lines += [f"cat > {shlex.quote(name)} <<'EOF'", *text.rstrip("\n").split("\n"), "EOF"]
    return "\n".join([*lines, *_wrapped(command.argv)]) + "\n"


def python_script(command: Command) -> str | None:
    """The file that a command runs, where it is one of Python; None for servers."""
    return next((text for name, text in command.files.items() if name.endswith(".py")), None)


def _wrapped(argv: tuple[str, ...]) -> list[str]:
    """Options with their values on lines of their own."""
    lines: list[str] = []
    for index, word in enumerate(argv):
        if index and (word.startswith("-") and word != "-m" and not word[1:2].isdigit()):
            lines.append(f"  {shlex.quote(word)}")
        elif lines:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
