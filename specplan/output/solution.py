"""The answer of ``solve`` as JSON, as a table for a terminal, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from specplan.ledger import MemoryLedger
from specplan.output.tables import GITHUB, PLAIN, Style, Table
from specplan.planner.bound import Bound
from specplan.planner.solve import Solution
from specplan.provenance import Source
from specplan.strict import encode
from specplan.units import format_bytes, format_exact_bytes

#: Items named in the line about one more.
_MOST_ITEMS = 3


def to_json(solution: Solution) -> str:
    """The best value on top, then every drafter's bound with its ledger."""
    best = solution.best
    data = {
        "knob": solution.knob.name,
        "fits": solution.fits,
        "value": best.value,
        "drafter": best.drafter,
        "limit": solution.knob.limit,
        "bounded": best.beyond is not None,
        "budget_bytes": solution.inputs.budget_bytes,
        "left_bytes": best.left_bytes,
        "shortfall_bytes": best.shortfall_bytes,
        "bounds": [_bound_data(bound) for bound in solution.bounds],
        "inputs": encode(solution.inputs),
        "notes": list(solution.notes),
    }
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _bound_data(bound: Bound) -> dict[str, Any]:
    return {
        "drafter": bound.drafter,
        "value": bound.value,
        "left_bytes": bound.left_bytes,
        "shortfall_bytes": bound.shortfall_bytes,
        "parallelism": None if bound.parallelism is None else encode(bound.parallelism),
        "rank": bound.rank,
        "growth": [{"item": item, "bytes": num_bytes} for item, num_bytes in bound.growth()],
        "workload": encode(bound.scenario.workload),
        "speculation": encode(bound.scenario.speculation),
        "fitting": _ledger_data(bound.fitting),
        "beyond": _ledger_data(bound.beyond),
    }


def _ledger_data(ledger: MemoryLedger | None) -> dict[str, Any] | None:
    if ledger is None:
        return None
    binding = {"binding_phase": ledger.binding_phase, "binding_item": ledger.binding_item.name}
    return {**encode(ledger), **binding, "peak_bytes": ledger.peak_bytes}


def to_table(solution: Solution) -> str:
    """Aligned plain text."""
    return _render(solution, PLAIN)


def to_markdown(solution: Solution) -> str:
    """A GitHub-flavored table under a heading."""
    return _render(solution, GITHUB)


FORMATTERS: dict[str, Callable[[Solution], str]] = {"json": to_json, "table": to_table, "markdown": to_markdown}


def _render(solution: Solution, style: Style) -> str:
    sections = [style.heading(_headline(solution)), "\n".join(_question(solution)), style.draw(*_rows(solution))]
    sections += [*_growth(solution, style), style.paragraph(_sources(solution))]
    sections += style.notes(solution.notes)
    return "\n\n".join(sections) + "\n"


def _headline(solution: Solution) -> str:
    best, knob = solution.best, solution.knob
    budget = format_bytes(best.budget_bytes)
    if not solution.fits:
        missing = format_exact_bytes(best.shortfall_bytes or 0)
        return f"Does not fit: {knob.name} {knob.least} lacks {missing} bytes in {budget}, with {_who(best)}."
    value = f"{format_exact_bytes(best.value)} {knob.unit if best.value == 1 else knob.units}"
    if best.beyond is None:
        return f"No bound: {value}, the most that specplan plans, fit in {budget}."
    return f"Largest {knob.name} in {budget}: {value}, with {_who(best)}."


def _question(solution: Solution) -> list[str]:
    inputs, bound = solution.inputs, solution.best
    workload, speculation = bound.scenario.workload, bound.scenario.speculation
    spread = bound.parallelism
    lines = [
        f"device {inputs.device.title}" if spread is None else f"{spread.num_ranks} devices, {spread.describe()}",
        f"target {inputs.target.reference} in {workload.dtype} (KV {workload.kv_dtype})",
    ]
    if inputs.draft is not None:
        lines.append(f"draft {inputs.draft.reference} in {workload.draft_dtype} (KV {workload.draft_kv_dtype})")
    given = {
        "context": workload.context,
        "batch_size": workload.batch_size,
        "prefill_chunk": speculation.prefill_chunk,
        "logits_rows": speculation.logits_rows,
    }
    others = ", ".join(f"{name} {value}" for name, value in given.items() if name != solution.knob.name)
    return [*lines, f"{others}; what is not given takes least memory"]


def _rows(solution: Solution) -> Table:
    rows = [[_who(bound), *_cells(bound)] for bound in solution.bounds]
    headers = ["with", "largest", "left", "binds", "one more lacks"]
    columns = ["left", "right", "right", "left", "right"]
    if solution.best.parallelism is None:
        return rows, headers, columns
    rows = [[*row, str(bound.rank), _over(bound)] for row, bound in zip(rows, solution.bounds, strict=True)]
    return rows, [*headers, "on rank", "over"], [*columns, "right", "left"]


def _who(bound: Bound) -> str:
    return bound.scenario.speculation.describe()


def _over(bound: Bound) -> str:
    return "" if bound.parallelism is None else bound.parallelism.describe()


def _cells(bound: Bound) -> list[str]:
    ledger = bound.fitting or bound.beyond
    assert ledger is not None  # one of them is always there
    value = format_exact_bytes(bound.value) if bound.value else "none"
    left = "" if bound.left_bytes is None else format_bytes(bound.left_bytes)
    lacks = "no bound" if bound.shortfall_bytes is None else format_exact_bytes(bound.shortfall_bytes)
    return [value, left, f"{ledger.binding_phase}: {ledger.binding_item.formula_id}", lacks]


def _growth(solution: Solution, style: Style) -> Sequence[str]:
    """What one more of the best adds."""
    growth = solution.best.growth()
    if not growth:
        return []
    total = format_exact_bytes(sum(num_bytes for _, num_bytes in growth))
    shown = growth if len(growth) <= _MOST_ITEMS + 1 else growth[:_MOST_ITEMS]
    rows = [[name, format_exact_bytes(num_bytes)] for name, num_bytes in shown]
    if rest := growth[len(shown) :]:
        rows.append([f"({len(rest)} others)", format_exact_bytes(sum(num_bytes for _, num_bytes in rest))])
    title = style.heading(f"One more {solution.knob.unit} adds {total} bytes to the peak")
    return [title, style.draw(rows, ["item", "bytes"], ["left", "right"])]


def _sources(solution: Solution) -> str:
    """Which bytes are not decided by code."""
    ledger = solution.best.fitting or solution.best.beyond
    assert ledger is not None  # one of them is always there
    names: dict[Source, list[str]] = {}
    for item in ledger.items:
        if item.source != "exact" and item.bytes:
            names.setdefault(item.source, []).append(item.name)
    others = "; ".join(f"{source} {', '.join(found)}" for source, found in names.items())
    return f"Bytes are exact but for: {others}." if others else "Bytes are exact."
