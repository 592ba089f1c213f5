"""One model over two processes: the same tokens, the planned bytes, and one message when a rank is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from specplan.parallelism import Parallelism
from specplan_runtime.arena import Arena
from specplan_runtime.distributed.commands import Choose, Command, Compact, Forward, Passes, RunHeads, Stop, decode
from specplan_runtime.engine import Engine
from specplan_runtime.layout import place
from specplan_runtime.span import Span
from specplan_runtime.text import Tokenizer
from specplan_runtime.topology import chain_topology
from tests.rank_helpers import children_of, finish, model_folder, save_plan, start, with_tokenizer, write_prompts
from tests.runtime_helpers import perturbed, plan_for, serve, spread_over, variant

PROMPTS = ["a b a b a", "c d e f g h i j k", "l m n"]
TENSOR, STAGES = Parallelism(2, (4,)), Parallelism(1, (3, 1), draft_rank=1)
NEW_TOKENS = 12
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
#: Split, drafter, batch.
RUNS = {
    "tensor ranks, prompts of different lengths": (Parallelism(2, (4,), 1, "split"), "draft_model", 3),
    "stages, one micro-batch after the other": (Parallelism(1, (3, 1), 2, draft_rank=1), "ngram", 3),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def drafting(model: Path, drafter: str) -> dict[str, Any]:
    """Options of a plan; a draft model is right some of the time."""
    options: dict[str, Any] = {"drafter": drafter, "num_speculative_tokens": 3}
    if drafter == "draft_model":
        options["draft"] = with_tokenizer(perturbed(model, 0.02), model)
    return options


def of_one_process(model: Path, options: dict[str, Any]) -> list[str]:
    """What one process says."""
    plan = plan_for(model, dtype="float32", kv_dtype="float32", **options)
    tokenizer = Tokenizer(plan.inputs.target)
    tokens = serve(Engine(plan), [tokenizer.encode_prompt(prompt, raw=True) for prompt in PROMPTS], NEW_TOKENS)
    return [tokenizer.decode(new) for new in tokens]


@pytest.mark.parametrize("run", RUNS)
def test_ranks_say_what_one_process_says_in_the_planned_bytes(model: Path, run: str, tmp_path: Path) -> None:
    parallelism, drafter, batch_size = RUNS[run]
    options = drafting(model, drafter) | {"batch_size": batch_size}
    plan, output, report = tmp_path / "plan.json", tmp_path / "out.jsonl", tmp_path / "report.json"
    save_plan(plan, model, parallelism, **options)
    prompts = write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    flags = ("--raw", "--static", "--max-new-tokens", NEW_TOKENS, "--output", output, "--report", report)
    code, _, err = finish(start("specplan", "run", plan, "--prompts", prompts, *flags))
    assert code == 0, err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["text"] for line in lines] == of_one_process(model, options)
    data = json.loads(report.read_text())
    assert data["owned_difference_bytes"] == 0
    assert [rank["rank"] for rank in data["ranks"]] == [0, 1]
    for rank in data["ranks"]:
        assert rank["owned_planned_bytes"] == rank["owned_measured_bytes"] > 0
        assert len(rank["ledger"]) > 10
    lines = [line.split() for line in err.splitlines() if line.startswith("rank ")]
    assert [(line[1], "0" in line) for line in lines] == [("0", True), ("1", True)]
    assert drafter == "ngram" or data["speculative"]["num_accepted_tokens"] > 5


def test_a_killed_rank_ends_the_job_with_one_line_and_keeps_what_is_finished(model: Path, tmp_path: Path) -> None:
    plan, output = tmp_path / "plan.json", tmp_path / "out.jsonl"
    save_plan(plan, model, STAGES, **drafting(model, "ngram"))
    prompts = write_prompts(tmp_path / "prompts.jsonl", PROMPTS * 400)
    process = start("specplan", "run", plan, "--prompts", prompts, "--raw", "--output", output)
    part = output.with_name("out.jsonl.part")
    while not part.exists() or part.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()
    first, second = children_of(process.pid)
    os.kill(first, signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 2
    assert err.splitlines()[-1] == "specplan: error: rank 0 of 2 was ended by SIGKILL: the others ended too"
    assert err.count("error") == 1
    assert len(part.read_text().splitlines()) >= 3
    assert not Path(f"/proc/{second}").exists()


def test_a_wrong_number_of_processes_is_refused_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    save_plan(plan, model, TENSOR, **drafting(model, "ngram"))
    code, out, err = finish(start("specplan_runtime", plan, "--prompt", "a", RANK="0", WORLD_SIZE="3"))
    assert (code, out) == (2, "")
    assert err == "specplan: error: the plan is for 2 ranks, 3 processes were started\n"


def test_ranks_with_different_plans_or_without_weights_are_refused(model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "plan.json", tmp_path / "other.json"]
    for path, context in zip(paths, (64, 80), strict=True):
        save_plan(path, model, TENSOR, context=context, **drafting(model, "ngram"))

    def ranks(plans: list[Path], where: str, *flags: object) -> list[tuple[int, str, str]]:
        started: list[subprocess.Popen[str]] = [
            start(
                "specplan_runtime", plan, "--prompt", "a", "--raw", *flags,
                RANK=str(rank), WORLD_SIZE="2", SPECPLAN_RENDEZVOUS=f"file://{tmp_path}/{where}",
            )
            for rank, plan in enumerate(plans)
        ]  # fmt: skip
        return [finish(process) for process in started]

    (code, _, err), other = ranks(paths, "unequal")
    assert (code, err) == (2, "specplan: error: rank 1 was given another plan than rank 0\n")
    assert other == (3, "", "")
    (model / "model.safetensors").rename(model / "hidden")
    try:
        (code, _, err), other = ranks([paths[0]] * 2, "missing")
    finally:
        (model / "hidden").rename(model / "model.safetensors")
    assert code == 2
    assert "no model.safetensors" in err
    assert other == (3, "", "")


def test_ctrl_c_ends_the_answer_of_a_chat_and_not_the_chat(tmp_path: Path) -> None:
    model, plan = model_folder(tmp_path / "model", chat_template=TEMPLATE, eos_token_id=None), tmp_path / "plan.json"
    save_plan(plan, model, STAGES, context=400, **drafting(model, "ngram"))
    transcript = tmp_path / "chat.json"
    flags = ("--chat", "--max-new-tokens", 150, "--transcript", transcript)
    process = start("specplan", "run", plan, *flags, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a b\n")
    process.stdin.flush()
    began = os.read(process.stdout.fileno(), 4).decode()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate("c d\n", timeout=120)
    assert process.returncode == 0, err
    assert "[stopped]" in err
    answers = [message["content"] for message in json.loads(transcript.read_text())["messages"][1::2]]
    assert (began + out).splitlines() == answers
    assert [bool(answer) for answer in answers] == [True, True]


SPLITS = [
    Parallelism(2, (4,)),
    Parallelism(1, (1, 3), draft_rank=1),
    Parallelism(2, (1, 1, 2), draft_rank=4),
    Parallelism(4, (2, 2), 1, "split"),
    Parallelism(1, (2, 1, 1), 2, "replicated"),
    Parallelism(2, (2, 2), 3, "rank", 0),
]


@pytest.mark.parametrize("parallelism", SPLITS, ids=Parallelism.describe)
@pytest.mark.parametrize("drafter", ["ngram", "draft_model"])
@pytest.mark.parametrize("family", ["llama-gqa", "qwen2-tied", "gemma2", "qwen3-moe"])
def test_every_rank_places_its_ledger(parallelism: Parallelism, drafter: str, family: str) -> None:
    folder = variant(family, num_hidden_layers=4, num_key_value_heads=2)
    plan = spread_over(plan_for(folder, **drafting(folder, drafter), batch_size=5), parallelism)
    for rank in range(parallelism.num_ranks):
        own = plan.seen_from(rank)
        arena = Arena()
        place(own, arena)
        planned = {item.name: item.bytes for item in own.ledger.owned_items() if item.name != "kernel_output"}
        assert {name: num for name, num in arena.bytes_by_item.items() if num} == {
            k: v for k, v in planned.items() if v
        }


def test_commands_survive_their_encoding() -> None:
    topology = chain_topology(3)
    span = Span([[1, 2, 3], [4, 5, 6]], [7, 0], None, frozenset({1}), topology, 0)
    commands: list[Command] = [
        Forward(1, "verify", span, None),
        Forward(0, "prefill_target", Span([[9] * 5], [3], 1), 2),
        Forward(0, "verify", Span([[1, 2, 3], [], [4]], [7, 0, 5], None, frozenset({1})), None),
        Choose(0, "draft", [2, 5], 2, 29, sampled=False),
        Choose(0, "verify", None, 6, None, sampled=True),
        Passes((Forward(0, "verify", span, None), Forward(0, "verify", Span([[9] * 5], [3], 1), None)), True),
        Passes((Forward(0, "prefill_target", span, None),), None),
        Compact(1, 2, 30, [1, 4]),
        RunHeads(),
        Stop(),
    ]
    for command in commands:
        assert decode(command.code, command.encode(), topology) == command
