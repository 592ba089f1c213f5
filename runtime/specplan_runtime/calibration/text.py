"""A calibration as JSON values and as tables: measurement beside model, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from specplan.acceptance_profiles import ALL
from specplan.speed.roofline import Pass
from specplan.speed.step_times import StepTimeTable
from specplan.speed.timer import RooflineTimer
from specplan.strict import encode
from specplan_runtime.calibration.calibrate import Calibration
from specplan_runtime.calibration.checks import Check

#: Rows of a table that are shown; JSON has them all.
_SHOWN_ROWS = (1, 2, 3, 5, 8, 16, 32, 64)
#: Quartiles further apart than this mean that the machine did other work.
_RESTLESS = 0.1
_Measured = tuple[int, int, int, float, float]


def to_data(calibration: Calibration, files: list[Path]) -> dict[str, Any]:
    """Everything, with the model's time beside every measured one."""
    return {
        "files": [str(path) for path in files],
        "step_times": [
            {**encode(table), "roofline_layer_s": _roofline_layers(table, roofline)}
            for table, roofline in zip(calibration.tables, calibration.rooflines, strict=True)
        ],
        "checks": [encode(check) for check in calibration.checks],
        "device": encode(calibration.device),
        "acceptance": [encode(profile) for profile in calibration.acceptance],
    }


def to_text(calibration: Calibration) -> str:
    """Tables for a terminal."""
    sections = [_device(calibration)]
    for table, roofline in zip(calibration.tables, calibration.rooflines, strict=True):
        sections.append(_passes(table, roofline))
    sections += [_checks(calibration.checks), _acceptance(calibration)]
    return "\n\n".join(sections) + "\n"


def doubts(calibration: Calibration) -> list[str]:
    """What makes the figures worth less, one sentence each."""
    worst = max(table.spread for table in calibration.tables)
    if worst <= _RESTLESS:
        return []
    return [
        f"quartiles of the same pass lie {100 * worst:.0f} % apart: the machine did other work meanwhile, calibrate "
        "again when it rests"
    ]


def _points(table: StepTimeTable, roofline: RooflineTimer) -> Iterator[_Measured]:
    """(batch, context, rows, modelled, measured) seconds of the layers."""
    for batch, by_context in zip(table.batch_sizes, table.layer_s, strict=True):
        for context, by_rows in zip(table.contexts, by_context, strict=True):
            for rows, measured in zip(table.rows, by_rows, strict=True):
                each = Pass(rows=rows * batch, batch_size=batch, context=context, num_layers=table.num_layers)
                yield batch, context, rows, float(roofline.layer_seconds(each)), measured


def _roofline_layers(table: StepTimeTable, roofline: RooflineTimer) -> list[float]:
    """In the order of batch sizes, contexts and rows."""
    return [modelled for _, _, _, modelled, _ in _points(table, roofline)]


def _passes(table: StepTimeTable, roofline: RooflineTimer) -> str:
    shown = [point for point in _points(table, roofline) if point[2] in _SHOWN_ROWS]
    lines = [[str(batch), str(context), str(rows), *_pair(model, real)] for batch, context, rows, model, real in shown]
    lines += [
        ["", "head", str(rows), *_pair(float(roofline.tile_seconds(rows)), measured)]
        for rows, measured in zip(table.head_rows, table.head_s, strict=True)
        if rows in _SHOWN_ROWS
    ]
    title = (
        f"{table.model} in {table.dtype} (KV {table.kv_dtype}), {table.num_layers} layers; medians of {table.repeats}, "
        f"quartiles {100 * table.spread:.1f} % apart"
    )
    headers = ["batch", "context", "rows", "roofline", "measured", "ratio"]
    return title + "\n" + tabulate(lines, headers, "simple", stralign="right", disable_numparse=True)


def _pair(modelled: float, measured: float) -> list[str]:
    return [_milliseconds(modelled), _milliseconds(measured), f"{modelled / measured:.2f}x"]


def _checks(checks: tuple[Check, ...]) -> str:
    lines = [
        [
            check.drafter,
            str(check.gamma),
            f"{check.num_tokens / check.predicted_s:.1f}",
            f"{check.num_tokens / check.measured_s:.1f}",
            f"{check.measured_s / check.predicted_s:.2f}x",
            _milliseconds(check.host_s),
        ]
        for check in checks
        if check.num_tokens
    ]
    headers = ["drafter", "γ", "tokens/s from passes", "tokens/s measured", "ratio", "host per step"]
    return "Runs beside the measured passes\n" + tabulate(lines, headers, "simple", disable_numparse=True)


def _acceptance(calibration: Calibration) -> str:
    lines = []
    for profile in calibration.acceptance:
        for name, rates in profile.categories.items():
            lengths = [rates.accepted_lengths[g - 1] if g <= len(rates.accepted_lengths) else None for g in (2, 4, 8)]
            cells = ["" if length is None else f"{length:.2f}" for length in lengths]
            lines.append([profile.drafter, name, f"{rates.draft_rate:.2f}", *cells, str(rates.num_steps)])
    headers = ["drafter", "questions", "draft rate", "τ(2)", "τ(4)", "τ(8)", "steps"]
    asked = next((profile.conditions for profile in calibration.acceptance), None)
    about = "" if asked is None else f" ({asked.prompts}: {asked.num_prompts}, {asked.num_tokens} tokens)"
    order = sorted(lines, key=lambda line: line[1] != ALL)
    return f"Accepted lengths{about}\n" + tabulate(order, headers, "simple", disable_numparse=True)


def _device(calibration: Calibration) -> str:
    found = calibration.device
    rates = ", ".join(f"{name} {rate / 1e9:.1f} GFLOP/s" for name, rate in found.flop_per_s.items())
    held = "" if found.process_bytes is None else f", process {found.process_bytes / (1 << 20):.0f} MiB"
    return (
        f"{found.device}, {found.num_threads} threads: {found.memory_bandwidth_bytes_per_s / 1e9:.1f} GB/s, {rates}, "
        f"{found.kernel_launch_s * 1e6:.1f} µs per small operation{held}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"
