"""Plans over several devices: their ranks, their files, their search and their words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from specplan import planfile
from specplan.checks import check_plan
from specplan.cli.main import cli
from specplan.devices.bundled import device_profile
from specplan.errors import InputError
from specplan.formulas.explain import scenario_of_plan
from specplan.formulas.memory import MemoryModel
from specplan.knob import KNOBS
from specplan.models.resolve import resolve_model
from specplan.output import analysis
from specplan.parallel.ranks import rank_scenarios
from specplan.plan import Infeasible, Plan, Spread
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.question import Question
from specplan.planner.solve import solve, solve_options
from specplan.planner.space import all_candidates
from specplan.planner.splits import filled_layers
from specplan.speed.parallel import SpreadTimer

GIB = 1 << 30


def asked(**options: Any) -> Question:
    """A question about a small model over two cards."""
    usual: dict[str, Any] = {"model": "smollm2-135m", "gpu": "rtx-3060", "num_gpus": 2, "context": 256}
    return ask(**usual | options)


def planned(**options: Any) -> Plan:
    result = analyze(asked(**options))
    assert isinstance(result, Plan)
    return result


def spread_of(plan: Plan) -> Spread:
    assert plan.spread is not None
    return plan.spread


def test_every_rank_fits_and_the_one_with_the_least_to_spare_binds() -> None:
    plan = planned(num_gpus=4, draft="smollm2-135m", batch_size=4)
    spread = spread_of(plan)
    assert sorted(rank for kind in spread.kinds for rank in kind.ranks) == [0, 1, 2, 3]
    spare = {kind.ranks: kind.budget_bytes - kind.ledger.peak_bytes for kind in spread.kinds}
    binding = spread.kind_of(spread.binding_rank)
    assert spare[binding.ranks] == min(spare.values())
    assert plan.ledger == binding.ledger
    for rank in range(4):
        assert MemoryModel(plan.rank_scenario(rank)).ledger() == spread.kind_of(rank).ledger
    assert scenario_of_plan(plan) == plan.scenario


def test_a_plan_file_keeps_its_ranks(tmp_path: Path) -> None:
    plan = planned(gpu="rtx-3090,rtx-3060", num_gpus=None)
    planfile.save(plan, tmp_path / "plan.json")
    assert planfile.load(tmp_path / "plan.json") == plan
    schema = json.loads((Path(__file__).parent.parent / "docs" / "plan.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads(planfile.dumps(plan)))
    assert check_plan(plan, None) == ()
    with pytest.raises(InputError, match="analyze with --gpu h200 --num-gpus 2"):
        check_plan(plan, device_profile("h200"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallelism": {"tensor_parallel": 3}}, "each of 6 ranks once"),
        ({"parallelism": {"num_micro_batches": 7}}, "spread.parallelism: 7 micro-batches"),
        ({"binding_rank": 5}, "binding_rank 5"),
        ({"kinds": []}, "each of 2 ranks once"),
    ],
)
def test_a_plan_whose_ranks_contradict_it_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    plan = planned(gpu="rtx-3090,rtx-3060", num_gpus=None)
    data = json.loads(planfile.dumps(plan))
    for key, value in change.items():
        data["spread"][key] = data["spread"][key] | value if isinstance(value, dict) else value
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        planfile.load(tmp_path / "plan.json")


def test_one_device_has_no_ranks() -> None:
    one, same = planned(num_gpus=None), planned(num_gpus=1)
    assert one == same
    assert one.spread is None
    assert "nccl" not in one.ledger.by_name()


def test_unequal_cards_get_layers_by_memory_and_the_smallest_decides() -> None:
    options = {"gpu": "rtx-3090,rtx-3060", "num_gpus": None, "model": "qwen2.5-7b", "dtype": "float32"}
    assert isinstance(analyze(asked(**options, tensor_parallel=2)), Infeasible)
    plan = planned(**options)
    first, second = spread_of(plan).parallelism.stage_layers
    assert first > second
    assert plan.inputs.device.name == spread_of(plan).kind_of(spread_of(plan).binding_rank).device.name


def test_a_shortfall_is_that_of_the_rank_that_lacks_most() -> None:
    result = analyze(asked(model="llama-2-70b-chat", num_gpus=2))
    assert isinstance(result, Infeasible)
    assert result.spread is not None
    lacks = [kind.ledger.peak_bytes - kind.budget_bytes for kind in result.spread.kinds]
    assert result.shortfall_bytes == max(lacks) > 0
    assert "on rank" in analysis.to_table(result)


def test_the_search_is_the_best_of_every_split_on_its_own() -> None:
    whole = planned(num_gpus=4, batch_size=4)
    speeds = []
    for parts in (1, 3):  # nine heads do not divide by two or four
        try:
            speeds.append(planned(num_gpus=4, batch_size=4, tensor_parallel=parts).estimate.throughput.value)
        except InputError:
            assert parts == 3
    assert whole.estimate.throughput.value == max(speeds)
    by_split = planned(num_gpus=3, batch_size=4)
    best = max(planned(num_gpus=3, batch_size=4, tensor_parallel=parts).estimate.throughput.value for parts in (1, 3))
    assert by_split.estimate.throughput.value == best


def test_every_variant_has_the_bytes_and_the_time_of_its_ranks() -> None:
    question = asked(num_gpus=2, draft="smollm2-135m", batch_size=2, num_speculative_tokens=3)
    groups = all_candidates(question)
    assert len({group.variant.axes["draft_placement"] for group in groups if group.drafter == "draft_model"}) > 2
    for group in groups:
        parallelism = group.variant.parallelism
        assert parallelism is not None
        index = len(group) // 2
        whole = group.scenario_at(index)
        ranks = rank_scenarios(whole, parallelism, [card.device for card in question.cards])
        assert group.peak_bytes[index] == max(MemoryModel(rank).ledger().peak_bytes for rank in ranks)
        timer = SpreadTimer(whole, parallelism, ranks)
        step = timer.step_seconds(group.gamma, group.logits_rows, group.acceptance.draft_rates(group.gamma))[index]
        assert group.tokens_per_s[index] == pytest.approx(2 * group.accepted_lengths[index] / step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gpus": 3, "tensor_parallel": 2}, "--tensor-parallel 2"),
        ({"num_gpus": 4, "tensor_parallel": 2, "pipeline_parallel": 4}, "4 devices are not that many"),
        ({"num_gpus": 2, "tensor_parallel": 2}, "num_attention_heads 9"),
        ({"num_gpus": 0}, "--num-gpus 0"),
        ({"gpu": "rtx-3060,rtx-3090", "num_gpus": 3}, "names 2 devices"),
        ({"num_gpus": 64}, "30 layers"),
        ({"budget": 13 * GIB}, "rtx-3060 has only"),
        ({"gpu": "apple-m2-16gb"}, "no link"),
        ({"gpu": "mi250,rtx-3090", "num_gpus": None}, "several makers"),
        ({"drafter": "mtp"}, "mtp"),
        ({"drafter": "early_exit"}, "early_exit"),
        ({"forward": "transformers"}, "--forward transformers"),
    ],
)
def test_questions_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(**options)


@pytest.mark.parametrize(
    ("knob", "options"),
    [
        ("context", {"tensor_parallel": 3, "num_gpus": 3, "drafter": "none"}),
        ("context", {"gpu": "rtx-3060,t4", "drafter": "ngram"}),
        ("batch_size", {"num_gpus": 3, "drafter": "ngram", "context": 256}),
    ],
)
def test_what_solve_finds_is_the_largest_at_which_analyze_finds_a_plan(knob: str, options: dict[str, Any]) -> None:
    asked_for = {"model": "smollm2-135m", "gpu": "rtx-3060", "num_gpus": None, "budget": 900 << 20, **options}
    bound = solve(solve_options(knob, **asked_for), KNOBS[knob]).best
    assert bound.parallelism is not None
    assert bound.left_bytes is not None
    assert bound.shortfall_bytes is not None
    assert bound.left_bytes >= 0 < bound.shortfall_bytes
    gamma = {} if options["drafter"] == "none" else {"num_speculative_tokens": 1}
    for value, fits in ((bound.value, True), (bound.value + 1, False)):
        assert isinstance(analyze(ask(**asked_for | gamma | {knob: value})), Plan) == fits
    assert sum(num_bytes for _, num_bytes in bound.growth()) == bound.left_bytes + bound.shortfall_bytes


def test_solve_says_which_rank_decides_and_how_models_are_spread() -> None:
    answer = run(
        "solve", "--for", "context", "--model", "llama-2-70b-chat", "--gpu", "h100-80gb", "--num-gpus", "2",
        "--pipeline-parallel", "2", "--drafter", "ngram",
    )  # fmt: skip
    assert answer.exit_code == 0
    assert "2 devices, 2 stages of 40 layers" in answer.output
    assert "on rank" in answer.output


@pytest.mark.parametrize(
    ("layers", "room", "taken", "expected"),
    [
        (10, [2.0, 1.0, 1.0], [0.0, 0.0, 0.0], (6, 2, 2)),
        (3, [9.0, 1.0, 1.0], [0.0, 0.0, 0.0], (1, 1, 1)),
        (12, [1.0, 1.0, 1.0], [0.0, 0.0, 3.0], (5, 5, 2)),
    ],
)
def test_stages_are_filled_evenly(
    layers: int, room: list[float], taken: list[float], expected: tuple[int, ...]
) -> None:
    assert filled_layers(layers, room, taken) == expected


def test_heads_make_the_last_stage_shorter_where_memory_is_short() -> None:
    question = asked(model="llama-2-70b-chat", gpu="mi250", num_gpus=8, context=2048, drafter="medusa", batch_size=8)
    plan = analyze(dataclasses.replace(question, prefer="smallest"))
    assert isinstance(plan, Plan)
    even = analyze(
        dataclasses.replace(
            question,
            prefer="smallest",
            space=dataclasses.replace(question.space, splits=((1, (10,) * 8),)),
        )
    )
    assert isinstance(even, Plan)
    assert plan.marks.keeps.bytes < even.marks.keeps.bytes


def test_processes_of_one_host_share_it() -> None:
    plan = planned(gpu="cpu-generic", num_gpus=3, tensor_parallel=3)
    host = device_profile("cpu-generic")
    assert plan.inputs.budget_bytes == int(host.memory_bytes.value) // 3
    assert "process" in plan.ledger.by_name()


def test_a_larger_model_needs_more_cards() -> None:
    target = resolve_model("llama-2-70b-chat")
    fits = [
        isinstance(analyze(ask(model=target, gpu="l40s", num_gpus=count, drafter="none", context=2048)), Plan)
        for count in (2, 4, 8)
    ]
    assert fits == [False, True, True]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments)


def test_text_and_json_show_every_rank(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    base = ("analyze", "--model", "smollm2-135m", "--gpu", "rtx-3060", "--num-gpus", "3", "--pipeline-parallel", "3")
    answer = run(*base, "--context", "256", "--output", str(path))
    assert answer.exit_code == 0
    for text in ("rank 0", "rank 1", "rank 2", "tied table", "3 stages of 10 layers", "binds"):
        assert text in answer.output
    data = json.loads(run(*base, "--context", "256", "--format", "json").stdout)
    assert [kind["ranks"] for kind in data["spread"]["kinds"]] == [[0], [1], [2]]
    assert data["peak_bytes"] == max(
        sum(item["bytes"] for item in kind["ledger"]["items"] if item["phase"] == "resident")
        + max(
            sum(item["bytes"] for item in kind["ledger"]["items"] if item["phase"] == phase)
            for phase in ("prefill_target", "verify", "draft")
        )
        for kind in data["spread"]["kinds"]
    )
    explained = run("explain", "--plan", str(path), "--rank", "1", "target.weights", "--format", "json")
    weights = json.loads(explained.stdout)["items"][0]["bytes"]
    assert weights == planfile.load(path).seen_from(1).ledger.by_name()["target.weights"].bytes
    assert run("check", str(path)).exit_code == 0
    assert "ranks 0 to 2" in run("verify", str(path)).output
    unequal = tmp_path / "unequal.json"
    planfile.save(planned(gpu="rtx-3090,rtx-3060", num_gpus=None), unequal)
    checked = run("check", str(unequal))
    assert checked.exit_code == 0
    assert "rank 1, which binds" in checked.output
    for arguments, message in (
        (("explain", "--plan", str(path), "--rank", "3"), "ranks 0 to 2"),
        (("explain", "--rank", "0"), "--rank needs --plan"),
        (("run", str(path), "--prompt", "a"), "a profile has no weights here"),
        (("export", str(path), "--engine", "vllm"), "does not speculate over 3 stages"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, InputError)
        assert message in str(error)
