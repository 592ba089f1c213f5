"""bench.runtime's speeds as a picture: one group of bars for each category."""

from __future__ import annotations

import io
from collections.abc import Sequence

from bench.contenders import Side
from bench.runtime_report import Conditions, Line

#: Colors that people with color blindness tell apart: Okabe and Ito (2008), flashspec's and our last ones Tol (2021).
_COLORS: dict[Side, tuple[str, ...]] = {
    "specplan": ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#000000", "#999999", "#44AA99", "#882255"),
    "transformers": ("#D55E00", "#E69F00", "#CC79A7"),
    "flashspec": ("#999933", "#AA4499", "#661100"),
}
_INCH_PER_BAR, _DPI = 0.22, 120


def picture(where: Conditions, lines: Sequence[Line], image_format: str) -> bytes:
    """Horizontal bars of tokens/s, quartiles as whiskers.

    Args:
        where: for the title.
        lines: of all categories.
        image_format: ``svg`` or ``png``.
    """
    from matplotlib.figure import Figure

    categories = list(dict.fromkeys(line.category for line in lines))
    families = list(dict.fromkeys((line.side, line.method) for line in lines))
    left = {side: iter(colors) for side, colors in _COLORS.items()}
    colors = {family: next(left[family[0]]) for family in families}
    figure = Figure(figsize=(9.0, 1.5 + _INCH_PER_BAR * len(categories) * (len(families) + 1)), layout="constrained")
    axes = figure.add_subplot()
    for place, family in enumerate(families):
        own = [line for line in lines if (line.side, line.method) == family]
        speeds = [line.tokens_per_s for line in own]
        axes.barh(
            [categories.index(line.category) * (len(families) + 1) + place for line in own],
            [speed.median for speed in speeds],
            xerr=[[s.median - s.low for s in speeds], [s.high - s.median for s in speeds]],
            color=colors[family], label=": ".join(family),
        )  # fmt: skip
    middle = (len(families) - 1) / 2
    axes.set_yticks([index * (len(families) + 1) + middle for index in range(len(categories))], categories)
    axes.invert_yaxis()
    axes.set_xlabel("tokens/s, prefill included")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(f"{', '.join(where.models)}, {where.dtype}", fontsize=11, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=image_format, dpi=_DPI)
    return buffer.getvalue()
