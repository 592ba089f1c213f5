"""Commands of a shell script as words that know where they stand. Nothing is executed and nothing is looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from specplan.deployments.source import Source, Word

_NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_PARAMETER = re.compile(r"([A-Za-z_]\w*)(?:(:?[-=])(.*))?", re.DOTALL)
_ENDS = ";&|\n()"
_DECLARES = ("export", "readonly", "local", "declare", "typeset")


@dataclass
class Variables:
    """What a file assigns.

    Attributes:
        values: literal values by name.
        unknown: names that get a value that is not literal.
    """

    values: dict[str, Word] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


@dataclass
class _Reader:
    source: Source
    position: int
    end: int
    variables: Variables
    characters: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    started: bool = False
    word_start: int = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.position + ahead
        return self.source.text[at] if at < self.end else ""

    def put(self, character: str, offset: int) -> None:
        self.characters.append(character)
        self.offsets.append(offset)

    def begin(self) -> None:
        if not self.started:
            self.started, self.word_start = True, self.position

    def word(self) -> Word | None:
        if not self.started:
            return None
        word = Word("".join(self.characters), tuple(self.offsets) or (self.word_start,), tuple(self.unresolved))
        self.characters, self.offsets, self.unresolved, self.started = [], [], [], False
        return word


def shell_commands(
    source: Source, start: int = 0, end: int | None = None, variables: Variables | None = None
) -> list[list[Word]]:
    """The simple commands of a script, in order; assignments in front of a command are left out.

    Args:
        source: the file.
        start: of the part that is a script.
        end: of it.
        variables: known before, and filled with what the script assigns.
    """
    variables = variables if variables is not None else Variables()
    reader = _Reader(source, start, len(source.text) if end is None else min(end, len(source.text)), variables)
    commands: list[list[Word]] = []
    current: list[Word] = []
    while reader.position < reader.end:
        if _separates(reader, current):
            _finish(reader, current)
            if current:
                commands.append(_without_assignments(current, variables))
            current = []
            continue
        _read_word(reader)
        _finish(reader, current)
    if current:
        commands.append(_without_assignments(current, variables))
    return [command for command in commands if command]


def _finish(reader: _Reader, current: list[Word]) -> None:
    word = reader.word()
    if word is not None:
        current.append(word)


def _separates(reader: _Reader, current: list[Word]) -> bool:
    """Skip what stands between words; True where a command ends."""
    while True:
        character = reader.peek()
        if character == "\\" and reader.source.text[reader.position + 1 : reader.position + 3].strip(" ") == "\n":
            reader.position = reader.source.text.index("\n", reader.position) + 1
        elif character and character in " \t\r":
            reader.position += 1
        elif character == "#":
            _to_line_end(reader)
        else:
            break
    if character == "<" and reader.peek(1) == "<":
        _skip_heredoc(reader)
        return False
    if character and character in _ENDS:
        reader.position += 1
        return True
    return not character


def _to_line_end(reader: _Reader) -> None:
    found = reader.source.text.find("\n", reader.position, reader.end)
    reader.position = found if found >= 0 else reader.end


def _skip_heredoc(reader: _Reader) -> None:
    """Jump over the text of a here-document: it is data."""
    match = _HEREDOC.match(reader.source.text, reader.position, reader.end)
    if match is None:
        reader.position += 2
        return
    closing = re.compile(rf"^\s*{match.group(2)}[ ]*$", re.MULTILINE)
    found = closing.search(reader.source.text, match.end(), reader.end)
    reader.position = found.end() if found else reader.end


def _read_word(reader: _Reader) -> None:
    reader.begin()
    begun = reader.position
    while reader.position < reader.end:
        character = reader.peek()
        if character.isspace() or character in _ENDS:
            break
        if character == "'":
            _single_quoted(reader)
        elif character == '"':
            _double_quoted(reader)
        elif character == "\\":
            if reader.source.text[reader.position + 1 : reader.position + 3].strip(" ") == "\n":
                break
            reader.position += 1
            if reader.position < reader.end:
                _put(reader)
        else:
            _put_or_substitute(reader)
    if reader.position == begun:  # never stand still
        reader.position += 1


def _single_quoted(reader: _Reader) -> None:
    reader.position += 1
    while reader.position < reader.end and reader.peek() != "'":
        _put(reader)
    reader.position += 1


def _double_quoted(reader: _Reader) -> None:
    reader.position += 1
    while reader.position < reader.end and reader.peek() != '"':
        if reader.peek() == "\\" and reader.peek(1) in ('"', "\\", "$", "`", "\n"):
            reader.position += 1
            if reader.peek() == "\n":
                reader.position += 1
            else:
                _put(reader)
        else:
            _put_or_substitute(reader)
    reader.position += 1


def _put(reader: _Reader) -> None:
    """Take the next character as it is."""
    reader.put(reader.peek(), reader.position)
    reader.position += 1


def _put_or_substitute(reader: _Reader) -> None:
    if reader.peek() in "$`":
        _substitution(reader)
    else:
        _put(reader)


def _substitution(reader: _Reader) -> None:
    """A variable with a literal value, or the name of what is missing."""
    start, text = reader.position, reader.source.text
    if reader.peek() == "`" or text.startswith("$(", start):
        reader.position = _closing(reader, start)
        reader.unresolved.append(text[start : reader.position])
        return
    if text.startswith("${", start):
        end = text.find("}", start, reader.end)
        end = reader.end if end < 0 else end
        match = _PARAMETER.fullmatch(text[start + 2 : end])
        reader.position = end + 1
        if match is None:
            reader.unresolved.append(text[start : end + 1])
            return
        default = Word(match.group(3), tuple(range(end - len(match.group(3)), end))) if match.group(2) else None
        _fill(reader, match.group(1), default, start)
        return
    name = _NAME.match(text, start + 1, reader.end)
    if name is not None:
        reader.position = name.end()
        _fill(reader, name.group(), None, start)
    elif reader.peek(1) and reader.peek(1) in "@*#?$!0123456789":
        reader.position += 2
        reader.unresolved.append(text[start : reader.position])
    else:
        _put(reader)


def _closing(reader: _Reader, start: int) -> int:
    """Behind a command substitution."""
    if reader.peek() == "`":
        end = reader.source.text.find("`", start + 1, reader.end)
        return reader.end if end < 0 else end + 1
    depth = 0
    for at in range(start + 1, reader.end):
        depth += {"(": 1, ")": -1}.get(reader.source.text[at], 0)
        if depth == 0:
            return at + 1
    return reader.end


def _fill(reader: _Reader, name: str, default: Word | None, start: int) -> None:
    value = reader.variables.values.get(name) if name not in reader.variables.unknown else None
    value = value or (default if name not in reader.variables.unknown else None)
    if value is None or "$" in value.text:
        reader.unresolved.append(f"${name}")
        return
    for character in value.text:  # positions are those of the use: that is the line that a finding is about
        reader.put(character, start)


def _without_assignments(command: list[Word], variables: Variables) -> list[Word]:
    """The command without ``NAME=value`` in front; a command that only assigns is remembered."""
    words = command[1:] if command[0].text in _DECLARES else list(command)
    while words and _ASSIGNMENT.match(words[0].text):
        name, _, _ = words[0].text.partition("=")
        value = words[0].part(len(name) + 1)
        if value.unresolved or (name in variables.values and variables.values[name].text != value.text):
            variables.unknown.add(name)
        variables.values[name] = value
        words = words[1:]
    return [] if command[0].text in _DECLARES else words
