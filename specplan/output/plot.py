"""The frontier of bytes against speed as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from specplan.errors import EnvironmentProblem, InputError
from specplan.plan import Infeasible, Mark, Plan
from specplan.units import GIB, MIB, format_bytes, format_rate

FORMATS = ("svg", "png")
_INCHES, _DPI = (9.0, 5.0), 150
#: Colors that people with color blindness tell apart (Okabe and Ito, 2008).
_LINE, _MEMORY, _BUDGET = "#0072B2", "#D55E00", "#E69F00"
_MARK_COLORS = {"decodes": "#555555", "speculates": "#CC79A7", "keeps": "#009E73", "fastest": "#000000"}
_MARK_SIZES = (13, 11, 9, 6)


def plot_format(path: Path) -> str:
    """The format that a file name asks for.

    Raises:
        InputError: none that is drawn.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise InputError(f"--plot {path}: name a file that ends in {' or '.join('.' + name for name in FORMATS)}")
    return suffix


def frontier_picture(result: Plan | Infeasible, image_format: str) -> bytes:
    """The frontier with its marks, the budget and the device's memory as lines.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EnvironmentProblem("--plot needs matplotlib: pip install 'specplan[plot]'") from None
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    points = result.frontier
    unit = GIB if points[0].bytes >= GIB else MIB
    axes.step(
        [point.bytes / unit for point in points],
        [point.throughput for point in points],
        where="post", color=_LINE, marker=".", label="best within that many bytes",
    )  # fmt: skip
    _draw_marks(axes, result, unit)
    _draw_limits(axes, result, unit)
    device = "device" if result.spread is None else "device that binds"
    axes.set_xlabel(f"bytes on the {device}, {'GiB' if unit == GIB else 'MiB'}")
    axes.set_ylabel("tokens/s, prefill included (modelled)")
    axes.set_ylim(bottom=0, top=points[-1].throughput * 1.25)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    inputs = result.inputs
    draft = f" with {Path(inputs.draft.reference).name}" if inputs.draft is not None else ""
    spread = "" if result.spread is None else f", {result.spread.parallelism.describe()}"
    axes.set_title(
        f"{Path(inputs.target.reference).name}{draft} on {inputs.device.title}{spread}", fontsize=11, parse_math=False
    )
    buffer = io.BytesIO()
    # without dates and random ids the same plan gives the same file
    metadata = {"Date": None} if image_format == "svg" else {"Software": None}
    with _stable_ids():
        figure.savefig(buffer, format=image_format, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def _stable_ids() -> Any:
    import matplotlib as mpl

    return mpl.rc_context({"svg.hashsalt": "specplan", "svg.fonttype": "none"})


def _draw_marks(axes: Any, result: Plan | Infeasible, unit: int) -> None:
    """The marks as dots, each smaller than the one before it: where several are one point, all are seen."""
    named: list[tuple[str, Mark | None]] = [
        ("decodes", result.marks.decodes),
        ("speculates", result.marks.speculates),
        ("keeps", result.marks.keeps),
        ("fastest", result.marks.fastest),
    ]
    texts = {"keeps": f"keeps {100 * result.inputs.keep:g} %", "speculates": "speculation pays"}
    for size, (name, mark) in zip(_MARK_SIZES, named, strict=True):
        if mark is None:
            continue
        color = _MARK_COLORS[name]
        label = f"{texts.get(name, name)}: {format_bytes(mark.bytes)}, {format_rate(mark.throughput, 'tokens/s')}"
        axes.plot([mark.bytes / unit], [mark.throughput], "o", markersize=size, color=color, label=label)


def _draw_limits(axes: Any, result: Plan | Infeasible, unit: int) -> None:
    """The budget and the device's memory, where they are near enough to be seen beside the frontier."""
    points, inputs = result.frontier, result.inputs
    low, high = min(points[0].bytes, result.marks.decodes.bytes), points[-1].bytes
    margin = max(high - low, low // 50)
    memory, budget = int(inputs.device.memory_bytes.value), inputs.budget_bytes
    limits = [("memory of the device", memory, _MEMORY)]
    if budget != memory:
        limits.append(("budget", budget, _BUDGET))
    shown = []
    for name, num_bytes, color in limits:
        label = f"{name}: {format_bytes(num_bytes)}"
        if low - 4 * margin <= num_bytes <= high + 4 * margin:
            axes.axvline(num_bytes / unit, color=color, linestyle="--", label=label)
            shown.append(num_bytes)
        else:
            side = "right" if num_bytes > high else "left"
            axes.plot([], [], color=color, linestyle="--", label=f"{label}, beyond the {side} edge")
    left, right = min([low, *shown]), max([high, *shown])
    pad = max((right - left) // 20, 1)
    axes.set_xlim((left - pad) / unit, (right + pad) / unit)
