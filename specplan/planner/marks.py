"""The four marks, and the frontier of bytes against speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from specplan.plan import FrontierPoint, Mark, Marks
from specplan.planner.choose import Choice, least, least_where
from specplan.planner.question import Question
from specplan.planner.ranks import binding_kind
from specplan.planner.space import Candidates
from specplan.speed.roofline import Times

#: A gain in speed that is worth a point of the frontier.
_LEAST_GAIN = 1.005
#: Speculation must be faster than plain decoding by more than rounding.
_FASTER = 1 + 1e-9


def allowed(question: Question, groups: Sequence[Candidates]) -> list[Candidates]:
    """Configurations that may be the answer."""
    return [group for group in groups if group.drafter != "none" or not question.must_speculate]


def find_marks(question: Question, groups: Sequence[Candidates]) -> Marks:
    """The four marks and each drafter's least budget, over all budgets."""
    plain = [group for group in groups if group.drafter == "none"]
    answers = allowed(question, groups)
    top = max(float(group.throughput.max()) for group in answers)
    return Marks(
        decodes=_mark(least(plain)),
        speculates=_speculates(plain, groups),
        keeps=_mark(least(answers, at_least=top * question.inputs.keep)),
        fastest=_mark(least(answers, at_least=top)),
        drafters={
            drafter: _mark(least([group for group in groups if group.drafter == drafter]))
            for drafter in question.drafters
        },
    )


def _speculates(plain: Sequence[Candidates], groups: Sequence[Candidates]) -> Mark | None:
    """The least budget at which a speculative configuration beats every plain one that fits it too."""
    peaks = np.concatenate([group.peak_bytes for group in plain])
    order = np.argsort(peaks, kind="stable")
    best: Times = np.maximum.accumulate(np.concatenate([group.throughput for group in plain])[order])

    def wins(group: Candidates) -> npt.NDArray[np.bool_]:
        num_fitting = np.searchsorted(peaks[order], group.peak_bytes, side="right")
        rival = np.where(num_fitting > 0, best[np.maximum(num_fitting, 1) - 1], 0.0)
        return np.asarray(group.throughput > rival * _FASTER)

    found = least_where((group for group in groups if group.drafter != "none"), wins)
    return _mark(found) if found is not None else None


def _mark(choice: Choice | None) -> Mark:
    assert choice is not None, "no configuration at all"
    ledger = binding_kind(choice.kinds()).ledger
    binding = f"{ledger.binding_phase}: {ledger.binding_item.formula_id}"
    workload = choice.group.variant.workload
    return Mark(choice.peak_bytes, choice.speculation, workload, choice.throughput, binding)


def frontier(groups: Sequence[Candidates]) -> tuple[FrontierPoint, ...]:
    """Configurations that no other beats with as few bytes, from the fewest on; small gains are left out.

    The last one is the fastest of all.
    """
    peaks = np.concatenate([group.peak_bytes for group in groups])
    speeds = np.concatenate([group.throughput for group in groups])
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    starts = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    order = np.lexsort((-speeds, peaks))
    best: Times = np.maximum.accumulate(speeds[order])
    gains = np.flatnonzero(np.concatenate([[True], best[1:] > best[:-1]]))
    kept: list[int] = []
    for position in gains:
        last = position == gains[-1]
        if not kept or last or speeds[order[position]] >= speeds[kept[-1]] * _LEAST_GAIN:
            kept.append(int(order[position]))
    return tuple(_point(groups[owners[index]], int(index - starts[owners[index]])) for index in kept)


def _point(group: Candidates, index: int) -> FrontierPoint:
    return FrontierPoint(
        int(group.peak_bytes[index]),
        float(group.throughput[index]),
        group.speculation(index),
        group.variant.workload,
    )
