"""``explain --peak`` and ``--sensitivity``: every figure again from ledgers that are computed another way."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan import planfile
from specplan.devices.bundled import device_profile
from specplan.formulas.memory import MemoryModel
from specplan.formulas.peak import explain_peak
from specplan.formulas.sensitivity import Sensitivity, sensitivities
from specplan.formulas.term import Knobs
from specplan.knob import KNOBS, knobs_of
from specplan.output import peak as peak_output
from specplan.output import sensitivity as sensitivity_output
from specplan.plan import Plan
from specplan.scenario import Scenario
from specplan.speculation import Chain, Drafter, Speculation
from specplan.workload import Workload
from tests.conftest import tiny_arch, tiny_plan
from tests.test_cli import ended, refused, specplan

_KNOBS = ("context", "batch_size", "num_speculative_tokens", "prefill_chunk", "logits_rows")


def scenario(drafter: Drafter = "draft_model", gpu: str = "apple-m2-16gb", **changes: int) -> Scenario:
    """Everything by hand, without the planner."""
    values = {"context": 200, "batch_size": 2, "gamma": 3, "prefill_chunk": 64, "logits_rows": 4, "vocab_size": 32}
    values |= changes
    gamma = 0 if drafter == "none" else values["gamma"]
    return Scenario(
        tiny_arch(num_hidden_layers=4, intermediate_size=32, vocab_size=values["vocab_size"]),
        tiny_arch() if drafter == "draft_model" else None,
        device_profile(gpu),
        Workload(values["context"], values["batch_size"], "float16", "float16", "float32", "float32"),
        Speculation(
            drafter, Chain(gamma), int(drafter == "early_exit"), values["prefill_chunk"], values["logits_rows"]
        ),
    )


def stepped(changed: Scenario, name: str, by: int) -> Scenario:
    """One knob moved, spelled out rather than through ``Knob.put``."""
    workload, speculation = changed.workload, changed.speculation
    if name == "context":
        return dataclasses.replace(changed, workload=dataclasses.replace(workload, context=workload.context + by))
    if name == "batch_size":
        return dataclasses.replace(changed, workload=dataclasses.replace(workload, batch_size=workload.batch_size + by))
    moved = {
        "num_speculative_tokens": {"shape": Chain(speculation.num_draft_nodes + by)},
        "prefill_chunk": {"prefill_chunk": speculation.prefill_chunk + by},
        "logits_rows": {"logits_rows": speculation.logits_rows + by},
    }[name]
    return dataclasses.replace(changed, speculation=dataclasses.replace(speculation, **moved))  # type: ignore[arg-type]


def peak(changed: Scenario) -> int:
    return MemoryModel(changed).ledger().peak_bytes


def rows_of(asked: Scenario) -> dict[str, Sensitivity]:
    return {row.knob.name: row for row in sensitivities(asked)}


scenarios: st.SearchStrategy[Scenario] = st.builds(
    scenario,
    drafter=st.sampled_from(["none", "ngram", "draft_model", "early_exit"]),
    gpu=st.sampled_from(["cpu-generic", "t4", "apple-m2-16gb"]),
    context=st.integers(1, 3000),
    batch_size=st.integers(1, 5),
    gamma=st.integers(1, 9),
    prefill_chunk=st.integers(1, 600),
    logits_rows=st.integers(2, 64),
)


@settings(max_examples=25)
@given(scenarios)
def test_sensitivities_are_differences_of_ledgers(asked: Scenario) -> None:
    rows, here = rows_of(asked), peak(asked)
    plain = asked.speculation.drafter == "none"
    assert tuple(rows) == tuple(name for name in _KNOBS if not (plain and name == "num_speculative_tokens"))
    for name, row in rows.items():
        for change, by in ((row.more, 1), (row.less, -1)):
            if change is None:
                assert row.value == (row.knob.least if by < 0 else row.knob.limit)
                continue
            other = stepped(asked, name, by)
            assert change.value == row.value + by
            assert change.bytes == peak(other) - here
            assert change.bytes * by >= 0
            assert change.binding_phase == MemoryModel(other).ledger().binding_phase
        kink = row.more is not None and row.more.binding_phase != MemoryModel(asked).ledger().binding_phase
        assert (row.slopes is None) == kink


@pytest.mark.parametrize(
    ("name", "by", "asked"),
    [
        ("context", 4096, scenario(context=4096)),
        ("context", 4096, scenario("early_exit", context=4096, prefill_chunk=16, batch_size=3)),
        ("batch_size", 256, scenario(prefill_chunk=16, batch_size=256)),
        ("batch_size", 256, scenario("ngram", context=16, batch_size=8)),
        ("prefill_chunk", 256, scenario("none", context=4000, prefill_chunk=512)),
        ("prefill_chunk", 256, scenario(context=4000, prefill_chunk=512)),
        ("logits_rows", 32, scenario("ngram", context=8, gamma=9, batch_size=20, logits_rows=64, vocab_size=1000)),
    ],
)
def test_slopes_are_differences_over_whole_blocks(name: str, by: int, asked: Scenario) -> None:
    """Over a multiple of the arena's alignment roundings cancel, so that a linear item grows by slope times steps."""
    slopes = rows_of(asked)[name].slopes
    assert slopes is not None
    here, there = MemoryModel(asked).ledger(), MemoryModel(stepped(asked, name, by)).ledger()
    assert there.binding_phase == here.binding_phase
    found = {slope.item: slope.bytes * by for slope in slopes}
    before = here.by_name()
    phases = ("resident", here.binding_phase)
    grown = {i.name: i.bytes - before[i.name].bytes for i in there.items if i.phase in phases}
    assert found
    assert found == {item: Fraction(num_bytes) for item, num_bytes in grown.items() if num_bytes}
    assert all(slope.derivative for slope in slopes)


KV_PER_TOKEN = "2*B*H_k*(L_a - L_w)*(d*k_b/8 + k_s) + B*L_m*(k_b*(d_r + r_k)/8 + k_s)"


def test_derivatives_are_the_textbooks() -> None:
    rows = rows_of(scenario(context=4096, batch_size=3))
    derivatives = {slope.item: slope for slope in rows["context"].slopes or ()}
    assert derivatives["target.kv_cache"].derivative == KV_PER_TOKEN
    assert derivatives["target.kv_cache"].bytes == 2 * 3 * 2 * 4 * 4 * 2
    chain = {slope.item: slope for slope in rows["num_speculative_tokens"].slopes or ()}
    assert chain["draft_probs"].derivative == "4*B*V"


def test_a_symbol_that_gains_more_than_one_is_named() -> None:
    asked = scenario("ngram", context=16, prefill_chunk=2, batch_size=4, gamma=3)
    assert MemoryModel(asked).ledger().binding_phase == "verify"
    slopes = {slope.item: slope for slope in rows_of(asked)["num_speculative_tokens"].slopes or ()}
    hidden = slopes["verify.hidden"]
    assert (hidden.derivative, hidden.gains) == ("h*s*ΔT", {"T": 4})
    assert hidden.bytes == 16 * 2 * 4


def test_an_item_that_is_the_largest_over_passes_has_its_exact_difference() -> None:
    """``kernel_output`` is evaluated for every pass: its symbols are those of one, its bytes those of another."""
    floats = scenario("ngram", context=16, prefill_chunk=2, batch_size=4, gamma=3)
    asked = dataclasses.replace(floats, workload=dataclasses.replace(floats.workload, dtype="int8", kv_dtype="float32"))
    slopes = {slope.item: slope for slope in rows_of(asked)["num_speculative_tokens"].slopes or ()}
    output = slopes["kernel_output"]
    more = MemoryModel(stepped(asked, "num_speculative_tokens", 1)).ledger().by_name()["kernel_output"].bytes
    assert output.derivative is None
    assert output.bytes == more - MemoryModel(asked).ledger().by_name()["kernel_output"].bytes > 0
    text = sensitivity_output.to_text(sensitivities(asked), MemoryModel(asked).ledger())
    assert "exact difference" in text


def boundary() -> Scenario:
    """A chunk at which one more row makes prefill bind instead of verify."""
    found = [scenario("ngram", gamma=9, batch_size=4, prefill_chunk=chunk) for chunk in range(16, 128)]
    phases = [MemoryModel(each).ledger().binding_phase for each in found]
    (index,) = [i for i in range(len(found) - 1) if phases[i] == "verify" and phases[i + 1] == "prefill_target"]
    return found[index]


def test_a_step_that_changes_the_binding_phase_has_no_slope() -> None:
    rows = rows_of(boundary())
    chunk = rows["prefill_chunk"]
    assert (chunk.slopes, chunk.slope_bytes) == (None, None)
    assert chunk.more is not None
    assert chunk.less is not None
    assert (chunk.more.binding_phase, chunk.less.binding_phase) == ("prefill_target", "verify")
    text = sensitivity_output.to_text(tuple(rows.values()), MemoryModel(boundary()).ledger())
    assert "kink" in text
    assert "prefill_target, verify" in text


@settings(max_examples=25)
@given(scenarios)
def test_the_peak_is_taken_apart_completely(asked: Scenario) -> None:
    answer = explain_peak(asked)
    ledger = MemoryModel(asked).ledger()
    items = answer.items(ledger.binding_phase)
    assert ledger.resident_bytes + sum(item.bytes for item in items) == ledger.peak_bytes
    assert [item.bytes for item in items] == sorted((item.bytes for item in items), reverse=True)
    workspaces = [num_bytes for _, num_bytes in answer.phases]
    assert workspaces == sorted(workspaces, reverse=True)
    assert dict(answer.phases).keys() == {item.phase for item in ledger.items if item.bytes} - {"resident"}
    assert answer.phases[0][0] == ledger.binding_phase
    assert answer.second_phase == answer.phases[1][0] != ledger.binding_phase
    assert answer.slack_bytes == workspaces[0] - workspaces[1] >= 0
    if ledger.binding_phase != "load":
        assert max(answer.stages.values()) == ledger.by_name()[f"{ledger.binding_phase}.scratch"].bytes


@settings(max_examples=25)
@given(scenarios)
def test_steps_are_peaks_of_other_scenarios(asked: Scenario) -> None:
    answer = explain_peak(asked)
    steps = {step.knob: step for step in answer.steps}
    assert [step.peak_bytes for step in answer.steps] == sorted(step.peak_bytes for step in answer.steps)
    assert all(step.peak_bytes <= answer.ledger.peak_bytes for step in answer.steps)
    speculation, workload = asked.speculation, asked.workload
    for name, step in steps.items():
        if name == "drafter":
            plain = Speculation("none", Chain(0), 0, speculation.prefill_chunk, speculation.logits_rows)
            other = dataclasses.replace(asked, draft=None, speculation=plain)
            assert (step.value, step.instead) == (speculation.drafter, "none")
        else:
            other = stepped(asked, name, int(step.instead) - int(step.value))
            assert int(step.instead) == max(int(step.value) // 2, 2 if name == "logits_rows" else 1)
        assert step.peak_bytes == peak(other)
        assert step.binding_phase == MemoryModel(other).ledger().binding_phase
    assert ("drafter" in steps) == (speculation.drafter != "none")
    assert ("batch_size" in steps) == (workload.batch_size > 1)


def test_knobs_read_what_they_put() -> None:
    asked = scenario()
    assert tuple(name for name in KNOBS if name != "num_draft_nodes") == _KNOBS  # nodes are of trees
    for knob in knobs_of(asked):
        changed = knob.put(asked, 17)
        assert knob.read(changed) == 17
        assert knob.put(changed, knob.read(asked)) == asked
    # one setting of the arrays that the search uses agrees with the same knobs as scalars
    knobs = Knobs(gamma=3, prefill_chunk=64, logits_rows=4)
    assert int(MemoryModel(scenario(gamma=9), knobs).peak_bytes()) == peak(asked)


def test_text_fits_a_terminal() -> None:
    for asked in (scenario(), scenario(gpu="t4"), scenario(gpu="cpu-generic"), scenario("none"), boundary()):
        rows = sensitivities(asked)
        ledger = MemoryModel(asked).ledger()
        texts = [peak_output.to_text(explain_peak(asked)), sensitivity_output.to_text(rows, ledger)]
        assert all(len(line) <= 100 for text in texts for line in text.splitlines())
        assert ("blocks of 2 MiB" in texts[1]) == (asked.device.kind == "cuda")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    device = device_profile("apple-m2-16gb")
    planfile.save(tiny_plan(device=device, drafters=("none", "draft_model"), must_speculate=True), path)
    return path


Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: ended(monkeypatch, capsys, "explain", *map(str, arguments))


def test_peak_on_the_command_line(plan: Path, run: Run) -> None:
    ledger = planfile.load(plan).ledger
    result = run("--plan", plan, "--peak")
    assert result.returncode == 0
    assert f"Peak {ledger.peak_bytes:,}".replace(",", " ") in result.stdout
    assert f"{ledger.binding_phase} binds" in result.stdout
    data = json.loads(run("--plan", plan, "--peak", "--format", "json").stdout)["peak"]
    assert set(data) == {
        "peak_bytes", "resident_bytes", "workspace_bytes", "binding_phase", "second_phase", "slack_bytes", "phases",
        "items", "stages", "steps",
    }  # fmt: skip
    assert data["peak_bytes"] == ledger.peak_bytes == data["resident_bytes"] + data["workspace_bytes"]
    assert sum(item["bytes"] for item in data["items"]) == data["workspace_bytes"]
    assert sum(item["share"] for item in data["items"]) == pytest.approx(data["workspace_bytes"] / data["peak_bytes"])
    assert all(step["saved_bytes"] == ledger.peak_bytes - step["peak_bytes"] for step in data["steps"])
    assert data["phases"][0] == {
        "phase": ledger.binding_phase,
        "bytes": ledger.workspace_bytes,
        "slack_bytes": 0,
    }
    assert data["phases"][1]["slack_bytes"] == data["slack_bytes"]


def test_sensitivity_on_the_command_line(plan: Path, run: Run) -> None:
    loaded = planfile.load(plan)
    data = json.loads(run("--plan", plan, "--sensitivity", "--format", "json").stdout)["sensitivity"]
    assert [row["knob"] for row in data] == list(_KNOBS)
    for row in data:
        assert set(row) == {"knob", "value", "more", "less", "slope_bytes", "slopes"}
        assert row["more"]["bytes"] == peak(stepped(loaded.scenario, row["knob"], 1)) - loaded.peak_bytes
        assert row["slope_bytes"] == sum(slope["bytes"] for slope in row["slopes"])
    text = run("--plan", plan, "--sensitivity").stdout
    assert all(name in text for name in _KNOBS)
    assert "target.kv_cache" in text


def test_both_at_once(plan: Path, run: Run) -> None:
    data = json.loads(run("--plan", plan, "--peak", "--sensitivity", "--format", "json").stdout)
    assert set(data) == {"peak", "sensitivity"}
    text = run("--plan", plan, "--peak", "--sensitivity").stdout
    assert text == run("--plan", plan, "--peak").stdout + "\n" + run("--plan", plan, "--sensitivity").stdout


def test_formulas_as_json(plan: Path, run: Run) -> None:
    (item,) = json.loads(run("target.kv_cache", "--plan", plan, "--format", "json").stdout)["items"]
    assert item["bytes"] == planfile.load(plan).ledger.by_name()["target.kv_cache"].bytes
    full = "(k_s + ⌈d*k_b/8⌉)*(2*B*H_k*L_w*S_w + 2*B*H_k*S*(L_a - L_w))"
    assert item["expression"] == f"B*L_m*S*(k_s + ⌈k_b*(d_r + r_k)/8⌉) + {full}"
    (general,) = json.loads(run("kv_cache", "--format", "json").stdout)["items"]
    assert (general["bytes"], general["latex"]) == (None, item["latex"])


def test_the_numbers_that_are_put_in_add_up(plan: Path, run: Run) -> None:
    (item,) = json.loads(run("target.kv_cache", "--plan", plan, "--format", "json").stdout)["items"]
    code = item["substituted"].replace("⌈", "math.ceil(").replace("⌉", ")")
    assert eval(code, {"math": math}) == item["bytes"]
    # term by term as the formula has them: equal numbers do not merge
    assert re.sub(r"\w+", "x", item["substituted"]) == re.sub(r"\w+", "x", item["expression"])


def test_the_two_kinds_of_rounding_look_different(run: Run) -> None:
    assert "⌈d*k_b/8⌉)" in run("kv_cache").stdout
    assert "⌈8*R⌉₂₅₆ + ⌈V⌉₂₅₆" in run("sampling").stdout
    assert "⌈N⌉₂₅/25" in run("allocator_slack").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peak"], ["--peak", "--plan"]),
        (["--sensitivity"], ["--sensitivity", "--plan"]),
        (["kv_cache", "--plan", "PLAN", "--peak"], ["--peak", "kv_cache"]),
        (["--plan", "PLAN", "--peak", "--latex"], ["--peak", "--latex"]),
        (["--plan", "PLAN", "--sensitivity", "--latex"], ["--sensitivity", "--latex"]),
        (["kv_cache", "--latex", "--format", "json"], ["--latex", "--format json"]),
        (["--plan", "no-plan.json", "--peak"], ["no-plan.json"]),
        (["--plan", "PLAN", "--peak", "--format", "table"], ["table", "json"]),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], words: list[str], plan: Path, run: Run) -> None:
    refused(run(*(plan if argument == "PLAN" else argument for argument in arguments)), *words)


def test_a_plan_of_other_formulas_is_refused(tmp_path: Path, run: Run) -> None:
    made: Plan = tiny_plan()
    items = [dataclasses.replace(i, bytes=i.bytes + 256 * (i.name == "verify.mask")) for i in made.ledger.items]
    ledger = dataclasses.replace(made.ledger, items=tuple(items))
    path = tmp_path / "plan.json"
    planfile.save(dataclasses.replace(made, ledger=ledger, tool_version="0.0.9"), path)
    refused(run("--plan", path, "--peak"), "0.0.9", "verify.mask")


def test_exit_code_of_the_process() -> None:
    refused(specplan("explain", "--peak"), "--plan")
