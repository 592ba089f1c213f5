"""What bench.batches found, as tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from bench.runtime_report import Spread
from specplan.provenance import Figure

#: How far a measured ratio may be on the other side of what the planner says.
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One batch, plain and speculative.

    Attributes:
        batch_size: rows.
        speculation: what was run.
        accepted_length: measured τ.
        plain, drafted: measured tokens/s of all rows together while they decode.
        plain_said, drafted_said: what the planner predicts for them.
        speedup: measured, round by round.
    """

    batch_size: int
    speculation: str
    accepted_length: float
    plain: Spread
    plain_said: Figure
    drafted: Spread
    drafted_said: Figure
    speedup: Spread

    @property
    def pays(self) -> bool:
        """What the planner says of speculation here."""
        return self.drafted_said.value > self.plain_said.value

    @property
    def right(self) -> bool:
        """Whether the measurement agrees, with 5 % of tolerance."""
        median = self.speedup.median
        return median >= 1 - _TOLERANCE if self.pays else median <= 1 + _TOLERANCE


@dataclass(frozen=True, slots=True)
class LossLine:
    """Adaptive speculation beside plain decoding.

    Attributes:
        speculation: what may be drafted.
        said: what the planner makes of drafting it always: the ratio to plain decoding.
        plain, adaptive: tokens/s while decoding.
        loss: share of the plain speed that is lost, round by round; negative where it gains.
    """

    speculation: str
    said: Figure
    plain: Spread
    adaptive: Spread
    loss: Spread


def to_table(batches: Sequence[BatchLine], losses: Sequence[LossLine]) -> str:
    """Both tables, those that there are."""
    parts = []
    if batches:
        parts += [_batch_table(batches), _scaling(batches)]
    if losses:
        rows = [
            [
                line.speculation,
                f"{line.said.value:.2f}x",
                line.plain.text(1),
                line.adaptive.text(1),
                _percent(line.loss),
            ]
            for line in losses
        ]
        headers = ["adaptive, stories", "planned unadapted", "plain", "adaptive", "loss"]
        parts.append(tabulate(rows, headers, "github", disable_numparse=True))
    return "\n\n".join(parts)


def _batch_table(batches: Sequence[BatchLine]) -> str:
    rows = [
        [
            line.batch_size, line.speculation, f"{line.accepted_length:.2f}", line.plain.text(1),
            f"{line.plain_said.value:.1f}", line.drafted.text(1), f"{line.drafted_said.value:.1f}",
            line.speedup.text(2, "x"), f"{line.drafted_said.value / line.plain_said.value:.2f}x",
            ("pays" if line.pays else "does not pay") + (", right" if line.right else ", WRONG"),
        ]
        for line in batches
    ]  # fmt: skip
    headers = ["batch", "speculation", "τ", "plain", "planned", "speculative", "planned", "ratio", "planned", "planner"]
    table = tabulate(rows, headers, "github", disable_numparse=True)
    sources = dict.fromkeys(
        f"{f.source}: {f.reference}" for line in batches for f in (line.plain_said, line.drafted_said)
    )
    return "\n".join([table, "", *(f"planned tokens/s {source}" for source in sources)])


def _scaling(batches: Sequence[BatchLine]) -> str:
    first, last = batches[0], batches[-1]
    plain, drafted = (getattr(last, kind).median / getattr(first, kind).median for kind in ("plain", "drafted"))
    return f"batch {last.batch_size} to batch {first.batch_size}: plain {plain:.2f}x, speculative {drafted:.2f}x"


def _percent(share: Spread) -> str:
    return f"{100 * share.median:+.1f} % ({100 * share.low:+.1f} to {100 * share.high:+.1f})"


def to_json(batches: Sequence[BatchLine], losses: Sequence[LossLine]) -> str:
    """The same figures, unrounded."""
    found = [dataclasses.asdict(line) | {"pays": line.pays, "right": line.right} for line in batches]
    return json.dumps({"batches": found, "adaptive": [dataclasses.asdict(line) for line in losses]}, indent=2)
