"""The command line as users meet it: what goes where, exit codes, and what is never imported."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from specplan import planfile
from specplan.cli.main import entry_point
from tests.cli_helpers import llama_folder

ROOT = Path(__file__).parent.parent


def specplan(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "specplan", *arguments], capture_output=True, text=True, env=environment, input=stdin
    )


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one line on stderr that names the matter, no traceback, nothing on stdout."""
    assert result.returncode == 2, result
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("specplan: error: ")
    assert "\t" not in lines[0]
    assert all(word in lines[0] for word in words), lines[0]
    assert result.stdout == ""


def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """``specplan`` without a process of its own: how the command line ended."""
    monkeypatch.setattr(sys, "argv", ["specplan", *arguments])
    with pytest.raises(SystemExit) as end:
        entry_point()
    captured = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return subprocess.CompletedProcess(list(arguments), end.value.code, captured.out, captured.err)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plan(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    result = specplan(
        "analyze",
        "--model",
        str(model),
        "--gpu",
        "cpu-generic",
        "--drafter",
        "ngram",
        "--context",
        "64",
        "-o",
        str(path),
    )
    assert result.returncode == 0, result.stderr
    return path


def imported(*arguments: str) -> set[str]:
    """Top-level modules that a command imports."""
    code = "import sys\nfrom specplan.cli.main import entry_point\nsys.argv=['specplan',*sys.argv[1:]]\n"
    code += "try: entry_point()\nexcept SystemExit: pass\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    return set(result.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], {"torch", "sympy", "numpy", "transformers"}),
        (["analyze", "--help"], {"torch", "sympy", "numpy"}),
        (["run", "--help"], {"torch", "sympy", "numpy"}),
        (["solve", "--help"], {"torch", "sympy", "numpy"}),
        (["explain", "--help"], {"torch", "sympy", "numpy"}),
        (
            ["analyze", "--model", "llama-2-7b-chat", "--gpu", "t4"],
            {"torch", "transformers", "gguf", "huggingface_hub"},
        ),
        (["check", "PLAN"], {"torch", "sympy", "transformers"}),
    ],
)
def test_commands_import_only_what_they_need(arguments: list[str], forbidden: set[str], plan: Path) -> None:
    found = imported(*[str(plan) if argument == "PLAN" else argument for argument in arguments])
    assert "click" in found
    assert not found & forbidden


def test_analyze_json_has_what_was_promised() -> None:
    result = specplan(
        "analyze", "--model", "llama-2-7b-chat", "--draft", "llama-68m", "--gpu", "RTX 4090", "--format", "json"
    )
    assert result.returncode == 0
    data = json.loads(result.stdout)
    assert data["fits"] is True
    items = {item["name"]: item for item in data["ledger"]["items"]}
    assert items["target.weights"]["bytes"] == 13_476_831_232
    assert set(items["target.weights"]) == {"name", "bytes", "owner", "phase", "formula_id", "source"}
    resident = sum(item["bytes"] for item in items.values() if item["phase"] == "resident")
    phases = {item["phase"] for item in items.values()} - {"resident"}
    workspaces = [sum(item["bytes"] for item in items.values() if item["phase"] == phase) for phase in phases]
    assert data["peak_bytes"] == resident + max(workspaces)
    for mark in ("decodes", "speculates", "keeps", "fastest"):
        assert set(data["marks"][mark]) == {"bytes", "speculation", "workload", "throughput", "binding"}
    for name in (
        "mean_accepted_length",
        "throughput",
        "baseline_throughput",
        "tokens_per_s",
        "baseline_tokens_per_s",
        "speedup",
    ):
        assert set(data["estimate"][name]) == {"value", "source", "reference"}
    assert data["estimate"]["alpha"]["source"] == "assumed"
    assert data["device"]["name"] == "rtx-4090"
    assert data["inputs"]["target"]["reference"] == "llama-2-7b-chat"


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_analyze_for_people(form: str) -> None:
    result = specplan("analyze", "--model", "qwen2.5-0.5b", "--gpu", "l4", "--format", form)
    assert result.returncode == 0
    assert "target.weights" in result.stdout
    assert "988 065 536" in result.stdout
    assert "assumed" in result.stdout
    assert ("|--" in result.stdout or "|:-" in result.stdout) == (form == "markdown")


def test_analyze_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = specplan("analyze", "--model", "llama-2-70b-chat", "--gpu", "rtx-4090", "-o", str(path))
    assert result.returncode == 1
    assert "Does not fit" in result.stdout
    assert not path.exists()
    data = json.loads(
        specplan("analyze", "--model", "llama-2-70b-chat", "--gpu", "rtx-4090", "--format", "json").stdout
    )
    assert data["fits"] is False
    assert data["shortfall_bytes"] == data["peak_bytes"] - data["inputs"]["budget_bytes"]


def test_a_plan_is_valid_under_its_schema(plan: Path) -> None:
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    data = json.loads(plan.read_text())
    validator.validate(data)
    assert list(validator.iter_errors({**data, "surprise": 1}))
    assert list(validator.iter_errors({key: value for key, value in data.items() if key != "ledger"}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyze", "--gpu", "t4"], ["--model"]),
        (["analyze", "--model", "nothing-here", "--gpu", "t4"], ["nothing-here"]),
        (["analyze", "--model", "./nothing.gguf", "--gpu", "t4"], ["nothing.gguf"]),
        (["analyze", "--model", "llama-68m", "--gpu", "rtx 4091"], ["rtx 4091", "rtx-4090"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--dtype", "float3"], ["float3", "float16"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--dtype", "hqq"], ["hqq", "nf4", "awq-int4", "stored"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--dtype", "stored"], ["--dtype stored", "not quantized"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--dtype", "mxfp4"], ["--dtype mxfp4", "mxfp4-packed"]),
        (["analyze", "--model", "gpt-oss-20b", "--gpu", "t4", "--dtype", "nf4"], ["--dtype nf4", "stored as mxfp4"]),
        (["analyze", "--model", "llama-68m", "--draft", "llama-68m", "--gpu", "t4", "--draft-dtype", "q5"],
         ["--draft-dtype", "'q5'", "nf4"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--kv-dtype", "int2"], ["int2"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--budget", "lots"], ["lots"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--context", "0"], ["--context 0"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--alpha", "1.5"], ["--alpha"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--drafter", "hydra"], ["hydra"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--drafter", "draft_model"], ["--draft"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--draft", "qwen2.5-0.5b"], ["vocab_size"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--frobnicate"], ["frobnicate"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "-o", "/nowhere/at/all/plan.json"], ["/nowhere/at/all"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--budget", "1TiB"], ["--budget", "t4"]),
        (["analyze", "--model", "", "--gpu", "t4"], ["empty"]),
        (["analyze", "--model", "llama-68m", "--gpu", "t4", "--drafter", "none", "--num-speculative-tokens", "2"],
         ["--num-speculative-tokens"]),
        (["check", "no-plan.json"], ["no-plan.json"]),
        (["run", "no-plan.json", "--prompt", "x"], ["no-plan.json"]),
        (["run", "no-plan.json"], ["--prompt", "--chat"]),
        (["explain", "no-such-item"], ["no-such-item"]),
        (["pull", "no-such-weights"], ["no-such-weights"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)  # fmt: skip
def test_wrong_things_get_one_line(arguments: Sequence[str], words: Sequence[str]) -> None:
    result = specplan(*arguments)
    assert "Traceback" not in result.stderr
    if "-o" in arguments:  # the answer is on stdout only once the plan is safe
        assert result.returncode == 2
        assert all(word in result.stderr for word in words)
        assert result.stdout == ""
    else:
        refused(result, *words)


def test_check_says_yes_and_no(plan: Path, model: Path, tmp_path: Path) -> None:
    assert specplan("check", str(plan)).returncode == 0
    other_kind = specplan("check", str(plan), "--gpu", "t4")
    refused(other_kind, "cannot tell", "t4")
    data = json.loads(specplan("check", str(plan), "--format", "json").stdout)
    assert data["fits"] is True
    big = tmp_path / "big.json"
    made = specplan("analyze", "--model", "llama-2-7b-chat", "--gpu", "a100-80gb", "-o", str(big))
    assert made.returncode == 0
    too_small = specplan("check", str(big), "--gpu", "t4")
    assert too_small.returncode == 1
    assert "does-not-fit" in too_small.stdout


def test_check_notices_a_changed_model(tmp_path: Path) -> None:
    folder, plan = llama_folder(tmp_path / "model"), tmp_path / "plan.json"
    made = specplan("analyze", "--model", str(folder), "--gpu", "cpu-generic", "--context", "32", "-o", str(plan))
    assert made.returncode == 0
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 12345.0, "rope_parameters": None}))
    result = specplan("check", str(plan))
    assert result.returncode == 1
    assert "stale" in result.stdout
    (folder / "config.json").unlink()
    refused(specplan("check", str(plan)), "cannot tell", "config.json")


def test_check_notices_a_plan_of_other_formulas(plan: Path, tmp_path: Path) -> None:
    made = dataclasses.replace(planfile.load(plan), code_sha256="0" * 64)
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    planfile.save(made, same)
    assert specplan("check", str(same)).returncode == 0
    items = [dataclasses.replace(i, bytes=i.bytes + 256 * (i.name == "verify.mask")) for i in made.ledger.items]
    planfile.save(dataclasses.replace(made, ledger=dataclasses.replace(made.ledger, items=tuple(items))), other)
    result = specplan("check", str(other))
    assert result.returncode == 1
    assert "stale: was made by other code of specplan, whose verify.mask was another" in result.stdout


def test_run_ends_with_the_ledger_and_a_report(plan: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--prompt", "a b c a b c", "--max-new-tokens", "12", "--baseline", "--report", str(report)]
    result = specplan("run", str(plan), *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "planned = measured" in result.stderr
    assert "0 bytes difference" in result.stderr
    assert "the same tokens" in result.stderr
    data = json.loads(report.read_text())
    assert data["owned_difference_bytes"] == 0
    assert data["baseline_equal"] is True
    assert data["speculative"]["mean_accepted_length"] >= 1


def test_run_answers_files_in_order(plan: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a b"}\n\n{"turns": ["c d e", "f"]}\n{"prompt": "a"}\n')
    result = specplan("run", str(plan), "--prompts", str(prompts), "--max-new-tokens", "5")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert all(line["finish_reason"] in ("stop", "length") for line in lines)


def test_run_refuses_bad_prompts(plan: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"nothing": 1}\n')
    refused(specplan("run", str(plan), "--prompts", str(prompts)), "prompts.jsonl:2")
    refused(specplan("run", str(plan), "--prompt", "a b c " * 200), "context is 64")
    refused(specplan("run", str(plan), "--prompt", "a", "--temperature", "-1"), "--temperature")
    refused(specplan("run", str(plan), "--prompt", "a", "--temperature", "1e-38"), "--temperature")
    refused(specplan("run", str(plan), "--prompt", "a", "--report", "/nowhere/report.json"), "--report")


def test_a_file_that_is_no_plan_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"GGUF and more")
    refused(specplan("analyze", "--model", "llama-68m", "--gpu", "t4", "-o", str(path)), "not overwritten")
    assert path.read_bytes() == b"GGUF and more"


def test_run_refuses_a_plan_for_another_model(plan: Path, tmp_path: Path) -> None:
    other = llama_folder(tmp_path / "other", hidden_size=48)
    refused(specplan("run", str(plan), "--prompt", "a", "--model", str(other)), "hidden_size", "not the model")


def test_run_refuses_a_profile_without_weights(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    specplan("analyze", "--model", "llama-68m", "--gpu", "cpu-generic", "--context", "64", "-o", str(plan))
    refused(specplan("run", str(plan), "--prompt", "a"), "--model")


def test_a_budget_too_small_is_refused_before_loading(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    arguments = ["analyze", "--model", str(model), "--gpu", "cpu-generic", "--context", "64", "--drafter", "none"]
    assert specplan(*arguments, "--budget", "8MiB", "-o", str(plan)).returncode == 1
    assert not plan.exists()


def test_ctrl_c_ends_with_one_line(plan: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "OMP_NUM_THREADS": "1"}
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from specplan_runtime import engine\n"
        "real, calls = engine.Engine.step, []\n"
        "def step(self, params):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(self, params)\n"
        "engine.Engine.step = step\n"
        "from specplan.cli.main import entry_point\n"
        "entry_point()\n"
    )
    report = plan.parent / "interrupted.json"
    command = [sys.executable, "-c", code, "run", str(plan), "--prompt", "a b", "--report", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == "specplan: error: interrupted"
    assert "Traceback" not in result.stderr
    assert not report.exists()


def test_chat_keeps_going_over_turns(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    folder, plan = llama_folder(tmp_path / "chat", chat_template=template), tmp_path / "plan.json"
    specplan(
        "analyze",
        "--model",
        str(folder),
        "--gpu",
        "cpu-generic",
        "--context",
        "64",
        "--drafter",
        "ngram",
        "-o",
        str(plan),
    )
    result = specplan("run", str(plan), "--chat", "--max-new-tokens", "4", stdin="a b\n\nc d\n")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    assert "0 bytes difference" in result.stderr


def test_explain_puts_numbers_in(plan: Path) -> None:
    result = specplan("explain", "target.kv_cache", "--plan", str(plan))
    data = json.loads(plan.read_text())
    expected = next(item["bytes"] for item in data["ledger"]["items"] if item["name"] == "target.kv_cache")
    assert f"{expected:,}".replace(",", " ") in result.stdout
    assert "(k_s + ⌈d*k_b/8⌉)*(2*B*H_k*L_w*S_w + 2*B*H_k*S*(L_a - L_w))" in result.stdout
    assert r"\text{kv\_cache}" in specplan("explain", "kv_cache", "--latex").stdout


def test_every_command_has_help() -> None:
    for command in ("analyze", "solve", "run", "check", "explain", "pull"):
        result = specplan(command, "--help")
        assert result.returncode == 0
        assert "Usage:" in result.stdout
