"""What a run measured, beside what its plan said."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from specplan import __version__, planfile
from specplan.ledger import RUNTIME_OWNERS, MemoryItem
from specplan.plan import Plan, RankKind
from specplan_runtime import budget
from specplan_runtime.assembly import Assembly
from specplan_runtime.engine import Engine
from specplan_runtime.stats import SpecStats, Timings

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class MeasuredItem:
    """One ledger item, planned and measured.

    Attributes:
        item: as planned.
        measured_bytes: as allocated; None where it cannot be told apart.
    """

    item: MemoryItem
    measured_bytes: int | None

    @property
    def owned(self) -> bool:
        """Whether planned must equal measured: the runtime itself allocates it, and the plan is exact about it."""
        return self.item.owner in RUNTIME_OWNERS and self.item.source == "exact"

    @property
    def difference(self) -> int | None:
        """Measured minus planned."""
        return None if self.measured_bytes is None else self.measured_bytes - self.item.bytes


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one of several ranks measured.

    Attributes:
        rank: its number.
        kind: the ranks like it, their device and budget.
        items: its ledger.
        process_peak_bytes: resident at most (CPU) or reserved at most (CUDA); None where the platform does not tell.
    """

    rank: int
    kind: RankKind
    items: tuple[MeasuredItem, ...]
    process_peak_bytes: int | None

    @property
    def planned_bytes(self) -> int:
        """Of the items that the runtime owns."""
        return sum(item.item.bytes for item in self.items if item.owned)

    @property
    def measured_bytes(self) -> int:
        """Of the same items."""
        return sum(item.measured_bytes or 0 for item in self.items if item.owned)


@dataclass(frozen=True, slots=True)
class Pass:
    """Counters of one way of decoding the prompts.

    Attributes:
        stats: of speculation.
        timings: of the clock.
    """

    stats: SpecStats
    timings: Timings


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run tells.

    Attributes:
        engine: that ran.
        items: the ledger.
        process_peak_bytes: resident at most (CPU) or reserved at most (CUDA); None where the platform does not tell.
        speculative: counters of the plan's drafter.
        baseline: counters of plain decoding in the same run, None when not asked for.
        baseline_equal: whether both gave the same tokens; None when sampling or without a baseline.
        ranks: what every rank measured, where there are several.
    """

    engine: Engine
    items: tuple[MeasuredItem, ...]
    process_peak_bytes: int | None
    speculative: Pass
    baseline: Pass | None
    baseline_equal: bool | None
    ranks: tuple[RankReport, ...] = ()

    @property
    def owned_difference(self) -> int:
        """Sum of absolute differences over the items that the runtime owns, on all ranks: 0 unless there is a bug."""
        ledgers = [rank.items for rank in self.ranks] or [self.items]
        return sum(map(owned_difference, ledgers))

    @property
    def speedup(self) -> float | None:
        """Decoding speed over the baseline's."""
        if self.baseline is None:
            return None
        ours, plain = self.speculative.timings.tokens_per_s, self.baseline.timings.tokens_per_s
        return ours / plain if ours and plain else None


def owned_difference(items: Sequence[MeasuredItem]) -> int:
    """Sum of absolute differences over the items that the runtime owns."""
    return sum(abs(item.difference or 0) for item in items if item.owned)


def measure_items(engine: Engine, process_bytes: int | None) -> tuple[MeasuredItem, ...]:
    """Measured bytes of every item of the plan's ledger.

    Args:
        engine: that has run.
        process_bytes: resident memory before anything was allocated.
    """
    return measure_assembly(engine.plan, engine.assembly, process_bytes)


def measure_assembly(plan: Plan, assembly: Assembly[Any], process_bytes: int | None) -> tuple[MeasuredItem, ...]:
    """The same of what an engine works with."""
    measured = {**assembly.measured, "kernel_output": assembly.largest_kernel_output(), "process": process_bytes}
    return tuple(MeasuredItem(item, measured.get(item.name)) for item in plan.ledger.items)


def process_peak_bytes(device: torch.device) -> int | None:
    """The most that the process has held."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return budget.process_bytes("VmHWM")


def to_json_data(report: Report) -> dict[str, Any]:
    """The content of report.json."""
    plan = report.engine.plan
    return {
        "schema_version": REPORT_VERSION,
        "plan_sha256": hashlib.sha256(planfile.dumps(plan).encode()).hexdigest(),
        "device": {
            "profile": plan.inputs.device.name,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "specplan": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "ledger": _items_data(report.items),
        "ranks": [_rank_data(rank) for rank in report.ranks],
        "owned_difference_bytes": report.owned_difference,
        "planned_peak_bytes": plan.peak_bytes,
        "process_peak_bytes": report.process_peak_bytes,
        "speculative": _pass_data(report.speculative),
        "baseline": None if report.baseline is None else _pass_data(report.baseline),
        "baseline_equal": report.baseline_equal,
        "speedup": report.speedup,
    }


def _items_data(items: Sequence[MeasuredItem]) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.item.name,
            "owner": entry.item.owner,
            "phase": entry.item.phase,
            "planned_bytes": entry.item.bytes,
            "measured_bytes": entry.measured_bytes,
        }
        for entry in items
    ]


def _rank_data(rank: RankReport) -> dict[str, Any]:
    return {
        "rank": rank.rank,
        "device": rank.kind.device.name,
        "budget_bytes": rank.kind.budget_bytes,
        "planned_peak_bytes": rank.kind.ledger.peak_bytes,
        "process_peak_bytes": rank.process_peak_bytes,
        "owned_planned_bytes": rank.planned_bytes,
        "owned_measured_bytes": rank.measured_bytes,
        "owned_difference_bytes": owned_difference(rank.items),
        "ledger": _items_data(rank.items),
    }


def _pass_data(counters: Pass) -> dict[str, Any]:
    stats, timings = counters.stats, counters.timings
    return {
        "num_drafts": stats.num_drafts,
        "num_draft_tokens": stats.num_draft_tokens,
        "num_accepted_tokens": stats.num_accepted_tokens,
        "num_accepted_tokens_per_pos": stats.num_accepted_tokens_per_pos,
        "mean_accepted_length": stats.mean_accepted_length,
        "draft_acceptance_rate": stats.draft_acceptance_rate,
        "acceptance_per_pos": stats.acceptance_per_pos(),
        "tokens_per_s": timings.tokens_per_s,
        "ttft_s": timings.ttft_s,
        "prefill_s": timings.prefill_s,
        "decode_s": timings.decode_s,
        "num_decoded_tokens": timings.num_decoded_tokens,
    }
