"""``solve``: the largest context, batch or chain that a budget holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specplan.errors import InputError, UnsupportedError
from specplan.formulas.memory import MemoryModel
from specplan.heads import MedusaHeads
from specplan.knob import KNOBS, Knob
from specplan.ledger import MemoryLedger
from specplan.plan import HeadsInput, PlanInputs
from specplan.planner.ask import ask
from specplan.planner.notes import notes
from specplan.planner.question import Question
from specplan.planner.question_checks import check_question
from specplan.planner.space import least_scenario
from specplan.planner.variants import scenario_of, variants
from specplan.scenario import Scenario
from specplan.speculation import MAX_NODES, Drafter, Tree
from specplan.workload import Workload

#: How fast the search grows before it bisects: no value that is tried needs much more than the budget.
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the budget ends for one drafter.

    Attributes:
        scenario: at ``value``, or at the least value when even that does not fit.
        value: the largest that fits; 0 when none does.
        fitting: ledger at ``value``; None when none fits.
        beyond: ledger at the next value, which does not fit; None when ``value`` is the most that specplan plans.
        budget_bytes: what there is.
    """

    scenario: Scenario
    value: int
    fitting: MemoryLedger | None
    beyond: MemoryLedger | None
    budget_bytes: int

    @property
    def drafter(self) -> Drafter:
        """Who proposes."""
        return self.scenario.speculation.drafter

    @property
    def left_bytes(self) -> int | None:
        """What the budget has left at ``value``."""
        return None if self.fitting is None else self.budget_bytes - self.fitting.peak_bytes

    @property
    def shortfall_bytes(self) -> int | None:
        """What is missing for one more; None when no bound was found."""
        return None if self.beyond is None else self.beyond.peak_bytes - self.budget_bytes

    def growth(self) -> tuple[tuple[str, int], ...]:
        """What one more adds to the peak: (item, bytes), largest first, the system's last; they sum to its growth."""
        if self.fitting is None or self.beyond is None:
            return ()
        before, after = self.fitting, self.beyond
        same = before.binding_phase == after.binding_phase
        phases = ("resident", after.binding_phase) if same else ("resident",)
        known = before.by_name()
        found = [(item, item.bytes - known[item.name].bytes) for item in after.items if item.phase in phases]
        found.sort(key=lambda entry: (entry[0].owner == "system", -entry[1]))
        growth = [(item.name, num_bytes) for item, num_bytes in found if num_bytes]
        if not same:
            more = after.workspace_bytes - before.workspace_bytes
            growth.append((f"{after.binding_phase} instead of {before.binding_phase}", more))
        return tuple(growth)


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer.

    Attributes:
        knob: what was solved for.
        inputs: models, device, budget.
        bounds: one per drafter, in the order of the search.
        notes: what a reader should know besides, one sentence each.
    """

    knob: Knob
    inputs: PlanInputs
    bounds: tuple[Bound, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Bound:
        """The largest value, of several the one with most left; when none fits, the one that lacks least."""

        def key(bound: Bound) -> tuple[int, int]:
            return bound.value, -(bound.shortfall_bytes or 0) if bound.left_bytes is None else bound.left_bytes

        return max(self.bounds, key=key)

    @property
    def fits(self) -> bool:
        """Whether any value does."""
        return self.best.value > 0


def solve_options(knob_name: str, **options: Any) -> Question:
    """``ask`` for a question whose knob is open: its option must not be given.

    Raises:
        InputError: as ``ask``; or nothing to solve for.
    """
    knob = KNOBS[knob_name]
    if knob.name == "num_speculative_tokens" and options.get("drafter") == "none":
        raise InputError(f"--for {knob.name} is of no use with --drafter none: it drafts no tokens")
    return ask(**options | {knob.name: knob.least})


def solve(
    question: Question, knob: Knob, *, prefill_chunk: int | None = None, logits_rows: int | None = None
) -> Solution:
    """The largest value of a knob at which each drafter fits the budget.

    What is not fixed takes least memory: γ is 1, prefill chunk and logits rows are the smallest of the search. So the
    best value is the largest at which ``analyze`` answers with a plan. The peak never falls when a knob rises, so the
    answer is found by bisection.

    Args:
        question: as for ``analyze``; its own value of the knob is not used.
        knob: one of ``specplan.knob.SOLVABLE``.
        prefill_chunk: prompt tokens per pass, None for the least.
        logits_rows: rows of logits at one time, None for the least.

    Raises:
        InputError: another value of the question is outside its range.
    """
    if question.cards:
        raise UnsupportedError("solve is about one device: analyze spreads models over several")
    fixed = {"prefill_chunk": prefill_chunk, "logits_rows": logits_rows}
    check_question(_with_value(question, knob, knob.least))
    drafts = question.must_speculate or knob.name == "num_speculative_tokens"
    bounds = []
    for drafter in question.drafters:
        if drafter == "none" and drafts:
            continue
        scenario = (
            _most_nodes(question, drafter) if knob.name == "num_draft_nodes" else least_scenario(question, drafter)
        )
        for name, value in fixed.items():
            if value is not None:
                scenario = KNOBS[name].put(scenario, value)
        bounds.append(_bound(scenario, knob, question.inputs.budget_bytes, _limit(question, knob, scenario)))
    solution = Solution(knob, question.inputs, tuple(bounds), ())
    reached = _with_value(question, knob, max(knob.least, solution.best.value))
    return dataclasses.replace(solution, notes=notes(dataclasses.replace(reached, assumed_lengths=False)))


def _most_nodes(question: Question, drafter: Drafter) -> Scenario:
    """The least configuration of the given tree, or of the deepest that the search knows, with all of its nodes."""
    whole = dataclasses.replace(question, num_draft_nodes=None, most_draft_nodes=MAX_NODES)
    variant = variants(whole, drafter)[-1]
    if variant.tree is None:
        raise InputError(f"--for num_draft_nodes needs --tree with --drafter {drafter}, which drafts chains otherwise")
    least = least_scenario(whole, drafter).speculation
    return scenario_of(whole, variant, dataclasses.replace(least, shape=variant.tree))


def _put(scenario: Scenario, knob: Knob, value: int) -> Scenario:
    """The scenario with another value of the knob; a chain has a Medusa head for every token."""
    changed = knob.put(scenario, value)
    if knob.name == "num_speculative_tokens" and isinstance(changed.heads, MedusaHeads):
        return dataclasses.replace(changed, heads=dataclasses.replace(changed.heads, num_heads=value))
    return changed


def _limit(question: Question, knob: Knob, scenario: Scenario) -> int:
    """The largest value that means anything: no more nodes than the tree has, no more tokens than there are heads."""
    shape, files = scenario.speculation.shape, question.inputs.head_files
    if knob.name == "num_draft_nodes" and isinstance(shape, Tree):
        return shape.num_draft_nodes
    if (
        knob.name == "num_speculative_tokens"
        and isinstance(scenario.heads, MedusaHeads)
        and isinstance(files, HeadsInput)
    ):
        return min(knob.limit, files.num_heads)
    return knob.limit


def _bound(scenario: Scenario, knob: Knob, budget_bytes: int, limit: int) -> Bound:
    def fits(value: int) -> bool:
        return int(MemoryModel(_put(scenario, knob, value)).peak_bytes()) <= budget_bytes

    def ledger(value: int) -> MemoryLedger:
        return MemoryModel(_put(scenario, knob, value)).ledger()

    value = largest(fits, knob.least, limit)
    return Bound(
        scenario=_put(scenario, knob, max(value, knob.least)),
        value=value,
        fitting=ledger(value) if value else None,
        beyond=ledger(max(value + 1, knob.least)) if value < limit else None,
        budget_bytes=budget_bytes,
    )


def largest(fits: Callable[[int], bool], least: int, limit: int) -> int:
    """The largest number from ``least`` (at least 1) to ``limit`` that fits; 0 when none does.

    ``fits`` must not turn true again once it is false.
    """
    if not fits(least):
        return 0
    low, high = least, least  # low fits; once they differ, high does not
    while low == high:
        if high == limit:
            return limit
        high = min(high * _GROWTH, limit)
        if fits(high):
            low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _with_value(question: Question, knob: Knob, value: int) -> Question:
    """The question with another value of the knob."""
    changes: dict[str, Any] = {knob.name: value}
    if knob.name in Workload.__slots__:
        return dataclasses.replace(question, workload=dataclasses.replace(question.workload, **changes))
    return dataclasses.replace(question, **changes)
