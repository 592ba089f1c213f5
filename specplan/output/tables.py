"""Tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

Rows = Sequence[Sequence[str]]

#: Rows, headers, and the alignment of each column.
Table = tuple[list[list[str]], list[str], list[str]]


@dataclass(frozen=True, slots=True)
class Style:
    """How tables and headings look.

    Attributes:
        table_format: of tabulate.
        heading: a title as a heading.
    """

    table_format: str
    heading: Callable[[str], str]

    def draw(self, rows: Rows, headers: Sequence[str], align: Sequence[str], widths: Sequence[int | None] = ()) -> str:
        """A table; ``widths`` are those at which columns wrap."""
        return tabulate(rows, headers, self.table_format, colalign=align, maxcolwidths=list(widths) or None)


PLAIN = Style("simple", str)
GITHUB = Style("github", lambda title: f"### {title}")
