"""The lengths of a workload as people say them: a context, turns of a conversation, prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.errors import InputError

_DEFAULT_CONTEXT = 4096
_DEFAULT_TURN_TOKENS = 256
_MOST_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of one sequence.

    Attributes:
        context: all of them.
        prompt_tokens: those that are given.
        num_turns: prompts with their answers.
        assumed: prompts and answers were not described.
    """

    context: int
    prompt_tokens: int
    num_turns: int
    assumed: bool


def lengths(
    trained: int,
    context: int | None = None,
    turns: int | None = None,
    turn_tokens: int | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
) -> Lengths:
    """What the options say together; a chat of turns of 256 tokens, half of them given, where they say nothing.

    Without a number there are as many turns as fit the context; the few tokens that are left over count as given, as a
    system prompt is.

    Args:
        trained: tokens that the target was trained for: the default context is no longer, and at most 4096.
        context: of a sequence.
        turns: prompts with their answers.
        turn_tokens: of a prompt and its answer.
        prompt_tokens: of one prompt.
        new_tokens: of one answer.

    Raises:
        InputError: a number out of range, or numbers that contradict each other.
    """
    _check_ranges(context, turns, turn_tokens, prompt_tokens, new_tokens)
    described = turn_tokens is not None or prompt_tokens is not None or new_tokens is not None
    assumed = not described and (turns is None or context is None)
    if prompt_tokens is not None and new_tokens is not None:
        both = prompt_tokens + new_tokens
        if turn_tokens not in (None, both):
            raise InputError(
                f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens}: not the {turn_tokens} of --turn-tokens"
            )
        turn_tokens = both
    if context is None:
        context, turns = _context(trained, turns, turn_tokens, prompt_tokens, new_tokens)
    turns = turns or _turns(context, turn_tokens, prompt_tokens is not None or new_tokens is not None)
    turn = turn_tokens or context // turns
    rest = context - turns * turn
    if turn == 0 or rest < 0:
        raise InputError(f"--turns {turns} of {turn_tokens or 1} tokens: they do not fit --context {context}")
    if rest >= turn:
        raise InputError(f"--turns {turns} of {turn} tokens: they fill {context - rest} of --context {context}")
    return Lengths(context, context - turns * (turn - _prompt(turn, prompt_tokens, new_tokens)), turns, assumed)


def _check_ranges(
    context: int | None,
    turns: int | None,
    turn_tokens: int | None,
    prompt_tokens: int | None,
    new_tokens: int | None,
) -> None:
    given = {
        "--context": context,
        "--turns": turns,
        "--turn-tokens": turn_tokens,
        "--prompt-tokens": prompt_tokens,
        "--new-tokens": new_tokens,
    }
    for option, value in given.items():
        least = 0 if option == "--prompt-tokens" else 1
        if value is not None and not least <= value <= _MOST_TOKENS:
            raise InputError(f"{option} {value}: expected {least} to {_MOST_TOKENS}")


def _turns(context: int, turn_tokens: int | None, one_is_described: bool) -> int:
    """As many as fit, at least one; a prompt or an answer alone describes a single turn."""
    if turn_tokens is None and one_is_described:
        return 1
    return max(1, context // (turn_tokens or _DEFAULT_TURN_TOKENS))


def _context(
    trained: int, turns: int | None, turn_tokens: int | None, prompt_tokens: int | None, new_tokens: int | None
) -> tuple[int, int | None]:
    """The context that turns need, and how many they are."""
    if turn_tokens is not None:
        return (turns or 1) * turn_tokens, turns or 1
    for option, value, other in (
        ("--prompt-tokens", prompt_tokens, "--new-tokens"),
        ("--new-tokens", new_tokens, "--prompt-tokens"),
    ):
        if value is not None:
            raise InputError(f"{option} {value}: say also {other}, --turn-tokens or --context")
    if turns is not None:
        return turns * _DEFAULT_TURN_TOKENS, turns
    return min(trained, _DEFAULT_CONTEXT), None


def _prompt(turn: int, prompt_tokens: int | None, new_tokens: int | None) -> int:
    """Tokens of one prompt: half of a turn where neither it nor the answer is given."""
    if prompt_tokens is not None and prompt_tokens >= turn:
        raise InputError(f"--prompt-tokens {prompt_tokens}: no room for an answer in a turn of {turn} tokens")
    if new_tokens is not None and new_tokens > turn:
        raise InputError(f"--new-tokens {new_tokens}: more than a turn of {turn} tokens")
    if prompt_tokens is None:
        return turn // 2 if new_tokens is None else turn - new_tokens
    return prompt_tokens
