"""The search against enumeration, one configuration at a time, and against a greedy order of knobs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.knob_order import greedy_within, improvement, random_question
from specplan.caches.draft_window import windowed
from specplan.devices.bundled import device_profile
from specplan.formulas.memory import MemoryModel
from specplan.plan import Infeasible, Plan
from specplan.planner.acceptance import acceptance_of, weakened
from specplan.planner.analyze import analyze
from specplan.planner.question import Question, SearchSpace
from specplan.planner.space import all_candidates
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation
from specplan.speed.roofline import Pass
from specplan.speed.steps import prefill_seconds, step_seconds, verified_rows
from specplan.speed.timer import modelled
from tests.conftest import model_input, tiny_arch, tiny_question

_CHUNKS = (16, 32, 64, 128, 256, 512, 1024)


@st.composite
def small_questions(draw: st.DrawFn) -> Question:
    """Tiny models, short contexts, few values for every knob."""
    drafters = draw(st.sets(st.sampled_from(("ngram", "draft_model", "early_exit")), max_size=2))
    context = draw(st.integers(2, 40))
    precisions = draw(st.sampled_from(((), (("float32", "float32"), ("float32", "int8")), (("int8", "bfloat16"),))))
    space = SearchSpace(
        precisions=precisions,
        draft_kv_dtypes=draw(st.sampled_from(((), ("float32", "fp8_e4m3")))),
        batch_sizes=draw(st.sampled_from(((), (1, 3)))),
        draft_contexts=draw(st.sampled_from(((0,), (0, max(1, context // 2))))),
        num_exit_layers=draw(st.sampled_from(((), (1,), (1, 2)))),
    )
    own: dict[str, Any] = {} if "draft_model" in drafters or draw(st.booleans()) else {"draft": None}
    return tiny_question(
        **own,
        target=model_input(
            tiny_arch(num_hidden_layers=draw(st.integers(2, 5)), hidden_size=draw(st.sampled_from((16, 32))))
        ),
        device=device_profile(draw(st.sampled_from(("cpu-generic", "rtx-4090", "mi250")))),
        drafters=("none", *(name for name in ("ngram", "draft_model", "early_exit") if name in drafters)),
        alpha=draw(st.none() | st.floats(0, 1)),
        context=context,
        prompt_tokens=draw(st.integers(0, context - 1)),
        num_turns=draw(st.integers(1, 3)),
        max_speculative_tokens=draw(st.integers(1, 3)),
        must_speculate=bool(drafters) and draw(st.booleans()),
        space=space,
    )


def enumerate_all(question: Question) -> Iterator[tuple[int, float, str]]:
    """Bytes, throughput and drafter of every configuration, each evaluated by itself with plain numbers."""
    space, given = question.space, question.workload
    layers = question.inputs.target.arch.num_hidden_layers
    exits = space.num_exit_layers
    if not exits:
        eighths = {max(1, share * layers // 8) for share in range(1, 8)}
        one_rate = question.alpha is not None and question.inputs.draft is None  # else the rate is the draft model's
        exits = (max(1, layers // 2),) if one_rate else tuple(eighths)
    for drafter, precision, batch in itertools.product(
        question.drafters, space.precisions or ((given.dtype, given.kv_dtype),), space.batch_sizes or (1,)
    ):
        drafts = drafter == "draft_model"
        for draft_kv, draft_context, exit_layers, gamma, chunk, rows in itertools.product(
            (space.draft_kv_dtypes or (given.draft_kv_dtype,)) if drafts else (given.draft_kv_dtype,),
            space.draft_contexts if drafts else (0,),
            exits if drafter == "early_exit" else (0,),
            range(1, question.max_speculative_tokens + 1) if drafter != "none" else (0,),
            sorted({min(chunk, given.context) for chunk in _CHUNKS}),
            _rows(batch, question.max_speculative_tokens if drafter != "none" else 0),
        ):
            workload = dataclasses.replace(
                given, dtype=precision[0], kv_dtype=precision[1], batch_size=batch, draft_kv_dtype=draft_kv
            )
            inputs = question.inputs
            assert inputs.draft is not None or not drafts
            scenario = Scenario(
                inputs.target.arch,
                windowed(inputs.draft.arch, draft_context) if drafts and inputs.draft is not None else None,
                inputs.device,
                workload,
                Speculation(drafter, Chain(gamma), exit_layers, chunk, rows, draft_context),
            )
            acceptance = acceptance_of(question, drafter, exit_layers)
            if drafts:
                share = draft_context / given.context if draft_context else 1.0
                quantized = {"float32": 1.0, "fp8_e4m3": 0.95}[draft_kv]
                acceptance = weakened(acceptance, (share + (1 - share) / 2) * quantized)
            step_s = float(step_seconds(scenario, np.array([gamma]), np.array([rows]))[0])
            accepted = float(acceptance.accepted_lengths(gamma)[0])
            prefill_s = float(prefill_seconds(scenario, np.array([chunk]))[0])
            seconds = batch * prefill_s + given.new_tokens * step_s / accepted
            yield MemoryModel(scenario).ledger().peak_bytes, batch * given.new_tokens / seconds, drafter


@pytest.mark.parametrize("device", ["cpu-generic", "rtx-3060"])
@pytest.mark.parametrize(("batch", "rate"), [(1, 0.3), (3, 0.5), (4, 0.9)])
def test_a_step_in_the_mean_over_who_drafts(device: str, batch: int, rate: float) -> None:
    """Every set of drafting sequences by itself: on a CPU the others take one row, elsewhere they are filled up."""
    question = tiny_question()
    workload = dataclasses.replace(question.workload, batch_size=batch)
    scenario = Scenario(tiny_arch(), None, device_profile(device), workload, Speculation("ngram", Chain(5), 0, 16, 2))
    gamma, tile = np.array([5]), np.array([2])
    mean = 0.0
    for drafts in itertools.product((False, True), repeat=batch):
        share = math.prod(rate if one else 1 - rate for one in drafts)
        rows = sum(6 if one else 1 for one in drafts)
        if device != "cpu-generic":
            rows = 6 * batch if any(drafts) else batch
        each = Pass(rows=rows, batch_size=batch, context=workload.mean_context, head_rows=rows, logits_rows=2)
        mean += share * float(modelled(scenario).target.pass_seconds(each))
    assert float(step_seconds(scenario, gamma, tile, rate)[0]) == pytest.approx(mean, rel=1e-9)


def test_many_sequences_draft_as_in_the_mean() -> None:
    scenario = Scenario(
        tiny_arch(),
        None,
        device_profile("cpu-generic"),
        tiny_question().workload,
        Speculation("ngram", Chain(5), 0, 16, 2),
    )
    ((share, rows),) = verified_rows(scenario, 4096, np.array([0, 5]), np.array([0.5, 0.25]))
    assert share == 1
    assert rows.tolist() == [4096, 4096 + 5120]
    few = verified_rows(scenario, 64, np.array([5]), 0.25)
    assert sum(float(share * rows[0]) for share, rows in few) == pytest.approx(64 + 80, rel=1e-4)


def _rows(batch: int, most_drafted: int) -> list[int]:
    most = min(64, max(2, batch * (most_drafted + 1)))
    return sorted({min(rows, most) for rows in (2, 4, 8, 16, 32, 64)})


@settings(max_examples=200)
@given(small_questions(), st.data())
def test_the_search_equals_brute_force(question: Question, data: st.DataObject) -> None:
    every = list(enumerate_all(question))
    answers = [entry for entry in every if entry[2] != "none" or not question.must_speculate]
    budget = data.draw(st.sampled_from(sorted({peak for peak, _, _ in every}))) + data.draw(st.sampled_from((-1, 0, 1)))
    result = analyze(dataclasses.replace(question, inputs=dataclasses.replace(question.inputs, budget_bytes=budget)))
    fits = [entry for entry in answers if entry[0] <= budget]
    assert isinstance(result, Plan) == bool(fits)
    if isinstance(result, Infeasible):
        assert result.shortfall_bytes == min(peak for peak, _, _ in answers) - budget
        return
    top = max(speed for _, speed, _ in fits)
    assert result.certificate.num_configurations == len(every)
    assert result.estimate.throughput.value == pytest.approx(top, rel=1e-9)
    assert result.peak_bytes == min(peak for peak, speed, _ in fits if speed >= top * (1 - 1e-12))
    best = max(speed for _, speed, _ in answers)
    assert result.marks.decodes.bytes == min(peak for peak, _, drafter in every if drafter == "none")
    assert result.marks.keeps.bytes == min(peak for peak, speed, _ in answers if speed >= 0.96 * best * (1 - 1e-12))
    assert result.marks.fastest.bytes == min(peak for peak, speed, _ in answers if speed >= best * (1 - 1e-12))


@settings(max_examples=40)
@given(small_questions())
def test_the_frontier_is_what_nothing_beats(question: Question) -> None:
    every = [entry for entry in enumerate_all(question) if entry[2] != "none" or not question.must_speculate]
    result = analyze(question)
    points = result.frontier
    assert points[0].bytes == min(peak for peak, _, _ in every)
    assert points[-1].throughput == pytest.approx(max(speed for _, speed, _ in every), rel=1e-9)
    for before, after in itertools.pairwise(points):
        assert before.bytes < after.bytes
        assert before.throughput < after.throughput
    for point in points:
        assert not any(peak <= point.bytes and speed > point.throughput * (1 + 1e-9) for peak, speed, _ in every)


@settings(max_examples=60)
@given(small_questions(), st.data())
def test_more_budget_is_never_worse(question: Question, data: st.DataObject) -> None:
    peaks = sorted({int(peak) for group in all_candidates(question) for peak in group.peak_bytes})
    low, high = sorted(data.draw(st.lists(st.sampled_from(peaks), min_size=2, max_size=2)))
    plans = [
        analyze(dataclasses.replace(question, inputs=dataclasses.replace(question.inputs, budget_bytes=budget)))
        for budget in (low, high)
    ]
    if isinstance(plans[0], Plan):
        assert isinstance(plans[1], Plan)
        assert plans[1].estimate.throughput.value >= plans[0].estimate.throughput.value * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(200))
def test_never_worse_than_a_greedy_order_of_knobs(seed: int) -> None:
    question = random_question(seed)
    groups = all_candidates(question)
    gain = improvement(question, groups)
    greedy = greedy_within(question, groups)
    assert (gain is None) == (greedy is None)
    if gain is not None:
        assert gain.throughput >= 1 - 1e-12
        assert gain.throughput > 1 + 1e-12 or gain.saved_bytes >= 0
