"""``analyze``: a question to a ``Plan`` or an ``Infeasible``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from specplan import __version__
from specplan.code_hash import code_sha256
from specplan.families import runnable, transformers_runnable
from specplan.plan import SCHEMA_VERSION, Estimate, Infeasible, Plan, PlanInputs, RankKind, Spread
from specplan.planner.certificate import certify
from specplan.planner.choose import Choice, best_within, least, smallest_within
from specplan.planner.marks import allowed, find_marks, frontier
from specplan.planner.notes import notes, runtime_loads
from specplan.planner.question import Question
from specplan.planner.question_checks import check_question
from specplan.planner.ranks import binding_kind, spread_of
from specplan.planner.space import Candidates, all_candidates
from specplan.planner.timing import step_source
from specplan.provenance import Figure, Source, weakest
from specplan.speculation import HEAD_DRAFTERS
from specplan.speed.parallel import REFERENCE as SPREAD_REFERENCE


def analyze(question: Question) -> Plan | Infeasible:
    """Search the declared space and answer.

    Raises:
        InputError: a value outside its range.
        UnsupportedError: the device has no FLOP/s for the dtype.
    """
    check_question(question)
    groups = all_candidates(question)
    answers, inputs = allowed(question, groups), question.inputs
    if question.prefer == "smallest":
        choice = smallest_within(answers, inputs.budget_bytes, inputs.keep)
    else:
        choice = best_within(answers, inputs.budget_bytes)
    if choice is None:
        return _infeasible(question, groups)
    return _plan(question, groups, choice)


def _plan(question: Question, groups: Sequence[Candidates], choice: Choice) -> Plan:
    kinds = choice.kinds()
    ledger = binding_kind(kinds).ledger
    plain = best_within([group for group in groups if group.drafter == "none"], question.inputs.budget_bytes)
    inputs = _bound(_inputs(question, choice), kinds)
    return Plan(
        schema_version=SCHEMA_VERSION,
        tool_version=__version__,
        code_sha256=code_sha256(),
        inputs=inputs,
        workload=choice.group.variant.workload,
        speculation=choice.speculation,
        forward=_forward(choice, inputs),
        ledger=ledger,
        estimate=_estimate(question, choice, plain or choice),
        marks=find_marks(question, groups),
        frontier=frontier(allowed(question, groups)),
        certificate=certify(question, groups, choice, ledger),
        notes=notes(question, choice.group.variant),
        spread=_spread(choice, kinds),
    )


def _spread(choice: Choice, kinds: Sequence[RankKind]) -> Spread | None:
    parallelism = choice.group.variant.parallelism
    return None if parallelism is None else spread_of(choice.scenario, parallelism, kinds)


def _bound(inputs: PlanInputs, kinds: Sequence[RankKind]) -> PlanInputs:
    """The inputs with the device and the budget of the ranks that bind."""
    binding = binding_kind(kinds)
    return dataclasses.replace(inputs, device=binding.device, budget_bytes=binding.budget_bytes)


def _inputs(question: Question, choice: Choice) -> PlanInputs:
    """What the chosen configuration needs of what was given."""
    inputs, drafter = question.inputs, choice.group.drafter
    return dataclasses.replace(
        inputs,
        draft=inputs.draft if drafter == "draft_model" else None,
        heads=choice.scenario.heads,
        host=choice.scenario.host,
        head_files=inputs.head_files_for(drafter),
    )


def _forward(choice: Choice, inputs: PlanInputs) -> Literal["specplan", "transformers", "unsupported"]:
    """Who computes the forward pass of the plan."""
    workload, speculation = choice.group.variant.workload, choice.speculation
    own = inputs.transformers_version is None
    models = ((inputs.target, workload.dtype), (inputs.draft, workload.draft_dtype))
    computes = runnable if own else transformers_runnable
    loads = all(computes(model.arch) and runtime_loads(model, dtype) for model, dtype in models if model is not None)
    if not own:
        return "transformers" if loads else "unsupported"
    has_heads = speculation.drafter not in HEAD_DRAFTERS or inputs.head_files is not None
    runs = loads and has_heads and speculation.draft_device == "device"
    return "specplan" if runs else "unsupported"


def _estimate(question: Question, choice: Choice, plain: Choice) -> Estimate:
    acceptance = choice.group.acceptance
    alpha = acceptance.alpha
    step, times = _step_source(question, choice)
    plain_step, plain_times = _step_source(question, plain)
    source = weakest("modelled", step, alpha.source)
    accepted = f"{times}; alpha {alpha.source}"
    with_prefill = "; the time of prefill counted"
    return Estimate(
        alpha=alpha,
        mean_accepted_length=_accepted_length(choice),
        throughput=Figure(choice.throughput, source, accepted + with_prefill),
        baseline_throughput=Figure(plain.throughput, "modelled", plain_times + with_prefill),
        tokens_per_s=Figure(choice.tokens_per_s, source, accepted),
        baseline_tokens_per_s=Figure(plain.tokens_per_s, plain_step, plain_times),
        speedup=Figure(choice.tokens_per_s / plain.tokens_per_s, source, "ratio of the two"),
        prefill_s=Figure(float(choice.group.prefill_s[choice.index]), "modelled", times),
    )


def _step_source(question: Question, choice: Choice) -> tuple[Source, str]:
    if choice.group.variant.parallelism is not None:
        return "modelled", SPREAD_REFERENCE
    return step_source(question, choice.scenario)


def _accepted_length(choice: Choice) -> Figure:
    acceptance, speculation = choice.group.acceptance, choice.speculation
    value = float(choice.group.accepted_lengths[choice.index])
    known = acceptance.extrapolated_from
    beyond = f"; positions beyond {known} go on as the last" if known and speculation.shape.depth > known else ""
    if choice.group.variant.tree is not None:
        how = "1 + the sum over nodes of the products along paths"
        return Figure(value, weakest(acceptance.tree_source, acceptance.alpha.source), how + beyond)
    how = "1 + the sum over positions of the share of steps in which they are accepted"
    if acceptance.known_lengths and not beyond:
        how = f"measured for chains of {speculation.num_draft_nodes}"
    return Figure(value, weakest(acceptance.alpha.source, "modelled" if beyond else "exact"), how + beyond)


def _infeasible(question: Question, groups: Sequence[Candidates]) -> Infeasible:
    answers = allowed(question, groups)
    nearest = least(answers)
    assert nearest is not None, "no configuration at all"
    kinds = nearest.kinds()
    ledger, inputs = binding_kind(kinds).ledger, _bound(question.inputs, kinds)
    budget = inputs.budget_bytes
    biggest = sorted(ledger.items, key=lambda item: -item.bytes)[:2]
    reasons = [
        f"the least configuration ({nearest.speculation.describe()}) needs {ledger.peak_bytes} bytes of {budget}"
    ]
    reasons += [f"{item.name} alone takes {item.bytes} bytes" for item in biggest]
    return Infeasible(
        inputs,
        nearest.group.variant.workload,
        tuple(reasons),
        ledger.peak_bytes - budget,
        nearest.speculation,
        ledger,
        find_marks(question, groups),
        frontier(answers),
        notes(question, nearest.group.variant),
        _spread(nearest, kinds),
    )
