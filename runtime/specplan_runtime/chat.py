"""A conversation in the terminal that keeps its caches between turns."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import click

from specplan.errors import InputError
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.text import Message, Tokenizer
from specplan_runtime.transcript import load_transcript, save_transcript

#: Tokens of an answer that must fit before older turns are kept.
_LEAST_ANSWER = 64


def chat(
    engine: Engine,
    tokenizer: Tokenizer,
    max_new_tokens: int,
    params: SamplingParams,
    transcript: Path | None = None,
    drop_oldest: bool = False,
) -> None:
    """Read turns from stdin until it ends; Ctrl-C stops an answer, and at the prompt the chat.

    Args:
        engine: its first row is used.
        tokenizer: of the target.
        max_new_tokens: of an answer.
        params: how tokens are chosen.
        transcript: where messages are kept after every turn, and taken up again; None for nowhere.
        drop_oldest: forget the oldest turns when the conversation is full, instead of ending it.

    Raises:
        InputError: the model has no chat template, or the file is no transcript.
    """
    if not tokenizer.has_chat_template:
        raise InputError("--chat: the model has no chat template; use --prompt with --raw")
    messages = load_transcript(transcript) if transcript is not None else []
    if messages:
        click.echo(f"{len(messages) // 2} turns taken up from {transcript}", err=True)
    first, context = 0, engine.plan.workload.context  # messages before the first are forgotten
    sequence: Sequence | None = None
    for line in _turns():
        messages.append({"role": "user", "content": line})
        if drop_oldest:
            first = _first_kept(tokenizer, messages, first, context - min(max_new_tokens, _LEAST_ANSWER))
        tokens = tokenizer.encode_chat(messages[first:])
        room = context - len(tokens)
        if room < 1:
            choice = "" if drop_oldest else "; --when-full drop forgets the oldest turns"
            click.echo(f"the conversation is full: {len(tokens)} of {context} tokens{choice}", err=True)
            return
        limit, turn = min(max_new_tokens, room), len(messages) // 2
        if sequence is None:
            sequence = engine.open(tokens, limit, index=turn)
        else:
            engine.resume(sequence, tokens, limit, turn)
        messages.append({"role": "assistant", "content": _answer(engine, tokenizer, sequence, params)})
        if transcript is not None:
            save_transcript(transcript, messages)


def _first_kept(tokenizer: Tokenizer, messages: list[Message], first: int, most_tokens: int) -> int:
    """The first message to keep so that the conversation fits; the last one is kept in any case.

    Strides double until it fits and are then halved: a long transcript is encoded a few times, not once per turn.
    """
    last = len(messages) - 1

    def fits(begin: int) -> bool:
        return begin >= last or len(tokenizer.encode_chat(messages[begin:])) <= most_tokens

    if fits(first):
        return first
    stride = 2
    while not fits(first + stride):
        first, stride = first + stride, 2 * stride
    turns = range(first + 2, min(first + stride, last) + 1, 2)
    return turns[bisect_left(turns, True, key=fits)]


def _turns() -> Iterator[str]:
    if sys.stdin is None:  # closed by the caller
        return
    interactive = sys.stdin.isatty()
    while True:
        if interactive:
            click.echo("> ", nl=False, err=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            click.echo(err=True)
            return
        if not line:
            return
        try:
            line.encode()
        except UnicodeEncodeError:
            raise InputError("--chat: a line of the input is not UTF-8") from None
        if line.strip():
            yield line.strip()


def _answer(engine: Engine, tokenizer: Tokenizer, sequence: Sequence, params: SamplingParams) -> str:
    def pieces() -> Iterator[list[int]]:
        yield engine.start(sequence, params)
        yield from engine.run_row(sequence, params)

    answer = ""
    try:
        for text in tokenizer.stream(pieces()):
            answer += text
            click.echo(text, nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        click.echo(" [stopped]", nl=False, err=True)
    click.echo()
    return answer
