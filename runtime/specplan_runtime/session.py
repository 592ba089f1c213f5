"""What ``specplan run`` does: one prompt, a file of prompts, or a chat, then the report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from specplan.atomic import check_writable, write_atomically
from specplan.errors import InputError
from specplan.plan import Plan
from specplan.planfile import plan_sha256
from specplan_runtime import budget
from specplan_runtime.chat import chat
from specplan_runtime.distributed.member import follow, joined, leading
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.engine import Engine, Request
from specplan_runtime.journal import Journal, Result, job_id, result_line
from specplan_runtime.report import Pass, Report, measure_items, process_peak_bytes, to_json_data
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.summary import render
from specplan_runtime.text import Tokenizer, check_tokenizers

__all__ = ["RunOptions", "SamplingParams", "run"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of ``specplan run``.

    Attributes:
        prompt: one prompt, or None.
        prompts: a JSONL file, or None.
        chat: read turns from the terminal.
        raw: do not apply the chat template.
        max_new_tokens: per prompt or turn.
        params: how tokens are chosen.
        report: where to write report.json, or None.
        baseline: also decode without speculation.
        static: draft as many tokens as planned in every step.
        output: where the results of ``prompts`` go; a job that was killed goes on with what it holds.
        transcript: where a chat is kept after every turn, and taken up again.
        drop_oldest: a chat that no longer fits forgets its oldest turns instead of ending.
        rank_timeout_s: of several processes, how long the others wait for one.
    """

    prompt: str | None
    prompts: Path | None
    chat: bool
    raw: bool
    max_new_tokens: int
    params: SamplingParams
    report: Path | None
    baseline: bool
    static: bool = False
    output: Path | None = None
    transcript: Path | None = None
    drop_oldest: bool = False
    rank_timeout_s: float = 60.0


def run(plan: Plan, options: RunOptions) -> None:
    """Load a plan, generate, report.

    Raises:
        BudgetError: the plan does not fit this machine.
        InputError: prompts or model files that cannot be used.
    """
    if plan.spread is None:
        _run(plan, options, None)
    else:
        with joined(plan, options.rank_timeout_s, options.chat) as ranks:
            if ranks.decides:
                _run(plan, options, ranks)
            else:
                follow(plan, ranks)


def _run(plan: Plan, options: RunOptions, ranks: Ranks | None) -> None:
    """What the only process does, or the one that decides."""
    with nullcontext() if ranks is None else ranks.together():
        _check(options)
        texts = _read_prompts(options)
        journal = _journal(plan, texts, options)
        tokenizer = Tokenizer(plan.inputs.target)
        check_tokenizers(plan, tokenizer)
        prompts = [tokenizer.encode_prompt(text, options.raw) for text in texts]
    if journal is not None and ranks is None and options.report is None and len(journal.results) == len(prompts):
        with contextlib.closing(journal):
            _say_done(journal, len(prompts))
            _finish(journal, options)  # nothing is loaded for a job that is done
        return
    process_bytes = budget.process_bytes("VmRSS")
    engine = _load(plan if ranks is None else plan.seen_from(ranks.rank), not options.static, ranks)
    with nullcontext(None) if ranks is None else leading(engine, ranks, process_bytes) as others:
        engine.stop_at(tokenizer.eos_token_ids())
        engine.check_prompts(prompts, options.max_new_tokens)
        budget.cap_process(plan, engine.device)
        with budget.refusing_growth(), contextlib.closing(journal) if journal else nullcontext():
            report = _generate(engine, tokenizer, prompts, options, process_bytes, journal)
    if others is not None:
        report = dataclasses.replace(report, ranks=others.measured)
    click.echo("\n" + render(report), err=True, nl=False)
    if options.report is not None:
        write_atomically(options.report, json.dumps(to_json_data(report), indent=2, sort_keys=True) + "\n")
        click.echo(f"report written to {options.report}", err=True)


def _check(options: RunOptions) -> None:
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {options.max_new_tokens}: expected at least 1")
    for option, path in (("--report", options.report), ("--transcript", options.transcript)):
        if path is not None:
            check_writable(path, option)


def _generate(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    options: RunOptions,
    process_bytes: int | None,
    journal: Journal | None,
) -> Report:
    tokens: list[list[int]] = []
    if options.chat:
        chat(engine, tokenizer, options.max_new_tokens, options.params, options.transcript, options.drop_oldest)
    elif journal is not None:
        _decode_rest(engine, tokenizer, prompts, options, journal)
    elif options.prompts is not None:
        tokens = _decode_all(engine, prompts, options, _JsonLines(tokenizer).write)
    else:
        tokens = [_stream_one(engine, tokenizer, prompts[0], options)]
    speculative = Pass(engine.stats, engine.timings)
    baseline, equal = None, None
    if options.baseline:
        engine.reset_counters()
        engine.set_speculating(False)
        plain = _decode_all(engine, prompts, options, lambda index, new, reason: None)
        baseline = Pass(engine.stats, engine.timings)
        equal = plain == tokens if options.params.greedy else None
    return Report(
        engine,
        measure_items(engine, process_bytes),
        process_peak_bytes(engine.device),
        speculative,
        baseline,
        equal,
    )


def _load(plan: Plan, adaptive: bool, ranks: Ranks | None) -> Engine:
    with click.progressbar(length=100, label="loading", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        done = 0

        def progress(fraction: float) -> None:
            nonlocal done
            percent = int(100 * fraction)
            bar.update(percent - done)
            done = percent

        return Engine(plan, progress, adaptive=adaptive, ranks=ranks)


def _stream_one(engine: Engine, tokenizer: Tokenizer, prompt: list[int], options: RunOptions) -> list[int]:
    new: list[int] = []

    def pieces() -> Iterator[list[int]]:
        for emission in engine.serve([Request(0, prompt, options.max_new_tokens)], options.params):
            new.extend(emission.tokens)
            yield emission.tokens

    for text in tokenizer.stream(pieces()):
        click.echo(text, nl=False)
        sys.stdout.flush()
    click.echo()
    return new


_Write = Callable[[int, list[int], str | None], None]


def _decode_all(
    engine: Engine,
    prompts: list[list[int]],
    options: RunOptions,
    write: _Write,
    done: Container[int] = (),
) -> list[list[int]]:
    """Decode all prompts but those that are done; ``write`` is given each one as it finishes."""
    results: list[list[int]] = [[] for _ in prompts]
    rest = (Request(index, prompt, options.max_new_tokens) for index, prompt in enumerate(prompts) if index not in done)
    for emission in engine.serve(rest, options.params):
        results[emission.index] += emission.tokens
        if emission.finish_reason is not None:
            write(emission.index, results[emission.index], emission.finish_reason)
    return results


def _decode_rest(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], options: RunOptions, journal: Journal
) -> None:
    """What an earlier run of the same job left to do, kept on disk prompt by prompt."""
    _say_done(journal, len(prompts))
    bar = click.progressbar(length=len(prompts), label="prompts", file=sys.stderr, hidden=not sys.stderr.isatty())
    with bar:
        bar.update(len(journal.results))

        def keep(index: int, tokens: list[int], reason: str | None) -> None:
            journal.add(Result(index, tokenizer.decode(tokens), len(tokens), reason))
            bar.update(1)

        _decode_all(engine, prompts, options, keep, frozenset(journal.results))
    _finish(journal, options)


def _finish(journal: Journal, options: RunOptions) -> None:
    journal.finish()
    click.echo(f"results written to {options.output}", err=True)


def _say_done(journal: Journal, num_prompts: int) -> None:
    if journal.results:
        click.echo(f"{len(journal.results)} of {num_prompts} prompts were done before", err=True)


def _journal(plan: Plan, texts: list[str], options: RunOptions) -> Journal | None:
    if options.output is None:
        return None
    if options.prompts is None or options.baseline:
        raise InputError("--output is for --prompts without --baseline")
    settings = (options.raw, options.max_new_tokens, options.params)
    return Journal(options.output, job_id(plan_sha256(plan), texts, settings), len(texts))


class _JsonLines:
    """Results as one JSON object per line on stdout, in the order of the prompts, each as soon as it may come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: dict[int, Result] = {}
        self._next = 0

    def write(self, index: int, tokens: list[int], reason: str | None) -> None:
        """One finished prompt."""
        self._waiting[index] = Result(index, self._tokenizer.decode(tokens), len(tokens), reason)
        while (result := self._waiting.pop(self._next, None)) is not None:
            click.echo(result_line(result))
            self._next += 1


def _read_prompts(options: RunOptions) -> list[str]:
    if options.prompt is not None:
        return [options.prompt]
    return [] if options.prompts is None else [text for _, text in read_prompts(options.prompts)]


def read_prompts(path: Path) -> list[tuple[str | None, str]]:
    """The prompts of a JSONL file, each with its ``category`` where it has one.

    Raises:
        InputError: a file without prompts, or a line that is not one; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # strings of JSON may hold other line breaks
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot read prompts: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read prompts: {error.strerror or error}") from None
    found = [_prompt_of(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: no prompts in this file")
    return found


def _prompt_of(line: str, where: str) -> tuple[str | None, str]:
    """Category, and the ``prompt`` of a JSON object or the first of its ``turns``."""
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not JSON") from None
    if isinstance(data, dict):
        turns = data.get("turns")
        prompt = data.get("prompt", turns[0] if isinstance(turns, list) and turns else None)
        if isinstance(prompt, str) and prompt:
            category = data.get("category")
            return category if isinstance(category, str) and category else None, prompt
    raise InputError(f"{where}: expected an object with a prompt, or with turns")
