"""``solve``: the largest context, batch or chain that a budget holds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from specplan.errors import InputError
from specplan.heads import MedusaHeads
from specplan.knob import KNOBS, Knob
from specplan.plan import HeadsInput, PlanInputs
from specplan.planner.ask import ask
from specplan.planner.bound import Bound, widest_bound
from specplan.planner.notes import notes
from specplan.planner.question import Question
from specplan.planner.question_checks import check_question
from specplan.planner.room import Room
from specplan.planner.space import least_scenario
from specplan.planner.variants import parallelisms, scenario_of, variants
from specplan.scenario import Scenario
from specplan.speculation import MAX_NODES, Drafter, Tree
from specplan.workload import Workload


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
    answer is found by bisection. Over several devices every way to spread the models is tried.

    Args:
        question: as for ``analyze``; its own value of the knob is not used.
        knob: one of ``specplan.knob.SOLVABLE``.
        prefill_chunk: prompt tokens per pass, None for the least.
        logits_rows: rows of logits at one time, None for the least.

    Raises:
        InputError: another value of the question is outside its range.
    """
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
        rooms = _rooms(question, knob, drafter)
        bounds.append(widest_bound(scenario, knob, rooms, _limit(question, knob, scenario)))
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


def _rooms(question: Question, knob: Knob, drafter: Drafter) -> list[Room]:
    """The device, or every way to spread a drafter's plainest variant over several, micro-batches of any batch."""
    budget = question.inputs.budget_bytes
    if not question.cards:
        return [Room(budget)]
    asked = _with_value(question, knob, len(question.cards)) if knob.name == "batch_size" else question
    return [Room(budget, parallelism, question.cards) for parallelism in parallelisms(asked, drafter)]


def _with_value(question: Question, knob: Knob, value: int) -> Question:
    """The question with another value of the knob."""
    changes: dict[str, Any] = {knob.name: value}
    if knob.name in Workload.__slots__:
        return dataclasses.replace(question, workload=dataclasses.replace(question.workload, **changes))
    return dataclasses.replace(question, **changes)
