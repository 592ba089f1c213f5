"""``solve``: the answer fits, one more does not, and both agree with counting and with ``analyze``."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.cli.main import cli
from specplan.devices.bundled import device_profile
from specplan.errors import InputError
from specplan.formulas.memory import MemoryModel
from specplan.knob import KNOBS
from specplan.plan import Infeasible, Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.bound import Bound, largest
from specplan.planner.question import Question
from specplan.planner.solve import Solution, solve, solve_options
from tests.conftest import model_input, tiny_arch, tiny_question
from tests.test_cli import ended, refused

_PROCESS = 448 << 20
_PAIR = ["--model", "llama-2-7b-chat", "--draft", "llama-68m", "--gpu", "rtx-4090"]

#: What chains can be solved for; trees are tested apart.
CHAIN_KNOBS = ("context", "batch_size", "num_speculative_tokens")


def question(**changes: Any) -> Question:
    """Tiny models on a CPU; ``extra`` bytes of budget beyond the process itself."""
    extra = changes.pop("extra", 20 << 20)
    return tiny_question(budget_bytes=_PROCESS + extra, **changes)


def solved(name: str, asked: Question) -> Solution:
    return solve(asked, KNOBS[name])


def with_value(asked: Question, name: str, value: int) -> Question:
    if name == "num_speculative_tokens":
        return dataclasses.replace(asked, num_speculative_tokens=value)
    return dataclasses.replace(asked, workload=dataclasses.replace(asked.workload, **{name: value}))  # type: ignore[arg-type]


def peak(bound: Bound, name: str, value: int) -> int:
    return int(MemoryModel(KNOBS[name].put(bound.scenario, value)).peak_bytes())


@settings(max_examples=25)
@given(
    st.sampled_from(CHAIN_KNOBS),
    st.integers(16 << 20, 64 << 20),
    st.sampled_from(["cpu-generic", "t4"]),
    st.sampled_from(["float32", "float16", "int8"]),
    st.integers(1, 3),
)
def test_the_answer_fits_and_one_more_does_not(name: str, extra: int, gpu: str, dtype: str, batch: int) -> None:
    device, kv = device_profile(gpu), "float32" if dtype == "int8" else dtype
    context_bytes = _PROCESS if gpu == "cpu-generic" else int(device.context_bytes.value)
    budget = context_bytes + extra
    wide = model_input(tiny_arch(intermediate_size=32))
    asked = tiny_question(
        target=wide, draft=wide, budget_bytes=budget, device=device, batch_size=batch, context=64,
        dtype=dtype, kv_dtype=kv, draft_dtype=dtype, draft_kv_dtype=kv,
    )  # fmt: skip
    knob = KNOBS[name]
    for bound in solved(name, asked).bounds:
        assert 0 <= bound.value <= knob.limit
        if bound.value:
            assert knob.read(bound.scenario) == bound.value
            assert bound.fitting is not None
            assert bound.fitting.peak_bytes == peak(bound, name, bound.value) <= budget
            assert bound.left_bytes == budget - bound.fitting.peak_bytes
        else:
            assert bound.fitting is None
        if bound.value < knob.limit:
            assert bound.beyond is not None
            assert bound.beyond.peak_bytes == peak(bound, name, max(bound.value + 1, knob.least)) > budget
            assert bound.shortfall_bytes == bound.beyond.peak_bytes - budget
        else:
            assert bound.beyond is None
        if bound.fitting is not None and bound.beyond is not None:
            grown = bound.beyond.peak_bytes - bound.fitting.peak_bytes
            assert sum(num_bytes for _, num_bytes in bound.growth()) == grown


@given(st.integers(0, 300), st.integers(1, 200))
def test_bisection_equals_counting(threshold: int, limit: int) -> None:
    tried = []

    def fits(value: int) -> bool:
        tried.append(value)
        return value <= threshold

    assert largest(fits, 1, limit) == max((value for value in range(1, limit + 1) if value <= threshold), default=0)
    assert all(1 <= value <= limit for value in tried)
    assert max(tried) <= max(4 * threshold, 1)  # far beyond the budget, integers would overflow
    assert len(tried) <= 25


@pytest.mark.parametrize(
    ("name", "extra"), [("context", 1), ("context", 95_000), ("context", 150_000), ("batch_size", 900_000)]
)
def test_the_answer_equals_brute_force(name: str, extra: int) -> None:
    device = device_profile("apple-m2-16gb")  # nothing is rounded to large blocks: every token counts
    base = int(device.context_bytes.value)
    asked = tiny_question(device=device, budget_bytes=base + extra, context=16, batch_size=1)
    for bound in solved(name, asked).bounds:
        fitting = [value for value in range(1, 500) if peak(bound, name, value) <= base + extra]
        assert bound.value == len(fitting) == max(fitting, default=0) < 499


@pytest.mark.parametrize("name", CHAIN_KNOBS)
def test_a_budget_of_exactly_the_peak_is_enough(name: str) -> None:
    roomy = solved(name, question(drafters=("none", "draft_model"), must_speculate=True)).best
    exact = peak(roomy, name, 5)
    asked = tiny_question(budget_bytes=exact, drafters=("none", "draft_model"), must_speculate=True)
    best = solved(name, asked).best
    assert best.left_bytes == 0
    assert best.value >= 5  # alignment may make room for another
    assert solved(name, with_budget(asked, exact - 1)).best.value < 5


def with_budget(asked: Question, budget_bytes: int) -> Question:
    return dataclasses.replace(asked, inputs=dataclasses.replace(asked.inputs, budget_bytes=budget_bytes))


@pytest.mark.parametrize("name", CHAIN_KNOBS)
@pytest.mark.parametrize("drafters", [("none", "ngram"), ("none", "draft_model"), ("none", "early_exit")])
def test_it_is_the_largest_at_which_analyze_finds_a_plan(name: str, drafters: tuple[str, ...]) -> None:
    asked = question(extra=17_000_000, drafters=drafters, must_speculate=name == "num_speculative_tokens")
    solution = solved(name, asked)
    best = solution.best
    assert best.value > 0
    assert isinstance(analyze(with_value(asked, name, best.value)), Plan)
    if best.beyond is not None:
        assert isinstance(analyze(with_value(asked, name, best.value + 1)), Infeasible)


@settings(max_examples=15)
@given(st.sampled_from(CHAIN_KNOBS), st.lists(st.integers(1 << 20, 1 << 26), min_size=2, max_size=4))
def test_more_budget_never_gives_less(name: str, extras: list[int]) -> None:
    answers = [solved(name, question(extra=extra, context=32)) for extra in sorted(extras)]
    for less, more in pairwise(answers):
        for before, after in zip(less.bounds, more.bounds, strict=True):
            assert before.value <= after.value
        assert less.best.value <= more.best.value


def test_the_rest_of_the_question_is_kept() -> None:
    asked = question(num_speculative_tokens=3, batch_size=2, must_speculate=True)
    solution = solved("context", asked)
    assert {bound.drafter for bound in solution.bounds} == {"ngram", "draft_model", "early_exit"}
    for bound in solution.bounds:
        assert bound.scenario.speculation.num_draft_nodes == 3
        assert bound.scenario.workload.batch_size == 2
        assert (bound.scenario.speculation.prefill_chunk, bound.scenario.speculation.logits_rows) == (16, 2)


def test_a_fixed_chunk_costs_context() -> None:
    asked = question(drafters=("none",))
    free, fixed = solved("context", asked), solve(asked, KNOBS["context"], prefill_chunk=512, logits_rows=64)
    assert fixed.best.scenario.speculation.prefill_chunk == 512
    assert fixed.best.scenario.speculation.logits_rows == 64
    assert 0 < fixed.best.value < free.best.value


def test_the_best_of_several_drafters() -> None:
    solution = solved("context", question())
    values = [bound.value for bound in solution.bounds]
    assert solution.best.value == max(values) > min(values)
    nothing = solved("context", question(extra=1))
    assert not nothing.fits
    assert nothing.best.shortfall_bytes == min(bound.shortfall_bytes or 0 for bound in nothing.bounds)


def test_beyond_what_the_model_was_trained_for_is_noted() -> None:
    assert any("was trained for" in note for note in solved("context", question()).notes)
    assert solved("batch_size", question()).notes == ()


@pytest.mark.parametrize(
    ("changes", "word"), [({"batch_size": 0}, "--batch-size"), ({"num_speculative_tokens": 65}, "64")]
)
def test_what_is_not_solved_for_is_checked(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        solved("context", question(**changes))


@pytest.mark.parametrize("name", CHAIN_KNOBS)
def test_the_knobs_own_default_does_not_matter(name: str) -> None:
    options = {"model": "llama-2-7b-chat", "gpu": "rtx-4090", "draft": "llama-68m", "budget": 16 << 30}
    solution = solved(name, solve_options(name, **options))
    assert solution.fits
    if name == "num_speculative_tokens":
        assert {bound.drafter for bound in solution.bounds} == {"ngram", "draft_model", "early_exit"}


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["solve", *arguments], standalone_mode=False, terminal_width=100)
    assert result.exception is None, result.exception
    return result.return_value, result.stdout


def test_json_has_both_ledgers() -> None:
    code, text = invoke("--for", "context", *_PAIR, "--budget", "16GiB", "--format", "json")
    data = json.loads(text)
    assert code == 0
    assert set(data) == {
        "knob", "fits", "value", "drafter", "limit", "bounded", "budget_bytes", "left_bytes", "shortfall_bytes",
        "bounds", "inputs", "notes",
    }  # fmt: skip
    assert (data["knob"], data["fits"], data["bounded"], data["limit"]) == ("context", True, True, 1 << 24)
    assert data["budget_bytes"] == 16 << 30
    assert data["value"] == max(bound["value"] for bound in data["bounds"])
    for bound in data["bounds"]:
        assert bound["workload"]["context"] == bound["value"]
        assert bound["fitting"]["peak_bytes"] + bound["left_bytes"] == data["budget_bytes"]
        assert bound["beyond"]["peak_bytes"] - bound["shortfall_bytes"] == data["budget_bytes"]
        growth = bound["beyond"]["peak_bytes"] - bound["fitting"]["peak_bytes"]
        assert sum(entry["bytes"] for entry in bound["growth"]) == growth
        names = {item["name"] for item in bound["fitting"]["items"]}
        assert {bound["fitting"]["binding_item"], "target.kv_cache", "target.weights"} <= names


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_for_people(form: str) -> None:
    code, text = invoke("--for", "context", *_PAIR, "--drafter", "draft_model", "--budget", "16GiB", "--format", form)
    value = json.loads(
        invoke("--for", "context", *_PAIR, "--drafter", "draft_model", "--budget", "16GiB", "--format", "json")[1]
    )["value"]
    assert code == 0
    assert f"{value:,}".replace(",", " ") in text.splitlines()[0]
    assert "draft_model, γ 1" in text
    assert "assumed device_context" in text
    assert "beyond the 4096 tokens" in text
    assert ("|--" in text) == (form == "markdown")
    assert all(len(line) <= 100 for line in text.splitlines())


def test_no_bound_is_said() -> None:
    code, text = invoke("--for", "num_speculative_tokens", "--model", "llama-68m", "--gpu", "rtx-4090")
    assert code == 0
    assert text.startswith("No bound: 64 tokens per step, the most that specplan plans")
    assert "one more adds" not in text.lower()
    data = json.loads(
        invoke("--for", "num_speculative_tokens", "--model", "llama-68m", "--gpu", "rtx-4090", "--format", "json")[1]
    )
    assert (data["bounded"], data["shortfall_bytes"], data["bounds"][0]["beyond"]) == (False, None, None)


def test_not_even_one_fits() -> None:
    code, text = invoke("--for", "batch_size", *_PAIR, "--budget", "5GiB")
    assert code == 1
    assert text.startswith("Does not fit: batch_size 1 lacks ")
    code, described = invoke("--for", "batch_size", *_PAIR, "--budget", "5GiB", "--format", "json")
    data = json.loads(described)
    assert code == 1
    assert (data["fits"], data["value"], data["left_bytes"]) == (False, 0, None)
    assert data["shortfall_bytes"] == data["bounds"][0]["beyond"]["peak_bytes"] - (5 << 30) > 0
    assert f"{data['shortfall_bytes']:,}".replace(",", " ") in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*_PAIR], ["--for"]),
        (["--for", "prefill", *_PAIR], ["prefill", "batch_size"]),
        (["--for", "context", "--context", "4096", *_PAIR], ["--context", "--for context"]),
        (["--for", "batch_size", "--batch-size", "1", *_PAIR], ["--batch-size"]),
        (["--for", "num_speculative_tokens", "--num-speculative-tokens", "4", *_PAIR], ["--num-speculative-tokens"]),
        (["--for", "num_speculative_tokens", "--drafter", "none", "--model", "llama-68m", "--gpu", "t4"], ["none"]),
        (["--for", "context", "--batch-size", "0", *_PAIR], ["--batch-size 0"]),
        (["--for", "context", "--batch-size", "9999", *_PAIR], ["--batch-size 9999"]),
        (["--for", "batch_size", "--context", "0", *_PAIR], ["--context 0"]),
        (["--for", "context", *_PAIR, "--budget", "1TiB"], ["--budget", "rtx-4090"]),
        (["--for", "context", *_PAIR, "--budget", "lots"], ["lots"]),
        (["--for", "context", "--model", "nothing-here", "--gpu", "t4"], ["nothing-here"]),
        (["--for", "context", *_PAIR, "--drafter", "ngram"], ["--draft"]),
        (["--for", "context", "--model", "llama-68m", "--gpu", "any"], ["--gpu any", "analyze"]),
    ],
)
def test_wrong_input_is_refused(
    arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(ended(monkeypatch, capsys, "solve", *arguments), *words)


@pytest.mark.parametrize("budget", [16 << 30, 18 << 30])
def test_a_medusa_chain_has_a_head_for_every_token(budget: int) -> None:
    options: dict[str, Any] = {"model": "vicuna-7b-v1.3", "drafter": "medusa", "gpu": "titan-rtx", "budget": budget}
    value = solve(solve_options("num_speculative_tokens", **options), KNOBS["num_speculative_tokens"]).best.value
    assert 1 < value < 64
    found = [analyze(ask(**options, num_speculative_tokens=tokens)) for tokens in (value, value + 1)]
    assert [isinstance(each, Plan) for each in found] == [True, False]


@pytest.mark.parametrize(("model", "drafter", "words"), [
    ("gemma-2-9b", "medusa", "windowed layers"),
    ("llama-3.1-8b", "eagle3", "--tree"),
    ("llama-3.1-8b", "ngram", "--num-draft-nodes needs"),
])  # fmt: skip
def test_nodes_where_there_are_no_trees_are_refused(model: str, drafter: str, words: str) -> None:
    def solved() -> Solution:
        question = solve_options("num_draft_nodes", model=model, drafter=drafter, gpu="h200", context=8192)
        return solve(question, KNOBS["num_draft_nodes"])

    with pytest.raises(InputError, match=words):
        solved()
