"""Batch jobs and chats that were killed: nothing finished is lost, nothing is written twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bench.kill import problems
from specplan.cli.main import cli
from specplan.errors import InputError
from specplan_runtime import journal as journals
from specplan_runtime import session
from specplan_runtime.chat import _first_kept
from specplan_runtime.journal import Journal, job_id
from specplan_runtime.text import Tokenizer
from specplan_runtime.transcript import load_transcript, save_transcript
from tests.cli_helpers import llama_folder

PROMPTS = [" ".join("abcdefghijklmnop"[start : start + 3]) for start in range(9)]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def invoke(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command; errors of the product come out as exceptions."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, standalone_mode=False)


def opened(output: Path, num_prompts: int = 3) -> dict[int, journals.Result]:
    """What a journal holds."""
    journal = Journal(output, "j", num_prompts)
    journal.close()
    return journal.results


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, uncapped: None) -> Path:
    folder = tmp_path_factory.mktemp("job")
    model, path = llama_folder(folder / "model", chat_template=TEMPLATE), folder / "plan.json"
    options = ("--gpu", "cpu-generic", "--context", 64, "--drafter", "ngram", "--batch-size", 2, "-o", path)
    assert invoke("analyze", "--model", model, *options).exit_code == 0
    return path


@pytest.fixture(scope="module")
def prompts(plan: Path) -> Path:
    path = plan.parent / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


@pytest.fixture(scope="module")
def expected(plan: Path, prompts: Path) -> list[str]:
    result = invoke("run", plan, "--prompts", prompts, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(len(PROMPTS)))
    return lines


def run_job(plan: Path, prompts: Path, output: Path, *more: object) -> Result:
    return invoke("run", plan, "--prompts", prompts, "--max-new-tokens", 6, "-o", output, *more)


def test_a_job_writes_what_stdout_would_have(plan: Path, prompts: Path, expected: list[str], tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    assert run_job(plan, prompts, output).exit_code == 0
    assert output.read_text().splitlines() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", ".results.jsonl.done"}


def test_a_finished_job_loads_nothing(
    plan: Path, prompts: Path, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results.jsonl"
    assert run_job(plan, prompts, output).exit_code == 0
    monkeypatch.setattr(session, "Engine", None)
    again = run_job(plan, prompts, output)
    assert again.exit_code == 0, again.stderr
    assert f"{len(PROMPTS)} of {len(PROMPTS)} prompts were done before" in again.stderr
    assert output.read_text().splitlines() == expected


def test_a_job_that_was_killed_on_its_way_out_is_not_done_again(tmp_path: Path) -> None:
    results = [journals.Result(index, f"text {index}", 2, "stop") for index in range(3)]

    def finish(name: str) -> Journal:
        journal = Journal(tmp_path / "out", name, 3)
        found = dict(journal.results)
        for result in results:
            if result.index not in found:
                journal.add(result)
        journal.finish()
        assert not journal.path.exists()
        journal.results = found
        return journal

    assert finish("j").results == {}
    written = (tmp_path / "out").read_bytes()
    assert list(finish("j").results.values()) == results
    assert (tmp_path / "out").read_bytes() == written
    assert finish("another").results == {}
    assert finish("j").results == {}
    (tmp_path / "out").write_bytes(written[:-2])  # no longer what the job wrote
    assert finish("j").results == {}
    (tmp_path / "out").unlink()
    assert finish("j").results == {}
    assert (tmp_path / "out").read_bytes() == written


_KILLED = """
import os, signal, sys
from specplan_runtime import journal
add, left = journal.Journal.add, int(sys.argv[1])
def counting(self, result):
    global left
    if left == 0:  # in the middle of a line
        self._file.write(b'{"index": 7, "te')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    add(self, result)
journal.Journal.add = counting
from specplan.cli.main import cli
cli(sys.argv[2:])
"""


def _environment() -> dict[str, str]:
    root = Path(__file__).parent.parent
    return os.environ | {"PYTHONPATH": f"{root}:{root / 'runtime'}"}


@pytest.mark.parametrize("finished", [0, 1, 4, 8])
def test_a_killed_job_goes_on(
    finished: int, plan: Path, prompts: Path, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results.jsonl"
    arguments = ["run", plan, "--prompts", prompts, "--max-new-tokens", "6", "-o", output]
    command = [sys.executable, "-c", _KILLED, str(finished), *map(str, arguments)]
    assert subprocess.run(command, capture_output=True, env=_environment()).returncode == -signal.SIGKILL
    assert not output.exists()
    added: list[int] = []
    add = Journal.add

    def counting(self: Journal, result: journals.Result) -> None:
        added.append(result.index)
        add(self, result)

    monkeypatch.setattr(Journal, "add", counting)
    result = run_job(plan, prompts, output)
    assert result.exit_code == 0, result.stderr
    assert len(added) == len(set(added)) == len(PROMPTS) - finished
    assert (f"{finished} of {len(PROMPTS)} prompts were done before" in result.stderr) == (finished > 0)
    assert output.read_text().splitlines() == expected


def test_a_sampled_job_goes_on_with_its_own_numbers(plan: Path, prompts: Path, tmp_path: Path) -> None:
    sampling = ("--temperature", 2.0, "--static")
    assert run_job(plan, prompts, tmp_path / "whole.jsonl", *sampling).exit_code == 0
    expected = (tmp_path / "whole.jsonl").read_text().splitlines()
    output = tmp_path / "results.jsonl"

    class Stopped(Exception):
        pass

    def killed(self: Journal) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", killed)
        assert isinstance(run_job(plan, prompts, output, *sampling).exception, Stopped)
    lines = (tmp_path / "results.jsonl.part").read_text().splitlines()
    for kept in (1, 4, 7):
        (tmp_path / "results.jsonl.part").write_text("\n".join([lines[0], *lines[3 : 3 + kept]]) + "\n")
        assert run_job(plan, prompts, output, *sampling).exit_code == 0
        assert output.read_text().splitlines() == expected


def test_another_job_is_refused(plan: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    done = journals.result_line(journals.Result(0, "a", 1, "stop"))
    (tmp_path / "results.jsonl.part").write_text(f'{{"version": 1, "job": "of something else"}}\n{done}\n')
    result = run_job(plan, prompts, output)
    assert isinstance(result.exception, InputError)
    assert "another plan, other prompts or settings" in str(result.exception)
    assert not output.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"[1]\n",
        b'{"version": 1}\n',
        b'{"version": 1, "job": "j"}\n{"index": 99}\n',
        b"\xff\n",
    ],
)
def test_a_damaged_journal_is_refused_or_started(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.part").write_bytes(content)
    if content == b"":
        assert opened(tmp_path / "out") == {}
    else:
        with pytest.raises(InputError, match=r"out\.part"):
            opened(tmp_path / "out")


@given(st.lists(st.integers(0, 5), unique=True), st.integers(0, 300))
def test_every_cut_keeps_the_lines_before_it(order: list[int], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "out"
        journal = Journal(output, "j", 6)
        results = [journals.Result(index, f"text {index} é", index, "stop") for index in order]
        for result in results:
            journal.add(result)
        journal.close()
        content = journal.path.read_bytes()
        kept = content[: max(content.index(b"\n") + 1, min(cut, len(content)))]
        journal.path.write_bytes(kept)
        assert list(opened(output, 6).values()) == results[: kept.count(b"\n") - 1]


def test_jobs_differ_by_plan_prompts_and_settings() -> None:
    ids = {job_id(*parts) for parts in (("p", ["a"], 1), ("q", ["a"], 1), ("p", ["b"], 1), ("p", ["a"], 2))}
    assert len(ids) == 4


def test_a_job_that_finished_nothing_blocks_no_other(plan: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl.part").write_text('{"version": 1, "job": "of something else"}\n')
    assert run_job(plan, prompts, tmp_path / "results.jsonl").exit_code == 0


def test_prompts_are_not_written_over(plan: Path, prompts: Path) -> None:
    assert isinstance(run_job(plan, prompts, prompts).exception, InputError)
    assert len(prompts.read_text().splitlines()) == len(PROMPTS)


def test_output_is_for_prompts_only(plan: Path, prompts: Path, tmp_path: Path) -> None:
    for arguments in (("--prompt", "a b"), ("--prompts", prompts, "--baseline")):
        result = invoke("run", plan, *arguments, "-o", tmp_path / "x")
        assert isinstance(result.exception, InputError)
        assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ chats


def talk(plan: Path, stdin: str, *more: object) -> Result:
    return invoke("run", plan, "--chat", "--max-new-tokens", 4, *more, stdin=stdin)


def test_a_chat_is_taken_up_again(plan: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    assert talk(plan, "a b\nc d\ne f\n", "--transcript", whole).exit_code == 0
    assert talk(plan, "a b\n", "--transcript", parts).exit_code == 0
    assert len(load_transcript(parts)) == 2
    result = talk(plan, "c d\ne f\n", "--transcript", parts)
    assert result.exit_code == 0
    assert "1 turns taken up" in result.stderr
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([], [], ""),
        (["a"], ["a", "b"], ""),
        (["a", "b"], ["b"], "lost: a"),
        (["a"], ["a", "b", "b"], "repeated"),
        (["a"], ["a", "x"], "differs"),
    ],
)
def test_what_a_kill_did_is_seen(before: list[str], now: list[str], found: str) -> None:
    seen = problems(before, now, ["a", "b", "c"])
    assert len(seen) == bool(found)
    assert found in "".join(seen)


_KILLED_CHAT = """
import os, pathlib, signal, sys
from specplan_runtime import chat
save, left, where = chat.save_transcript, int(sys.argv[1]), sys.argv[2]
def killing(path, messages):
    global left
    left -= 1
    if left == 0:
        if where == 'within':  # all is written, and the name is still that of the old content
            pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        if where != 'before':
            save(path, messages)
        os.kill(os.getpid(), signal.SIGKILL)
    save(path, messages)
chat.save_transcript = killing
from specplan.cli.main import cli
cli(sys.argv[3:])
"""


def test_a_killed_chat_goes_on(plan: Path, tmp_path: Path) -> None:
    """Killed before, within and after the writing of a turn; the questions without an answer are asked again."""
    turns = [f"{letter} b c\n" for letter in "adefghij"]
    whole, path = tmp_path / "whole.json", tmp_path / "chat.json"
    assert talk(plan, "".join(turns), "--transcript", whole).exit_code == 0
    kept = 0
    for saves, where, more in ((2, "before", 1), (1, "within", 0), (2, "after", 2)):
        options = ["run", plan, "--chat", "--max-new-tokens", "4", "--transcript", path]
        command = [sys.executable, "-c", _KILLED_CHAT, str(saves), where, *map(str, options)]
        died = subprocess.run(command, capture_output=True, env=_environment(), input="".join(turns[kept:]).encode())
        assert died.returncode == -signal.SIGKILL
        kept += more
        assert load_transcript(path) == load_transcript(whole)[: 2 * kept]
    assert talk(plan, "".join(turns[kept:]), "--transcript", path).exit_code == 0
    assert path.read_bytes() == whole.read_bytes()


def test_a_sampled_chat_is_taken_up_with_its_own_numbers(plan: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    turns = [f"{letter} b c\n" for letter in "adefghij"]
    options = ("--temperature", 2.0, "--static", "--when-full", "drop", "--transcript")
    assert talk(plan, "".join(turns), *options, whole).exit_code == 0
    for turn in turns:
        assert talk(plan, turn, *options, parts).exit_code == 0
    assert parts.read_bytes() == whole.read_bytes()


def test_a_full_chat_ends_or_forgets(plan: Path) -> None:
    turns = "a b c d e f g h\n" * 9
    stopped = talk(plan, turns)
    assert stopped.exit_code == 0
    assert "the conversation is full" in stopped.stderr
    assert "--when-full drop" in stopped.stderr
    assert len(stopped.stdout.splitlines()) < 9
    dropped = talk(plan, turns, "--when-full", "drop")
    assert dropped.exit_code == 0
    assert len(dropped.stdout.splitlines()) == 9
    assert "0 bytes difference" in dropped.stderr


class CountingTokenizer:
    """Messages take as many tokens as they have letters, and two besides."""

    def __init__(self) -> None:
        self.calls = 0

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        self.calls += 1
        return [0] * (2 + sum(len(message["content"]) for message in messages))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 60), st.integers(-3, 200))
def test_the_fewest_turns_are_forgotten_in_few_looks(sizes: list[int], first: int, most: int) -> None:
    messages = [{"content": "x" * size} for size in sizes[: len(sizes) // 2 * 2] + [3]]
    first = min(2 * first, len(messages) - 1)
    expected = first
    while 2 + sum(len(message["content"]) for message in messages[expected:]) > most and expected < len(messages) - 1:
        expected += 2
    tokenizer = CountingTokenizer()
    assert _first_kept(cast(Tokenizer, tokenizer), messages, first, most) == expected
    assert tokenizer.calls <= 12


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"messages": 3}', '{"messages": [{"role": "assistant", "content": "x"}]}', '{"messages": [7]}'],
)
def test_what_is_no_transcript_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"chat\.json"):
        load_transcript(path)


def test_a_question_without_answer_is_dropped(tmp_path: Path) -> None:
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    save_transcript(tmp_path / "chat.json", messages)
    assert load_transcript(tmp_path / "chat.json") == messages[:2]
    assert load_transcript(tmp_path / "none.json") == []
