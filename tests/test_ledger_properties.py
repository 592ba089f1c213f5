"""What holds of every ledger: monotone, unique names, one model for scalars and arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.devices.bundled import device_profile
from specplan.errors import InputError
from specplan.formulas.catalogue import FORMULAS
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Knobs
from specplan.ledger import PHASES, MemoryLedger
from specplan.models.config import read_config
from specplan.plan import Infeasible
from specplan.planner.analyze import analyze
from specplan.profiles import read_profile
from specplan.provenance import SOURCES
from specplan.scenario import Scenario
from specplan.speculation import DRAFTERS, Chain, Speculation
from specplan.workload import Workload
from tests.conftest import model_input, tiny_arch, tiny_question
from tests.strategies import any_archs

KNOBS = ("context", "batch_size", "gamma", "prefill_chunk", "logits_rows")
DEVICES = ("cpu-generic", "rtx-4090", "h200", "mi300x", "apple-m2-16gb")


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Any scenario over small models."""
    drafter = draw(st.sampled_from(DRAFTERS))
    target = draw(any_archs(hidden=300, inner=700, vocab=3000, window=700))
    floats, weights = st.sampled_from(("float32", "bfloat16")), st.sampled_from(("float32", "float16", "int8"))
    return Scenario(
        target,
        draw(any_archs(hidden=300, inner=700, vocab=3000, window=700)) if drafter == "draft_model" else None,
        device_profile(draw(st.sampled_from(DEVICES))),
        Workload(
            draw(st.integers(1, 600)),
            draw(st.integers(1, 9)),
            draw(weights),
            draw(floats),
            draw(weights),
            draw(floats),
        ),
        Speculation(
            drafter,
            Chain(0 if drafter == "none" else draw(st.integers(1, 12))),
            draw(st.integers(1, target.num_hidden_layers)) if drafter == "early_exit" else 0,
            draw(st.integers(1, 700)),
            draw(st.integers(2, 80)),
        ),
    )


def with_knob(scenario: Scenario, knob: str, more: int) -> Scenario:
    """The scenario with one knob raised."""
    workload, speculation = scenario.workload, scenario.speculation
    if knob == "context":
        workload = dataclasses.replace(workload, context=workload.context + more)
    elif knob == "batch_size":
        workload = dataclasses.replace(workload, batch_size=workload.batch_size + more)
    elif knob == "gamma":
        speculation = dataclasses.replace(speculation, shape=Chain(speculation.num_draft_nodes + more))
    else:
        raised: dict[str, Any] = {knob: getattr(speculation, knob) + more}
        speculation = dataclasses.replace(speculation, **raised)
    return dataclasses.replace(scenario, workload=workload, speculation=speculation)


def ledger_of(scenario: Scenario) -> MemoryLedger:
    return MemoryModel(scenario).ledger()


@pytest.mark.parametrize("knob", KNOBS)
@settings(max_examples=60)
@given(scenario=scenarios(), more=st.integers(1, 300))
def test_more_never_needs_less(knob: str, scenario: Scenario, more: int) -> None:
    before, after = ledger_of(scenario), ledger_of(with_knob(scenario, knob, more))
    assert after.peak_bytes >= before.peak_bytes
    assert after.owned_bytes >= before.owned_bytes


@given(scenarios())
def test_ledgers_are_well_formed(scenario: Scenario) -> None:
    ledger = ledger_of(scenario)
    names = [item.name for item in ledger.items]
    assert len(set(names)) == len(names)
    for item in ledger.items:
        assert type(item.bytes) is int
        assert item.bytes >= 0
        assert item.phase in PHASES
        assert item.source in SOURCES
        assert item.formula_id in FORMULAS


@given(scenarios())
def test_peak_is_resident_and_the_largest_phase(scenario: Scenario) -> None:
    ledger = ledger_of(scenario)
    totals = {phase: sum(item.bytes for item in ledger.items if item.phase == phase) for phase in PHASES}
    assert ledger.peak_bytes == totals.pop("resident") + max(totals.values())
    assert ledger.workspace_bytes == totals[ledger.binding_phase]
    assert ledger.owned_bytes <= ledger.peak_bytes


@given(scenarios())
def test_scalars_equal_the_vectorised_peak(scenario: Scenario) -> None:
    assert int(MemoryModel(scenario).peak_bytes()) == ledger_of(scenario).peak_bytes


@settings(max_examples=40)
@given(
    scenarios(),
    st.lists(st.tuples(st.integers(0, 16), st.integers(1, 700), st.integers(2, 80)), min_size=1, max_size=5),
)
def test_arrays_of_knobs_equal_one_ledger_each(scenario: Scenario, rows: list[tuple[int, int, int]]) -> None:
    knobs = Knobs(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))
    single = [
        dataclasses.replace(
            scenario,
            speculation=Speculation(
                scenario.speculation.drafter, Chain(gamma), scenario.speculation.num_exit_layers, chunk, logits_rows
            ),
        )
        for gamma, chunk, logits_rows in rows
    ]
    assert MemoryModel(scenario, knobs).peak_bytes().tolist() == [ledger_of(one).peak_bytes for one in single]


@given(scenarios())
def test_drafting_nothing_is_plain_decoding(scenario: Scenario) -> None:
    plain, ngram = (
        dataclasses.replace(
            scenario,
            draft=None,
            speculation=dataclasses.replace(scenario.speculation, drafter=drafter, shape=Chain(0), num_exit_layers=0),
        )
        for drafter in ("none", "ngram")
    )
    assert ledger_of(plain) == ledger_of(ngram)


@given(scenarios())
def test_speculation_never_needs_less_than_plain(scenario: Scenario) -> None:
    speculation = dataclasses.replace(scenario.speculation, drafter="none", shape=Chain(0), num_exit_layers=0)
    plain = dataclasses.replace(scenario, draft=None, speculation=speculation)
    assert ledger_of(plain).peak_bytes <= ledger_of(scenario).peak_bytes


@given(scenarios())
def test_the_arena_and_its_rounding_are_whole_segments(scenario: Scenario) -> None:
    ledger = ledger_of(scenario)
    rounding = ledger.by_name().get("allocator_rounding")
    if rounding is None:
        assert scenario.device.kind in ("cpu", "mps")
        return
    outside = ledger.by_name().get("kernel_output")
    arena = ledger.owned_bytes - (outside.bytes if outside is not None else 0)
    reserved = arena + rounding.bytes
    assert reserved % (2 << 20) == 0
    assert rounding.bytes < 2 << 20 or (reserved == 10 << 20 and arena > 1 << 20)


@pytest.mark.parametrize("batch_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("context", [1 << 22, 1 << 23, 1 << 24])
@pytest.mark.parametrize("name", ["llama-2-7b-chat", "llama-2-70b-chat"])
def test_the_largest_questions_do_not_wrap_around(name: str, context: int, batch_size: int) -> None:
    target = model_input(read_config(read_profile("models", name)["config"], name), name)
    question = tiny_question(
        target=target, draft=None, device=device_profile("h200"), drafters=("none", "ngram"), context=context,
        batch_size=batch_size, dtype="float16", kv_dtype="float16", draft_dtype="float16", draft_kv_dtype="float16",
        budget_bytes=80 << 30,
    )  # fmt: skip
    arch = target.arch
    per_token = 2 * arch.num_hidden_layers * arch.num_key_value_heads * arch.head_dim * 2
    try:
        result = analyze(question)
    except InputError:
        return
    assert isinstance(result, Infeasible)
    assert result.ledger.by_name()["target.kv_cache"].bytes == per_token * batch_size * (context + 1)
    assert result.shortfall_bytes >= per_token * batch_size * (context + 1) - (80 << 30)


@pytest.mark.parametrize("context", [1 << 22, (1 << 24) - 1, 1 << 24])
@pytest.mark.parametrize("batch_size", [1, 2, 1024])
def test_absurd_models_never_seem_to_fit(context: int, batch_size: int) -> None:
    """Each field is within the limits that readers accept; together they pass 64 bits."""
    arch = tiny_arch(num_hidden_layers=4096, num_attention_heads=4096, num_key_value_heads=4096, head_dim=1 << 14)
    question = tiny_question(
        target=model_input(arch), draft=None, drafters=("none", "ngram"), context=context, batch_size=batch_size
    )
    try:
        result = analyze(question)
    except InputError:
        return
    assert isinstance(result, Infeasible)
    kv_bytes = 2 * 4096 * 4096 * (1 << 14) * 4 * batch_size * (context + 1)
    assert result.shortfall_bytes >= kv_bytes - question.inputs.budget_bytes
