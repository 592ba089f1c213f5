"""What one step of each knob costs, as text and for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import repeat
from typing import Any

from specplan.formulas.sensitivity import Change, Sensitivity
from specplan.ledger import MemoryLedger
from specplan.output.tables import PLAIN, Table
from specplan.strict import encode
from specplan.units import format_exact_bytes

#: Items below this share of a knob's slope are summed up in tables; JSON has them all.
_SMALL = 0.01
_BLOCKS = """\
The arena is rounded up to blocks of 2 MiB, so a step costs nothing or whole blocks.
The slope leaves roundings out."""
_SLOPE_COLUMNS = (None, None, None, 36)


def to_data(rows: Sequence[Sensitivity]) -> list[dict[str, Any]]:
    """For JSON."""
    return [_data(row) for row in rows]


def _data(row: Sensitivity) -> dict[str, Any]:
    slopes = row.slopes
    return {
        "knob": row.knob.name,
        "value": row.value,
        "more": encode(row.more),
        "less": encode(row.less),
        "slope_bytes": None if row.slope_bytes is None else _number(row.slope_bytes),
        "slopes": None if slopes is None else [encode(s) | {"bytes": _number(s.bytes)} for s in slopes],
    }


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def to_text(rows: Sequence[Sensitivity], ledger: MemoryLedger) -> str:
    """For a terminal; ``ledger`` is of the scenario as it is."""
    sections = ["What one step of each knob adds to the peak, bytes", PLAIN.draw(*_change_rows(rows))]
    if "allocator_rounding" in ledger.by_name():
        sections.append(_BLOCKS)
    sections += ["Where the slopes come from", PLAIN.draw(*_slope_rows(rows), widths=_SLOPE_COLUMNS)]
    return "\n\n".join(sections) + "\n"


def _change_rows(rows: Sequence[Sensitivity]) -> Table:
    cells = []
    for row in rows:
        slope = "kink" if row.slope_bytes is None else _spelled(row.slope_bytes)
        cells.append([row.knob.name, str(row.value), _signed(row.more), _signed(row.less), slope, _binds(row)])
    headers = ["knob", "now", "one more", "one less", "slope", "binds then"]
    return cells, headers, ["left", "right", "right", "right", "right", "left"]


def _signed(change: Change | None) -> str:
    if change is None:
        return "-"
    return ("+" if change.bytes > 0 else "") + format_exact_bytes(change.bytes)


def _binds(row: Sensitivity) -> str:
    """The phase that binds after one more and after one less, once when they are the same."""
    phases = [change.binding_phase for change in (row.more, row.less) if change is not None]
    return ", ".join(dict.fromkeys(phases))


def _slope_rows(rows: Sequence[Sensitivity]) -> Table:
    cells = []
    for row in rows:
        cells += [[name, *rest] for name, rest in zip(_once(row.knob.name), _slopes_of(row), strict=False)]
    return cells, ["knob", "bytes", "item", "derivative"], ["left", "right", "left", "left"]


def _once(name: str) -> Iterator[str]:
    """The name for a knob's first row, nothing for the others."""
    yield name
    yield from repeat("")


def _slopes_of(row: Sensitivity) -> list[list[str]]:
    total, slopes = row.slope_bytes, row.slopes
    if total is None or slopes is None:
        return [["", "", "one more changes the binding phase"]]
    if not slopes:
        return [["0", "", "one more changes nothing at the peak"]]
    cells = []
    for slope in slopes:
        if slope.bytes >= _SMALL * total:
            gains = "".join(f", Δ{symbol} = {gain}" for symbol, gain in slope.gains.items())
            derivative = "exact difference" if slope.derivative is None else slope.derivative + gains
            cells.append([_spelled(slope.bytes), slope.item, derivative])
    small = [slope.bytes for slope in slopes if slope.bytes < _SMALL * total]
    return cells + ([[_spelled(sum(small, start=Fraction(0))), f"({len(small)} smaller)", ""]] if small else [])


def _spelled(value: Fraction) -> str:
    return format_exact_bytes(int(value)) if value.denominator == 1 else f"{float(value):,.2f}".replace(",", " ")
