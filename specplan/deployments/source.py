"""``Source``: the text of a file, and where in it a character stands; ``Word``: text that knows where it came from."""

from __future__ import annotations

import ast
import bisect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from specplan.errors import InputError
from specplan.input_file import read_file

#: Deployments are written by people.
MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file.

    Attributes:
        file: its path as the user gave it.
        line: from 1.
        column: from 1, in characters.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Source:
    """A text file.

    Attributes:
        path: as the user gave it.
        text: its content.
    """

    path: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a file of limited size.

        Raises:
            InputError: missing, too large, not UTF-8.
        """
        data = read_file(path, "deployment", MAX_FILE_BYTES)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not UTF-8 text") from None
        return cls(str(path), text.replace("\r\n", " \n").removeprefix("\ufeff"))

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        starts += [index + 1 for index, character in enumerate(self.text) if character == "\n"]
        return starts

    def location(self, offset: int) -> Location:
        """Of a character; offsets beyond the text are its end."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect.bisect_right(self._starts, offset) - 1
        return Location(self.path, line + 1, offset - self._starts[line] + 1)

    def node_location(self, node: ast.AST) -> Location:
        """Of a node of a syntax tree, whose columns are bytes; those of a location are characters."""
        line, byte = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        start = self.line_start(line)
        text = self.text[start : start + byte].encode()[:byte].decode(errors="ignore")
        return self.location(start + len(text))

    def line_start(self, line: int) -> int:
        """Offset of the first character of a line, counted from 1; the end of the text behind the last one."""
        return self._starts[line - 1] if line <= len(self._starts) else len(self.text)

    def only(self, start: int, end: int) -> Source:
        """The same file with nothing but spaces outside of a part: positions stay what they are."""
        blank = "".join(character if character == "\n" else " " for character in self.text[:start])
        return Source(self.path, blank + self.text[start:end])

    def align(self, value: str, start: int, end: int) -> tuple[int, ...]:
        """Offsets of the characters of a value that was written, with quotes or escapes, in a part of the text."""
        offsets, position = [], start
        for character in value:
            if character.isspace():
                offsets.append(min(position, end))
                position += self.text[position : position + 1].isspace()
                continue
            found = self.text.find(character, position, end)
            offsets.append(found if found >= 0 else min(position, end))
            position = found + 1 if found >= 0 else position
        return tuple(offsets)


@dataclass(frozen=True, slots=True)
class Word:
    """An argument of a command.

    Attributes:
        text: quotes and escapes resolved, variables filled in.
        offsets: where each character stands in the source; one more for an empty word.
        unresolved: variables and substitutions whose values the file does not say.
    """

    text: str
    offsets: tuple[int, ...]
    unresolved: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """Offset of the first character."""
        return self.offsets[0] if self.offsets else 0

    def part(self, start: int, end: int | None = None) -> Word:
        """Characters of the word, as a word."""
        offsets = self.offsets[start:end]
        return Word(self.text[start:end], offsets or self.offsets[-1:], self.unresolved)
