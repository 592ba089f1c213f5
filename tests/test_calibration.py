"""Calibration on a tiny model: what it writes, what the planner makes of it, and how it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specplan.acceptance_profiles import ALL, read_acceptance
from specplan.devices import local
from specplan.devices.measured import DEVICE_VERSION, DeviceMeasurement
from specplan.errors import InputError
from specplan.planner.ask import ask
from specplan.speed.acceptance_counts import chain_steps
from specplan.user_profiles import FOLDER_VARIABLE, profile_path, save
from specplan_runtime.calibration import text as calibration_text
from specplan_runtime.calibration.answers import Answer, Question, StepRecord, answer, ngram_steps, trace
from specplan_runtime.calibration.calibrate import Calibration, CalibrationOptions, calibrate, engine_plan, grid_of
from specplan_runtime.calibration.metered import meter
from specplan_runtime.calibration.pass_times import (
    Grid,
    PassTimer,
    Point,
    fill_caches,
    measure_in_turns,
    place_workspace,
)
from specplan_runtime.calibration.questions import questions_of
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.engine import Engine
from specplan_runtime.layout import draft_slots, target_slots
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.span import Span
from specplan_runtime.text import Tokenizer
from tests.cli_helpers import llama_folder
from tests.runtime_helpers import checkpoint, perturbed, plan_for, prompt_of, serve
from tests.test_cli import ended, refused


def ticking() -> Iterator[float]:
    """1, 2, 4, 7, …: every interval is one second longer than the one before."""
    return itertools.accumulate(itertools.count(0), initial=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "profiles"))
    return tmp_path / "profiles"


def engine(**options: Any) -> Engine:
    drafting: dict[str, Any] = {"drafter": "ngram", "num_speculative_tokens": 4}
    return Engine(plan_for(checkpoint(), **(drafting | options)))


def test_each_pass_is_two_intervals_of_the_clock() -> None:
    ours = engine()
    seconds = ticking()
    timer = PassTimer(ours.own.target, 1, target_slots(ours.plan), 4, clock=lambda: next(seconds))
    grid = Grid((1, 3), (1,), (8, 32))
    done: list[float] = []
    measure_in_turns([timer], [grid], 3, done.append)
    # each pass reads the clock thrice: two intervals inside it, one between passes; the first round is forgotten, and
    # so is the first pass of every round
    number = iter(n for n in itertools.count(5) if n % 5)
    expected: dict[Point, list[float]] = {point: [] for point in grid.points()}
    heads: dict[int, list[float]] = {1: [], 3: []}
    for _, point in itertools.product(range(3), grid.points()):
        start = 3 * next(number)
        expected[point].append(float(start))
        heads[point.rows].append(float(start + 1))
    assert timer.times.layers == expected
    assert timer.times.head == heads
    assert done[-1] == 1
    assert done == sorted(done)
    assert timer.times.layer_medians(grid)[0][1][1] == sorted(expected[Point(1, 32, 3)])[1]


def test_a_measured_pass_is_the_decoders_own() -> None:
    """Same layers, same rows: what a pass leaves in its buffers is what the decoder leaves in the plan's."""
    ours = engine()
    timer = PassTimer(ours.own.target, 1, target_slots(ours.plan), 3)
    timer.measure(Point(1, 3, 3))
    first = timer._work.hidden[:3].clone()
    work = place_workspace(ours.own.target.parameters, 1, target_slots(ours.plan), 3)
    ours.own.target.forward(work, Span([[1, 1, 1]], [0], 0))
    ours.own.target._normalized(work, work.hidden[:3], ours.own.target.parameters.final_norm)
    torch.testing.assert_close(first, work.hidden[:3])


def test_a_batch_that_the_cache_does_not_have_is_refused() -> None:
    ours = engine(batch_size=3)
    timer = PassTimer(ours.own.target, 3, target_slots(ours.plan), 2)
    timer.measure(Point(3, 8, 2))
    with pytest.raises(ValueError, match="batch 2"):
        timer.measure(Point(2, 8, 2))


@pytest.mark.parametrize("drafter", ["ngram", "draft_model"])
def test_metering_changes_no_token_and_adds_passes_up(drafter: str) -> None:
    options = {"drafter": drafter} | ({"draft": checkpoint(num_hidden_layers=1)} if drafter == "draft_model" else {})
    expected = serve(engine(**options), [prompt_of(9)], 20)
    ours = engine(**options)
    decoders = meter(ours)
    assert serve(ours, [prompt_of(9)], 20) == expected
    assert all(decoder.seconds > 0 for decoder in decoders)
    assert len(decoders) == 1 + (drafter == "draft_model")


def answered(ours: Engine, length: int, limit: int) -> Answer:
    (tokens,) = serve(ours, [prompt_of(length)], limit)
    return Answer(Question("some", prompt_of(length)), tokens, [], False)


@pytest.mark.parametrize("gamma", [1, 3, 4])
def test_replayed_steps_of_ngram_are_those_of_the_engine(gamma: int) -> None:
    """The engine's own counters as the oracle, up to where the answer cuts a chain short."""
    plain = engine(drafter="none", num_speculative_tokens=None, context=160)
    known = answered(plain, 24, 120)
    ours = engine(context=160, num_speculative_tokens=gamma)
    ours.drafter = NgramDrafter(1)
    steps = []
    sequence = ours.open(known.question.tokens, 120)
    ours.start(sequence, SamplingParams())
    for emitted in ours.run_row(sequence, SamplingParams()):
        steps.append(len(emitted))
    found = ngram_steps(known, gamma)
    assert [step.num_accepted + 1 for step in found] == steps[: len(found)]
    assert len(found) >= 10


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_traced_ranks_replay_a_draft_models_run(scale: float) -> None:
    """A draft that is right always, or some of the time: chains of the trace are the engine's accepted tokens."""
    draft = perturbed(checkpoint(), scale) if scale else checkpoint()
    ours = engine(drafter="draft_model", draft=draft, draft_kv_dtype="float32", num_speculative_tokens=3)
    ours.set_speculating(False)
    known = answered(ours, 7, 40)
    layout = ours.own.layout
    assert layout.draft is not None
    work = place_workspace(layout.draft, 1, draft_slots(ours.plan), 5)
    found = trace(ours.own.decoders[-1], work, known, 131)
    assert len(found.ranks) == 40
    ours.set_speculating(True)
    ours.reset_counters()
    assert serve(ours, [known.question.tokens], 40) == [known.tokens]
    steps = list(chain_steps(found, 3))
    accepted = sum(step.num_accepted for step in steps)
    assert abs(ours.stats.num_accepted_tokens - accepted) <= 3  # the last chain, which the engine cuts
    if not scale:
        assert set(found.ranks) == {0}


def test_noise_fills_every_slot() -> None:
    ours = engine()
    fill_caches(ours.own.layout.target)
    assert (ours.own.layout.target.full.keys != 0).all()


def options(**changes: Any) -> CalibrationOptions:
    return dataclasses.replace(CalibrationOptions((1, 2, 4), 12, 2), **changes)


def calibrated(model: Path, **changes: Any) -> Calibration:
    asked = ask(
        model=str(model), draft=str(model), gpu="local", drafter="draft_model", context=48, dtype="float32", **changes
    )

    def questions(tokenizer: Tokenizer) -> list[Question]:
        return [Question("one", [3, 4, 5, 3, 4]), Question("two", [7, 8, 9])]

    seconds = ticking()
    return calibrate(asked, questions, options(), clock=lambda: next(seconds))


def test_what_is_measured(model: Path, folder: Path) -> None:
    found = calibrated(model, batch_size=2)
    assert [table.num_layers for table in found.tables] == [2, 1, 2]
    whole = found.tables[0]
    assert (whole.rows, whole.batch_sizes, whole.contexts) == ((1, 2, 4), (1, 2), (48,))
    assert set(whole.host_s) == {"none", "ngram", "draft_model"}
    assert {profile.drafter for profile in found.acceptance} == {"ngram", "early_exit", "draft_model"}
    of_itself = next(profile for profile in found.acceptance if profile.drafter == "draft_model")
    rates = of_itself.categories[ALL]
    assert rates.accepted_lengths[:3] == (2, 3, 4)  # the target as its own draft
    assert {check.drafter for check in found.checks} == {"none", "ngram", "draft_model"}
    text = calibration_text.to_text(found)
    assert "roofline" in text
    assert "early_exit" in text
    restless = dataclasses.replace(whole, spread=0.25)
    assert not calibration_text.doubts(dataclasses.replace(found, tables=(dataclasses.replace(whole, spread=0.1),)))
    assert "25 %" in calibration_text.doubts(dataclasses.replace(found, tables=(restless,)))[0]
    data = calibration_text.to_data(found, [Path("a.json")])
    assert len(data["step_times"][0]["roofline_layer_s"]) == 2 * 1 * 3
    json.dumps(data)


def test_rows_and_contexts_of_the_grid(model: Path) -> None:
    asked = ask(model=str(model), gpu="local", drafter="ngram", context=700, dtype="float32")
    assert grid_of(engine_plan(asked, (2, 16)), (2, 16)) == Grid((1, 2, 16), (1,), (64, 512, 700))
    assert grid_of(engine_plan(asked, (100,)), (100,)) == Grid((1, 100), (1,), (512, 700))
    with pytest.raises(InputError, match="--rows 701"):
        grid_of(engine_plan(asked, (701,)), (701,))


def test_prompts_of_ours_that_do_not_fit_are_left_out(model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(ask(model=str(model), gpu="local").inputs.target)
    assert 0 < len(questions_of(None, 20)(tokenizer)) < len(questions_of(None, 1000)(tokenizer))
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a b c", "category": "letters"}\n{"turns": ["d e f g"]}\n')
    assert [question.category for question in questions_of(path, 4)(tokenizer)] == ["letters", "prompts"]
    with pytest.raises(InputError, match="exceed the context by 1"):
        questions_of(path, 3)(tokenizer)


def test_command(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specplan_runtime.calibration.device_figures._STREAMED", (64, 64))
    monkeypatch.setattr("specplan_runtime.calibration.device_figures._SIDE", 16)
    monkeypatch.setattr("specplan_runtime.calibration.device_figures._process_bytes", lambda _: 123 << 20)
    command = ["calibrate", "--model", str(model), "--dtype", "float32", "--context", "160", "--rows", "1,2,5"]
    command += ["--max-new-tokens", "8", "--repeats", "1"]
    result = ended(monkeypatch, capsys, *command, "--format", "json")
    assert result.returncode == 0, result.stderr
    files = [Path(path) for path in json.loads(result.stdout)["files"]]
    assert len(files) >= 4
    assert result.stderr.splitlines()[-len(files) :] == [f"written: {path}" for path in files]
    assert all(path.is_file() and folder in path.parents for path in files)
    acceptance = [read_acceptance(path) for path in files if path.parent.name == "acceptance"]
    assert {profile.drafter for profile in acceptance} == {"ngram", "early_exit"}
    asked = ask(model=str(model), gpu="local", dtype="float32")
    assert {table.num_layers for table in asked.step_times} == {1, 2}
    assert {profile.drafter for profile in asked.profiles} == {"ngram", "early_exit"}
    assert asked.inputs.device.memory_bandwidth_bytes_per_s.source == "measured"
    assert asked.inputs.device.context_bytes.value == 123 << 20
    plan = ended(monkeypatch, capsys, "analyze", "--model", str(model), "--gpu", "local", "--dtype", "float32")
    assert plan.returncode == 0, plan.stderr
    assert "measured here" in plan.stdout
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    assert not ask(model=str(model), gpu="local", dtype="float32").step_times


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "rtx-4090"], "rtx-4090"),
        (["--rows", "1,two"], "two"),
        (["--rows", "0"], "--rows 0"),
        (["--repeats", "0"], "--repeats"),
        (["--prompts", "missing.jsonl"], "missing.jsonl"),
        (["--context", "40", "--rows", "1"], "--context"),
    ],
)
def test_refused(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    refused(ended(monkeypatch, capsys, "calibrate", "--model", str(model), *arguments), words)


def measurement(**changes: Any) -> DeviceMeasurement:
    fields: dict[str, Any] = {
        "schema_version": DEVICE_VERSION, "fingerprint": local.fingerprint(), "device": "this", "num_threads": 1,
        "tool_version": "0", "torch_version": "2", "process_bytes": None, "memory_bandwidth_bytes_per_s": 1e10,
        "flop_per_s": {"float32": 1e11}, "kernel_launch_s": 1e-6,
    } | changes  # fmt: skip
    return DeviceMeasurement(**fields)


def test_a_measured_device_is_preferred_on_its_own_machine(folder: Path) -> None:
    assert local.local_device().memory_bandwidth_bytes_per_s.source != "measured"
    save("devices", "elsewhere", measurement(fingerprint="another", memory_bandwidth_bytes_per_s=1.0))
    assert local.local_device().memory_bandwidth_bytes_per_s.source != "measured"
    save("devices", "here", measurement())
    found = local.local_device()
    assert found.memory_bandwidth_bytes_per_s.value == 1e10
    assert found.flop_per_s["int8"].source == "assumed"
    assert found.context_bytes.value == 0
    profile_path("devices", "here").write_text("{")
    with pytest.raises(InputError, match=r"here\.json"):
        local.local_device()


def test_figures_must_be_positive() -> None:
    for changes in ({"process_bytes": 0}, {"kernel_launch_s": 0.0}, {"flop_per_s": {"float32": -1.0}}):
        with pytest.raises(ValueError, match="positive"):
            measurement(**changes)


def test_a_step_record_knows_its_passes() -> None:
    ours = engine()
    decoders = meter(ours)
    found = answer(ours, decoders, Question("some", prompt_of(6)), 10)
    assert len(found.tokens) == 10
    assert sum(step.num_emitted for step in found.steps) == 9
    assert found.steps[0].context == 7
    assert all(isinstance(step, StepRecord) and 0 < step.passes_s <= step.seconds for step in found.steps)
