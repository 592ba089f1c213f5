"""The answer of ``analyze`` as JSON, as tables for a terminal, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from specplan.ledger import PHASES, MemoryLedger
from specplan.output.ranks import item_rows, rank_rows, replicas_line
from specplan.output.tables import GITHUB, PLAIN, Style, Table
from specplan.plan import Infeasible, Mark, Marks, Plan
from specplan.provenance import Figure, weakest
from specplan.speculation import Speculation
from specplan.strict import encode
from specplan.units import format_bytes, format_exact_bytes, format_rate
from specplan.workload import Workload

Result = Plan | Infeasible

#: Items below this share of the peak are summed up in tables; JSON has them all.
_SMALL = 0.0005
_FRONTIER_ROWS = 11
# a description of many words wraps, numbers do not
_MARK_COLUMNS = (None, None, None, 44)
_FRONTIER_COLUMNS = (None, None, None, None, 48)
_ESTIMATE_COLUMNS = (None, None, None, 84)


def to_json(result: Result) -> str:
    """Every field of the result, with the totals that a ledger computes and whether it fits."""
    data: dict[str, Any] = encode(result)
    data["fits"] = isinstance(result, Plan)
    data["peak_bytes"] = result.ledger.peak_bytes
    data["device"] = data["inputs"]["device"]
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def to_table(result: Result) -> str:
    """Aligned plain text."""
    return _render(result, PLAIN)


def to_markdown(result: Result) -> str:
    """GitHub-flavored tables under headings."""
    return _render(result, GITHUB)


FORMATTERS: dict[str, Callable[[Result], str]] = {"json": to_json, "table": to_table, "markdown": to_markdown}


def _render(result: Result, style: Style) -> str:
    draw, heading = style.draw, style.heading
    sections = [heading(_headline(result)), style.paragraph(_question(result))]
    if result.spread is not None:
        sections += [heading("Ranks"), draw(*rank_rows(result.spread)), draw(*item_rows(result.spread))]
        sections += [style.paragraph(replicas_line(result.spread))]
    of_rank = "" if result.spread is None else f" of rank {result.spread.binding_rank}"
    sections += [heading(f"Memory ledger{of_rank}"), draw(*ledger_rows(result.ledger))]
    sections += [_peak_line(result.ledger)]
    sections += [
        heading("Budgets"),
        draw(*_mark_rows(result.marks, result.inputs.keep, result.workload), widths=_MARK_COLUMNS),
        style.paragraph(_speed_source(result)),
        heading("Bytes against speed"),
        draw(*_frontier_rows(result), widths=_FRONTIER_COLUMNS),
    ]
    if isinstance(result, Plan):
        sections += [heading("Speed"), draw(*_estimate_rows(result), widths=_ESTIMATE_COLUMNS)]
        configurations = format_exact_bytes(result.certificate.num_configurations)
        sections += [heading(f"Why this one of {configurations} configurations"), draw(*_neighbour_rows(result))]
        sections += [style.paragraph(_searched(result.certificate.searched))]
    sections += style.notes(result.notes)
    return "\n\n".join(sections) + "\n"


def _headline(result: Result) -> str:
    peak, budget = result.ledger.peak_bytes, result.inputs.budget_bytes
    if isinstance(result, Plan):
        return (
            f"Fits: {format_bytes(peak)} of {format_bytes(budget)} on {_where(result)}, "
            f"{format_bytes(budget - peak)} to spare. Best: {result.speculation.describe()}{_how(result)}."
        )
    return (
        f"Does not fit: even {result.nearest.describe()}{_how(result)} needs {format_bytes(peak)} of "
        f"{format_bytes(budget)} on {_where(result)}, "
        f"{format_exact_bytes(result.shortfall_bytes)} bytes too many."
    )


def _where(result: Result) -> str:
    """The device, of several the one that binds."""
    title = result.inputs.device.title
    if result.spread is None:
        return title
    return f"rank {result.spread.binding_rank} of {result.spread.parallelism.num_ranks} ({title})"


def _how(result: Result) -> str:
    return "" if result.spread is None else f"; {result.spread.parallelism.describe()}"


def _question(result: Result) -> str:
    workload = result.workload
    draft = f", draft {result.inputs.draft.reference} in {workload.draft_dtype}" if result.inputs.draft else ""
    turns = f" in {workload.num_turns} turns" if workload.num_turns > 1 else ""
    return (
        f"target {result.inputs.target.reference} in {workload.dtype} (KV {workload.kv_dtype}){draft}; "
        f"context {workload.context} ({workload.prompt_tokens} given, {workload.new_tokens} generated{turns}), "
        f"batch {workload.batch_size}"
    )


def ledger_rows(ledger: MemoryLedger) -> Table:
    """Rows by phase, largest first, the small ones of a phase summed up; headers; alignment."""
    rows = []
    least = ledger.peak_bytes * _SMALL
    for phase in PHASES:
        items = sorted((item for item in ledger.items if item.phase == phase), key=lambda item: -item.bytes)
        small = [item for item in items if item.bytes < least]
        rows += [_row(phase, item.name, item.owner, item.bytes, item.source) for item in items if item.bytes >= least]
        if total := sum(item.bytes for item in small):
            source = weakest(*(item.source for item in small if item.bytes))
            rows.append(_row(phase, f"({len(small)} smaller)", "", total, source))
    headers = ["phase", "item", "owner", "bytes", "", "source"]
    return rows, headers, ["left", "left", "left", "right", "right", "left"]


def _row(phase: str, name: str, owner: str, num_bytes: int, source: str) -> list[str]:
    return [phase, name, owner, format_exact_bytes(num_bytes), format_bytes(num_bytes), source]


def _peak_line(ledger: MemoryLedger) -> str:
    return (
        f"Peak {format_exact_bytes(ledger.peak_bytes)} bytes = resident {format_exact_bytes(ledger.resident_bytes)} "
        f"+ {format_exact_bytes(ledger.workspace_bytes)} in the binding phase {ledger.binding_phase} "
        f"(mostly {ledger.binding_item.name})."
    )


def _speed_source(result: Result) -> str:
    """What the speeds of the tables around it rest on."""
    text = "tokens/s are modelled, prefill included"
    if not isinstance(result, Plan) or result.speculation.drafter == "none":
        return f"{text}."
    alpha = result.estimate.alpha
    return f"{text}; {result.speculation.drafter} at alpha {alpha.value:.3g}, {alpha.source}: {alpha.reference}."


def _searched(searched: dict[str, tuple[str, ...]]) -> str:
    """The knobs that had a choice, with their values."""
    varied = [f"{name} {_values(values)}" for name, values in searched.items() if len(values) > 1]
    return f"Searched: {'; '.join(varied)}." if varied else "Searched: every knob was given."


def _values(values: tuple[str, ...]) -> str:
    if not all(value.isdecimal() for value in values):
        return ", ".join(values)
    numbers = sorted(map(int, values))
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _mark_rows(marks: Marks, keep: float, workload: Workload) -> Table:
    named: list[tuple[str, Mark | None]] = [
        ("the target decodes at all", marks.decodes),
        ("speculation beats plain in the same budget", marks.speculates),
        (f"{100 * keep:g} % of the best speed", marks.keeps),
        ("fastest", marks.fastest),
        *((f"{drafter} runs", mark) for drafter, mark in marks.drafters.items() if drafter != "none"),
    ]
    rows = [[name, *_mark_cells(mark, workload)] for name, mark in named]
    headers = ["least budget at which", "bytes", "", "with", "tokens/s", "binding"]
    return rows, headers, ["left", "right", "right", "left", "right", "left"]


def _mark_cells(mark: Mark | None, workload: Workload) -> list[str]:
    if mark is None:
        return ["never", "", "", "", ""]
    speed = format_rate(mark.throughput, "").strip()
    return [
        format_exact_bytes(mark.bytes),
        format_bytes(mark.bytes),
        describe(mark.speculation, mark.workload, workload),
        speed,
        mark.binding,
    ]


def describe(speculation: Speculation, workload: Workload, usual: Workload) -> str:
    """A configuration in a few words: the drafter, and how its workload differs from the usual one."""
    parts = [speculation.describe()]
    if workload.dtype != usual.dtype:
        parts.append(f"weights {workload.dtype}")
    if workload.kv_dtype != usual.kv_dtype:
        parts.append(f"KV {workload.kv_dtype}")
    if workload.draft_kv_dtype != usual.draft_kv_dtype and speculation.drafter == "draft_model":
        parts.append(f"draft KV {workload.draft_kv_dtype}")
    if workload.batch_size != usual.batch_size:
        parts.append(f"batch {workload.batch_size}")
    return ", ".join(parts)


def _frontier_rows(result: Result) -> Table:
    """A dozen points of the frontier, evenly spaced; JSON has them all."""
    points = result.frontier
    step = max(1, -(-(len(points) - 1) // _FRONTIER_ROWS))
    shown = sorted({*range(0, len(points), step), len(points) - 1})
    best = points[-1].throughput
    rows = [
        [
            format_exact_bytes(point.bytes),
            format_bytes(point.bytes),
            format_rate(point.throughput, "").strip(),
            f"{100 * point.throughput / best:.0f} %",
            describe(point.speculation, point.workload, result.workload),
            f"{point.speculation.prefill_chunk}, {point.speculation.logits_rows}",
        ]
        for point in (points[index] for index in shown)
    ]
    headers = ["bytes", "", "tokens/s", "of the best", "with", "chunk, logits rows"]
    return rows, headers, ["right", "right", "right", "right", "left", "right"]


def _estimate_rows(plan: Plan) -> Table:
    estimate = plan.estimate
    speculation = plan.speculation
    rows = [
        _figure_row("tokens/s with prefill", estimate.throughput),
        _figure_row("the same, plain", estimate.baseline_throughput),
        _figure_row("tokens/s while decoding", estimate.tokens_per_s),
        _figure_row("the same, plain", estimate.baseline_tokens_per_s),
        _figure_row("speedup while decoding", estimate.speedup),
        _figure_row("mean accepted length", estimate.mean_accepted_length),
        _figure_row("alpha", estimate.alpha),
        _figure_row("prefill of a sequence's prompts, s", estimate.prefill_s),
        [speculation.drafted_name, str(speculation.num_draft_nodes), estimate.tokens_per_s.source, "the search"],
        [
            "prefill chunk, logits rows",
            f"{speculation.prefill_chunk}, {speculation.logits_rows}",
            "modelled",
            "the search",
        ],
    ]
    return rows, ["", "value", "source", "from"], ["left", "right", "left", "left"]


def _figure_row(name: str, figure: Figure) -> list[str]:
    return [name, f"{figure.value:.3g}", figure.source, figure.reference]


def _neighbour_rows(plan: Plan) -> Table:
    rows: Sequence[list[str]] = [
        [n.knob, n.value, format_bytes(n.peak_bytes), f"{n.throughput:.3g}", n.reason]
        for n in plan.certificate.neighbours
    ]
    headers = ["instead of", "value", "peak", "tokens/s", "why not"]
    return list(rows), headers, ["left", "left", "right", "right", "left"]
