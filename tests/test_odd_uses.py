"""Full disks, closed streams, odd names, files named twice: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specplan import user_profiles
from specplan.atomic import check_writable
from specplan.deployments.read import deployment_files
from specplan.errors import BudgetError, EnvironmentProblem, InputError
from specplan_runtime.journal import Journal, Result
from specplan_runtime.session import read_prompts
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.stages import prepare, setting_of
from tests.cli_helpers import llama_folder
from tests.test_cli import ROOT, ended, refused

ANALYZE = ("analyze", "--model", "llama-68m", "--gpu", "t4")
FULL = Path("/dev/full")


def process(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "PYTHONIOENCODING": "latin-1"}
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [sys.executable, "-m", "specplan", *arguments]
    return subprocess.run(command, text=True, env=environment, **where)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_streams_that_take_nothing() -> None:
    with FULL.open("w") as full:
        for arguments in ((*ANALYZE, "--format", "json"), ()):
            result = process(*arguments, stdout=full)
            assert (result.returncode, result.stderr) == (2, "specplan: error: No space left on device\n")
        assert process("--frobnicate", stderr=full).returncode == 2


def test_letters_that_a_terminal_does_not_have() -> None:
    result = process(*ANALYZE)
    assert result.returncode == 0
    assert r"ngram, \u03b3 " in result.stdout


def test_a_name_with_line_breaks_stays_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(ended(monkeypatch, capsys, "explain", "--plan", "a\nb\x1b[2J"), r"a\nb\x1b[2J: no such plan file")


def test_files_that_could_not_be_written_are_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specplan.planner.analyze.analyze", lambda _: pytest.fail("searched"))
    missing, both = str(tmp_path / "none" / "a.svg"), str(tmp_path / "both.svg")
    refused(ended(monkeypatch, capsys, *ANALYZE, "--output", missing), "--output", "none is not there")
    refused(ended(monkeypatch, capsys, *ANALYZE, "--plot", missing), "--plot", "none is not there")
    refused(ended(monkeypatch, capsys, *ANALYZE, "-o", both, "--plot", both), "cannot be both")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(EnvironmentProblem, match=r"--report .*x: .* may not be written to"):
        check_writable(tmp_path / "x", "--report")
    with pytest.raises(EnvironmentProblem, match="may not be written to"):
        user_profiles.prepare(tmp_path / "profiles")
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="cannot make"):
        user_profiles.prepare(tmp_path / "file")


def test_a_plan_goes_through_a_pipe_and_over_a_link_to_itself(tmp_path: Path) -> None:
    result = process(*ANALYZE, "-o", "/dev/stdout")
    assert result.returncode == 0, result.stderr
    assert '"schema_version"' in result.stdout
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert process(*ANALYZE, "-o", str(loop)).returncode == 0
    assert json.loads(loop.read_text())["sha256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompts", "p.jsonl", "--output", "p.jsonl"), ["--output p.jsonl", "file of prompts"]),
        (("--prompts", "p.jsonl", "--report", "plan.json"), ["--report plan.json", "is the plan"]),
        (("--prompts", "p.jsonl", "--output", "x", "--report", "./x"), ["--report x", "is --output"]),
        (("--chat", "--transcript", "plan.json"), ["--transcript plan.json", "is the plan"]),
    ],
)
def test_run_writes_over_nothing_that_it_reads(
    arguments: tuple[str, ...], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"prompt": "a"}\n')
    refused(ended(monkeypatch, capsys, "run", "plan.json", *arguments), *words)


def test_line_breaks_inside_a_prompt_do_not_end_it(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b\x85c"}\r\n\n{"prompt": "d"}\n')
    assert [text for _, text in read_prompts(path)] == ["a\u2028b\x85c", "d"]
    path.write_text('{"prompt": ' + "[" * 100_000)
    with pytest.raises(InputError, match="p.jsonl:1: not JSON"):  # noqa: RUF043
        read_prompts(path)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_disk_that_fills_up_under_a_job_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl", "job", 2)
    journal.add(Result(0, "a", 1, "stop"))
    journal.close()
    journal._file = FULL.open("wb")
    with pytest.raises(EnvironmentProblem, match=r"out\.jsonl\.part: No space left"):
        journal.add(Result(1, "b", 1, "stop"))
    journal.close()
    again = Journal(tmp_path / "out.jsonl", "job", 2)
    again.close()
    assert list(again.results) == [0]


def test_a_training_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    model, prompts = str(llama_folder(tmp_path / "model")), tmp_path / "p.jsonl"
    prompts.write_text("nothing\n")
    with pytest.raises(InputError, match="not JSON"):
        prepare(setting_of(model, tmp_path / "out", TrainOptions(), prompts, "auto", None), resume=False)
    with pytest.raises(BudgetError, match="training needs"):
        prepare(setting_of(model, tmp_path / "out", TrainOptions(new_tokens=1 << 30), None, "auto", None), resume=False)
    assert not (tmp_path / "out").exists()


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    for name in ("serve.sh", "b/serve.sh", ".git/serve.sh", "b/node_modules/x/serve.sh", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in deployment_files([tmp_path])] == ["b/serve.sh", "serve.sh"]
