"""Times between measured points, beyond them, and the timer that the planner asks."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan.devices.bundled import device_profile
from specplan.errors import InputError
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.space import all_candidates
from specplan.speed import step_times
from specplan.speed.roofline import Pass
from specplan.speed.step_times import STEP_TIMES_VERSION, StepTimeTable, load_step_times
from specplan.speed.timer import RooflineTimer, TableTimer, step_timer
from specplan.user_profiles import FOLDER_VARIABLE, load, profile_path, save
from tests.conftest import tiny_arch, tiny_plan, tiny_question

ROWS, BATCHES, CONTEXTS, TILES = (1, 2, 4, 8), (1, 4), (16, 64, 256), (1, 2, 8)


def table(**changes: Any) -> StepTimeTable:
    """A table whose times rise in all directions."""
    layers = tuple(
        tuple(tuple(1e-3 * batch * (1 + rows + context / 100) for rows in ROWS) for context in CONTEXTS)
        for batch in BATCHES
    )
    fields: dict[str, Any] = {
        "schema_version": STEP_TIMES_VERSION, "fingerprint": "here", "device": "this machine", "num_threads": 1,
        "tool_version": "0", "torch_version": "2", "model": "tiny", "config_sha256": "0" * 64, "dtype": "float32",
        "kv_dtype": "float32", "num_layers": 2, "rows": ROWS, "batch_sizes": BATCHES, "contexts": CONTEXTS,
        "layer_s": layers, "head_rows": TILES, "head_s": (1e-4, 2e-4, 5e-4), "repeats": 5, "spread": 0.01,
        "host_s": {"none": 1e-5, "ngram": 2e-5},
    } | changes  # fmt: skip
    return StepTimeTable(**fields)


def roofline() -> RooflineTimer:
    return RooflineTimer(tiny_arch(), device_profile("cpu-generic"), "float32", "float32")


def timer(**changes: Any) -> TableTimer:
    found = table(**changes)
    return TableTimer({found.num_layers: found}, roofline())


def test_measured_points_are_exact() -> None:
    measured = np.array(table().layer_s)
    for (b, batch), (c, context) in itertools.product(enumerate(BATCHES), enumerate(CONTEXTS)):
        found = step_times.layer_seconds(table(), rows=np.array(ROWS), batch_size=batch, context=context)
        np.testing.assert_array_equal(found, measured[b, c])


@given(st.integers(1, 8), st.integers(1, 4), st.integers(16, 256))
def test_between_points_it_is_linear_axis_by_axis(rows: int, batch: int, context: int) -> None:
    """Against numpy's interpolation, one axis after the other and in another order."""
    measured = np.array(table().layer_s)
    by_rows = np.array([[np.interp(rows, ROWS, line) for line in plane] for plane in measured])
    by_batch = [np.interp(batch, BATCHES, by_rows[:, c]) for c in range(len(CONTEXTS))]
    expected = np.interp(context, CONTEXTS, by_batch)
    found = step_times.layer_seconds(table(), rows=np.array([rows]), batch_size=batch, context=context)
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=4), st.integers(1, 4), st.integers(16, 256))
def test_noise_never_makes_more_rows_cheaper(noise: list[float], batch: int, context: int) -> None:
    """Whatever falls by less than the table's spread is flat, and beyond the most rows it rises."""
    layers = tuple(tuple(tuple(1e-3 * n for n in noise) for _ in CONTEXTS) for _ in BATCHES)
    rows = np.arange(1, 40) * batch
    found = timer(layer_s=layers, spread=0.9).pass_seconds(
        Pass(rows=rows, batch_size=batch, context=context, logits_rows=64, head_rows=rows)
    )
    assert (np.diff(found) >= -1e-15).all()
    assert (found > 0).all()


def test_a_real_fall_stays() -> None:
    """Kernels for 8 rows may be quicker than those for 4: a planner that is told otherwise takes the wrong chain."""
    layers = tuple(tuple((1e-3, 1e-3 * 0.99, 3e-3, 2e-3) for _ in CONTEXTS) for _ in BATCHES)
    found = step_times.layer_seconds(table(layer_s=layers), rows=np.array(ROWS), batch_size=1, context=16)
    np.testing.assert_allclose(found, [1e-3, 1e-3, 3e-3, 2e-3])


@pytest.mark.parametrize(
    ("rows", "batch", "context"), [(16, 1, 64), (8, 8, 64), (4, 1, 2000), (4, 1, 4), (400, 16, 2000)]
)
def test_beyond_the_grid_it_scales_as_the_roofline(rows: int, batch: int, context: int) -> None:
    total = rows * batch if batch > 1 else rows
    model = roofline()
    edge_rows, edge_batch, edge_context = min(rows, 8), min(batch, 4), min(max(context, 16), 256)
    inside = step_times.layer_seconds(table(), rows=np.array([edge_rows]), batch_size=edge_batch, context=edge_context)
    each = Pass(rows=total, batch_size=batch, context=context, logits_rows=1, head_rows=1)
    edge = dataclasses.replace(each, rows=edge_rows * edge_batch, batch_size=edge_batch, context=edge_context)
    ratio = model.layer_seconds(each) / model.layer_seconds(edge)
    found = timer().pass_seconds(each)
    np.testing.assert_allclose(found, inside[0] * ratio + 1e-4, rtol=1e-12)
    assert timer().source(rows=total, batch_size=batch, context=context) == "modelled"


def test_inside_the_grid_it_is_measured() -> None:
    assert timer().source(rows=12, batch_size=3, context=100) == "measured"
    assert timer().source(rows=1, batch_size=1, context=100, num_layers=1) == "modelled"


def test_each_tile_of_the_head_counts() -> None:
    tile = Pass(rows=8, batch_size=1, context=64, logits_rows=8, head_rows=8)
    one, four = (timer().pass_seconds(each) for each in (tile, dataclasses.replace(tile, logits_rows=2)))
    np.testing.assert_allclose(four - one, 4 * 2e-4 - 5e-4, rtol=1e-9)


def test_a_depth_without_its_own_table_is_a_share_of_the_whole() -> None:
    whole = timer()
    prefix = table(num_layers=1, layer_s=tuple(tuple((7e-3,) * 4 for _ in CONTEXTS) for _ in BATCHES))
    both = TableTimer({2: table(), 1: prefix}, roofline())
    point = Pass(rows=1, batch_size=1, context=64, logits_rows=1, head_rows=1)
    first = dataclasses.replace(point, num_layers=1)
    np.testing.assert_allclose(both.pass_seconds(first), 7e-3 + 1e-4)
    assert both.source(rows=1, batch_size=1, context=64, num_layers=1) == "measured"
    assert whole.pass_seconds(first) < whole.pass_seconds(point)


def test_a_table_is_of_one_model() -> None:
    model = roofline()
    assert isinstance(step_timer(model, "0" * 64, [table()]), TableTimer)
    for changes in ({"config_sha256": "1" * 64}, {"num_layers": 1}):
        assert step_timer(model, "0" * 64, [table(**changes)]) is model


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("float32", "float16"), ("int8", "float32")])
def test_a_precision_that_was_not_measured_is_scaled_and_modelled(dtype: str, kv_dtype: str) -> None:
    """Otherwise the search would prefer whatever was never measured."""
    model, point = roofline(), {"rows": 4, "batch_size": 1, "context": 64}
    asked = dataclasses.replace(model, dtype=dtype, kv_dtype=kv_dtype)
    found = step_timer(asked, "0" * 64, [table()])
    each = Pass(**point, logits_rows=1, head_rows=1)
    ratio = asked.layer_seconds(each) / model.layer_seconds(each)
    head = 1e-4 * asked.tile_seconds(1) / model.tile_seconds(1)
    inside = step_times.layer_seconds(table(), rows=np.array([4]), batch_size=1, context=64)
    np.testing.assert_allclose(found.pass_seconds(each), inside[0] * ratio + head)
    assert found.source(**point) == "modelled"
    assert "scaled" in found.reference
    own = step_timer(asked, "0" * 64, [table(), table(dtype=dtype, kv_dtype=kv_dtype)])
    assert own.source(**point) == "measured"


def test_host_seconds_of_an_unmeasured_drafter_are_those_of_plain_decoding() -> None:
    assert timer().host_seconds("ngram") == 2e-5
    assert timer().host_seconds("draft_model") == 1e-5
    assert timer(host_s={}).host_seconds("none") == 0.0


def test_the_planner_prefers_the_table_and_says_so() -> None:
    question = tiny_question(drafters=("none", "ngram"), max_speculative_tokens=3, context=128)
    measured = dataclasses.replace(question, step_times=(table(kv_dtype="float32"),))
    plain, drafted = all_candidates(measured)
    context = question.workload.mean_context
    seconds = timer().pass_seconds(Pass(rows=1, batch_size=1, context=context, logits_rows=2, head_rows=1))
    np.testing.assert_allclose(plain.tokens_per_s, 1 / (seconds + 1e-5))
    plan = analyze(measured)
    assert isinstance(plan, Plan)
    assert plan.estimate.baseline_tokens_per_s.source == "measured"
    assert "step times of tiny measured here" in plan.estimate.tokens_per_s.reference
    assert "roofline" in tiny_plan(drafters=("none",)).estimate.tokens_per_s.reference
    assert not np.allclose(drafted.tokens_per_s, all_candidates(question)[1].tokens_per_s)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": (1, 2, 2, 8)},
        {"rows": ()},
        {"contexts": (0, 64, 256)},
        {"head_s": (1e-4,)},
        {"layer_s": table().layer_s[:1]},
        {"layer_s": (table().layer_s[0], table().layer_s[1][:2])},
        {"head_s": (1e-4, 0.0, 5e-4)},
        {"host_s": {"none": -1.0}},
    ],
)
def test_contradictory_tables_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        table(**changes)


def test_profiles_come_back_as_they_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    elsewhere = table(fingerprint="another machine, 4 CPUs")
    for each in (table(), elsewhere):
        assert load(save("step-times", each.name, each), StepTimeTable, STEP_TIMES_VERSION) == each
    assert load_step_times("here") == (table(),)
    assert load_step_times("nowhere") == ()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "schema_version"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1, "surprise": 1}', "surprise"),
    ],
)
def test_a_damaged_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    path = profile_path("step-times", "broken")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        load_step_times("here")
    assert str(path) in str(error.value)


def test_no_folder_is_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "missing"))
    assert load_step_times("here") == ()
