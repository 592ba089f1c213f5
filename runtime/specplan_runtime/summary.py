"""The table that ends a run."""

from __future__ import annotations

import statistics

from tabulate import tabulate

from specplan.units import format_bytes, format_exact_bytes
from specplan_runtime.report import Pass, Report, owned_difference

#: Items smaller than this share of the peak are summed up in one line.
_SMALL = 0.001


def render(report: Report) -> str:
    """Planned against measured bytes, rank by rank where there are several, then speed."""
    parts = [_ledger_table(report), _peak_lines(report), _speed_table(report)]
    if report.ranks:
        spread = report.engine.plan.spread
        assert spread is not None
        title = f"Items of rank {spread.parallelism.deciding_rank}, which decides:"
        parts[:1] = [title, parts[0], _ranks_table(report)]
    return "\n\n".join(parts) + "\n"


def _ledger_table(report: Report) -> str:
    peak = report.engine.plan.peak_bytes
    shown = [entry for entry in report.items if entry.item.bytes >= peak * _SMALL]
    small = [entry for entry in report.items if entry.item.bytes < peak * _SMALL and entry.owned]
    rows = [
        [
            e.item.phase,
            e.item.name,
            _bytes(e.item.bytes),
            _bytes(e.measured_bytes),
            _difference(e.difference, e.owned),
        ]
        for e in shown
    ]
    if small:
        planned, measured = sum(e.item.bytes for e in small), sum(e.measured_bytes or 0 for e in small)
        worst = sum(abs(e.difference or 0) for e in small)
        rows.append(
            [
                "all",
                f"{len(small)} smaller items",
                _bytes(planned),
                _bytes(measured),
                _difference(worst, True),
            ]
        )
    headers = ["phase", "item", "planned bytes", "measured bytes", "difference"]
    return tabulate(
        rows, headers, "simple", colalign=("left", "left", "right", "right", "right"), disable_numparse=True
    )


def _ranks_table(report: Report) -> str:
    """A line for every rank: what the runtime owns there, and all of the process."""
    rows = [
        [
            f"rank {each.rank}",
            _bytes(each.planned_bytes),
            _bytes(each.measured_bytes),
            str(owned_difference(each.items)),
            "" if each.process_peak_bytes is None else format_bytes(each.process_peak_bytes),
            format_bytes(each.kind.ledger.peak_bytes),
            format_bytes(each.kind.budget_bytes),
        ]
        for each in report.ranks
    ]
    headers = ["", "planned bytes", "measured bytes", "difference", "process peak", "planned peak", "budget"]
    columns = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, "simple", colalign=columns, disable_numparse=True)


def _bytes(value: int | None) -> str:
    return "not separable" if value is None else format_exact_bytes(value)


def _difference(value: int | None, owned: bool) -> str:
    if value is None:
        return ""
    return f"{value:+d}" if owned and value else "0" if owned else f"({value:+,d})".replace(",", " ")


def _peak_lines(report: Report) -> str:
    plan = report.engine.plan
    ledgers = [rank.items for rank in report.ranks] or [report.items]
    count = sum(entry.owned for items in ledgers for entry in items)
    where = f" of {len(ledgers)} ranks" if len(ledgers) > 1 else ""
    lines = [
        f"planned = measured on all {count} items{where} that the runtime owns: "
        f"{report.owned_difference} bytes difference"
    ]
    if report.owned_difference:
        lines = [f"planned and measured differ by {report.owned_difference} bytes on items that the runtime owns"]
    if report.process_peak_bytes is not None and not report.ranks:
        lines.append(
            f"process peak {format_bytes(report.process_peak_bytes)}, planned peak {format_bytes(plan.peak_bytes)}, "
            f"budget {format_bytes(plan.inputs.budget_bytes)}"
        )
    return "\n".join(lines)


def _speed_table(report: Report) -> str:
    headers = ["", report.engine.plan.speculation.describe()]
    drafts = report.engine.plan.speculation.drafter != "none"
    columns = [_speed_column(report.speculative, "nothing drafted" if drafts else "")]
    if report.baseline is not None:
        headers.append("plain decoding")
        columns.append(_speed_column(report.baseline, ""))
    names = [
        "tokens/s (measured)",
        "mean accepted length",
        "draft acceptance rate",
        "time to first token",
        "tokens",
    ]
    rows = [[name, *(column[index] for column in columns)] for index, name in enumerate(names)]
    table = tabulate(rows, headers, "simple", colalign=("left", *["right"] * len(columns)), disable_numparse=True)
    return table + _verdict(report)


def _speed_column(counters: Pass, undrafted: str) -> list[str]:
    stats, timings = counters.stats, counters.timings
    ttft = statistics.median(timings.ttft_s) if timings.ttft_s else None
    return [
        _number(timings.tokens_per_s, 1),
        _number(stats.mean_accepted_length, 2),
        _number(stats.draft_acceptance_rate, 2) or undrafted,
        "" if ttft is None else f"{ttft:.3f} s",
        str(timings.num_decoded_tokens + len(timings.ttft_s)),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _verdict(report: Report) -> str:
    if report.speedup is None:
        return ""
    same = {
        True: ", the same tokens",
        False: ", NOT the same tokens (a tie in the top two, or a bug)",
        None: "",
    }
    return f"\n\n{report.speedup:.2f}x the speed of plain decoding in the same run{same[report.baseline_equal]}"
