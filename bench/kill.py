"""Batch jobs and chats killed with SIGKILL at random moments: nothing finished may be lost, repeated or changed.

    python -m bench.kill --model FILE [--kills 50] [--questions 12] [--seed 0] [--sample]

Half of the kills go to jobs (``--prompts`` with ``-o``), half to chats (``--transcript``). What was killed is started
again with the same command, a chat with the questions that its transcript has no answer to. A chat is longer than its
plan's context and forgets turns. After every kill the files are looked at, and what is done in the end is compared with
a run that nobody disturbed. Exits with 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tabulate import tabulate

_SUBJECTS = ("rivers", "bread", "the moon", "prime numbers", "bicycles", "tea", "volcanoes", "chess", "whales", "paper")
_ASKS = (
    "Write two sentences about {}.",
    "List three facts about {}.",
    "Why do people like {}?",
    "Explain {} to a child.",
)
QUESTIONS = [ask.format(subject) for ask in _ASKS for subject in _SUBJECTS]


@dataclass(frozen=True, slots=True)
class Work:
    """Something that can be killed and started again.

    Attributes:
        name: for the table.
        command: gives the command line and its input, by what is done already.
        content: what is finished on disk, in the order in which it was written.
        finished: whether nothing is left to do.
        clear: start over.
    """

    name: str
    command: Callable[[], tuple[list[str], str]]
    content: Callable[[], list[str]]
    finished: Callable[[], bool]
    clear: Callable[[], None]


def problems(before: Sequence[str], now: Sequence[str], expected: Sequence[str]) -> list[str]:
    """What a kill did to the finished lines; ``expected`` are those of an undisturbed run."""
    found = []
    if lost := set(before) - set(now):
        found.append(f"lost: {sorted(lost)[0]}")
    if len(set(now)) != len(now):
        found.append("repeated a line")
    if changed := set(now) - set(expected):
        found.append(f"differs from an undisturbed run: {sorted(changed)[0]}")
    return found


def job(plan: Path, folder: Path, questions: Sequence[str], options: Sequence[str]) -> Work:
    """The questions as a batch job."""
    prompts, output = folder / "prompts.jsonl", folder / "results.jsonl"
    part = output.with_name("results.jsonl.part")
    prompts.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in questions))

    def content() -> list[str]:
        if output.exists() and not part.exists():
            return output.read_text().splitlines()
        text = part.read_text() if part.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()[1:]

    def clear() -> None:
        for path in (output, part, output.with_name(".results.jsonl.done")):
            path.unlink(missing_ok=True)

    command = [*_run(plan, options), "--prompts", str(prompts), "-o", str(output)]
    return Work("job", lambda: (command, ""), content, lambda: output.exists() and not part.exists(), clear)


def chat(plan: Path, folder: Path, questions: Sequence[str], options: Sequence[str]) -> Work:
    """The questions as the turns of one chat, which forgets its oldest ones."""
    transcript = folder / "chat.json"

    def content() -> list[str]:
        messages = json.loads(transcript.read_text())["messages"] if transcript.exists() else []
        pairs = zip(messages[::2], messages[1::2], strict=True)
        return [f"{turn} {one['content']!r} {other['content']!r}" for turn, (one, other) in enumerate(pairs)]

    def command() -> tuple[list[str], str]:
        arguments = [*_run(plan, options), "--chat", "--when-full", "drop", "--transcript", str(transcript)]
        return arguments, "".join(question + "\n" for question in questions[len(content()) :])

    return Work(
        "chat", command, content, lambda: len(content()) == len(questions), lambda: transcript.unlink(missing_ok=True)
    )


def _run(plan: Path, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "specplan", "run", str(plan), *options]


def started(work: Work, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that does what is left of the work."""
    command, text = work.command()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    return process


def killed(work: Work, kills: int, rng: random.Random, log: IO[bytes]) -> Iterator[tuple[bool, list[str]]]:
    """After each kill, and each time the work was done: whether it was a kill, and what was wrong.

    The work starts over when it is done before the last kill.
    """
    expected, first_s, whole_s = _undisturbed(work, log)
    print(f"{work.name}: {whole_s:.1f} s undisturbed, {first_s:.1f} s of them until something was finished", flush=True)
    work.clear()
    left = kills
    while True:
        before = work.content()
        process = started(work, log)
        try:
            code = process.wait(timeout=rng.uniform(first_s / 2, whole_s) if left else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            left -= 1
            yield True, problems(before, work.content(), expected)
            continue
        yield False, [f"exit code {code}"] if code else _compared(work, expected)
        if not left:
            return
        work.clear()


def _compared(work: Work, expected: list[str]) -> list[str]:
    return [] if work.content() == expected else ["the finished work differs from an undisturbed run"]


def _undisturbed(work: Work, log: IO[bytes]) -> tuple[list[str], float, float]:
    """The finished lines, and the seconds until the first of them and until the end."""
    work.clear()
    began, first = time.monotonic(), 0.0
    process = started(work, log)
    while process.poll() is None:
        if not first and work.content():
            first = time.monotonic() - began
        time.sleep(0.02)
    assert process.returncode == 0, "the undisturbed run failed"
    assert work.finished()
    return work.content(), first, time.monotonic() - began


def main() -> None:
    """Kill jobs and chats in turns, print one line for each kill, exit with 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--questions", type=int, default=len(QUESTIONS), choices=range(1, len(QUESTIONS) + 1), metavar="N"
    )
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", action="store_true", help="temperature 1 instead of greedy")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    options = ["--max-new-tokens", str(arguments.tokens)]
    options += ["--static", "--temperature", "1"] if arguments.sample else []
    questions = QUESTIONS[: arguments.questions]
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, log_path = folder / "plan.json", folder / "log"
        analyze = ["--gpu", "local", "--context", str(arguments.context), "--batch-size", "4", "--drafter", "ngram"]
        command = [sys.executable, "-m", "specplan", "analyze", "--model", arguments.model, *analyze, "-o", str(plan)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with log_path.open("wb") as log:
            works = job(plan, folder, questions, options), chat(plan, folder, questions, options)
            for work, kills in zip(works, (arguments.kills // 2, arguments.kills - arguments.kills // 2), strict=True):
                found = list(killed(work, kills, rng, log))
                wrong = [text for _, each in found for text in each]
                left = list(folder.glob(".*.part"))
                rows.append([work.name, kills, sum(not kill for kill, _ in found), len(wrong), len(left)])
                print("\n".join(wrong), end="\n" if wrong else "", flush=True)
                failed = failed or bool(wrong)
        if failed:
            print(log_path.read_text()[-2000:])
    print(tabulate(rows, headers=["work", "kills", "times done", "problems", "temporary files left"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
