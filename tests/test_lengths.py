"""What the options about lengths mean together, and the context that the speed model sees."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan.errors import InputError
from specplan.planner.lengths import Lengths, lengths
from specplan.workload import Workload

OPTIONS = ("context", "turns", "turn_tokens", "prompt_tokens", "new_tokens")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # nothing: a chat of turns of 256 tokens, half of them given
        ({}, (4096, 2048, 16, True)),
        ({"context": 1000}, (1000, 499, 3, True)),  # 3 turns of 333, of which 166 are given; one token is left over
        ({"context": 100}, (100, 50, 1, True)),
        ({"context": 1}, (1, 0, 1, True)),
        # turns
        ({"turns": 3}, (768, 384, 3, True)),
        ({"context": 1000, "turns": 4}, (1000, 500, 4, False)),
        ({"context": 1000, "turn_tokens": 100}, (1000, 500, 10, False)),
        ({"context": 1000, "turn_tokens": 300}, (1000, 550, 3, False)),  # 100 left over, as a system prompt
        ({"turn_tokens": 300}, (300, 150, 1, False)),
        ({"turn_tokens": 300, "turns": 2}, (600, 300, 2, False)),
        # a prompt or an answer alone: one turn
        ({"context": 1000, "prompt_tokens": 10}, (1000, 10, 1, False)),
        ({"context": 1000, "new_tokens": 10}, (1000, 990, 1, False)),
        ({"context": 1000, "prompt_tokens": 0}, (1000, 0, 1, False)),
        ({"context": 1000, "prompt_tokens": 10, "turns": 5}, (1000, 50, 5, False)),
        ({"context": 1000, "new_tokens": 10, "turns": 5}, (1000, 950, 5, False)),
        ({"turn_tokens": 100, "prompt_tokens": 10}, (100, 10, 1, False)),
        ({"turn_tokens": 100, "new_tokens": 10, "turns": 3}, (300, 270, 3, False)),
        ({"turn_tokens": 100, "prompt_tokens": 10, "context": 1000}, (1000, 100, 10, False)),
        # both: a turn
        ({"prompt_tokens": 30, "new_tokens": 70}, (100, 30, 1, False)),
        ({"prompt_tokens": 30, "new_tokens": 70, "turns": 4}, (400, 120, 4, False)),
        ({"prompt_tokens": 30, "new_tokens": 70, "context": 1000}, (1000, 300, 10, False)),
        ({"prompt_tokens": 30, "new_tokens": 70, "turn_tokens": 100}, (100, 30, 1, False)),
        ({"prompt_tokens": 30, "new_tokens": 70, "turns": 10, "context": 1010}, (1010, 310, 10, False)),
        ({"prompt_tokens": 0, "new_tokens": 1}, (1, 0, 1, False)),
    ],
)
def test_what_they_mean_together(options: dict[str, int], expected: tuple[int, int, int, bool]) -> None:
    assert lengths(100_000, **options) == Lengths(*expected)


def test_the_default_context_is_what_the_model_was_trained_for_at_most_4096() -> None:
    assert lengths(512).context == 512
    assert lengths(512, context=2000).context == 2000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": 0}, ["--context 0", "1 to"]),
        ({"context": 1 << 25}, ["--context"]),
        ({"turns": 0}, ["--turns 0"]),
        ({"turn_tokens": 0}, ["--turn-tokens 0"]),
        ({"prompt_tokens": -1}, ["--prompt-tokens -1", "0 to"]),
        ({"new_tokens": 0}, ["--new-tokens 0"]),
        ({"prompt_tokens": 9}, ["--prompt-tokens 9", "--new-tokens", "--context"]),
        ({"new_tokens": 9}, ["--new-tokens 9", "--prompt-tokens", "--context"]),
        ({"new_tokens": 9, "turns": 2}, ["--new-tokens 9", "--context"]),
        ({"context": 2, "turns": 3}, ["--turns 3", "--context 2"]),
        ({"context": 200, "turn_tokens": 300}, ["300", "--context 200"]),
        ({"context": 1000, "turns": 4, "turn_tokens": 300}, ["--turns 4", "300", "--context 1000"]),
        ({"context": 1000, "turns": 2, "turn_tokens": 100}, ["--turns 2", "fill 200", "--context 1000"]),
        ({"context": 1000, "turns": 1, "prompt_tokens": 30, "new_tokens": 70}, ["fill 100", "--context 1000"]),
        ({"context": 100, "prompt_tokens": 100}, ["--prompt-tokens 100", "no room"]),
        ({"context": 100, "turns": 2, "prompt_tokens": 50}, ["--prompt-tokens 50", "no room"]),
        ({"context": 100, "new_tokens": 101}, ["--new-tokens 101", "100"]),
        ({"turn_tokens": 50, "prompt_tokens": 60}, ["--prompt-tokens 60"]),
        ({"turn_tokens": 50, "prompt_tokens": 30, "new_tokens": 30}, ["30", "50", "--turn-tokens"]),
        ({"turn_tokens": 90, "prompt_tokens": 30, "new_tokens": 30}, ["30", "90", "--turn-tokens"]),
        ({"prompt_tokens": 300, "new_tokens": 100, "context": 300}, ["400", "--context 300"]),
    ],
)
def test_contradictions_are_refused_in_one_line(options: dict[str, int], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        lengths(4096, **options)
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@given(st.fixed_dictionaries({}, optional={name: st.integers(0, 3000) for name in OPTIONS}))
def test_what_is_accepted_is_what_was_said(options: dict[str, int]) -> None:
    try:
        found = lengths(2048, **options)
    except InputError:
        return
    assert found.context == options.get("context", found.context)
    assert found.num_turns == options.get("turns", found.num_turns)
    answers = found.context - found.prompt_tokens
    assert 0 <= found.prompt_tokens < found.context
    assert 1 <= found.num_turns <= found.context
    assert answers % found.num_turns == 0
    if "new_tokens" in options:
        assert answers == found.num_turns * options["new_tokens"]
    turn = options.get("turn_tokens", found.context // found.num_turns)
    if "new_tokens" in options and "prompt_tokens" in options:
        turn = options["prompt_tokens"] + options["new_tokens"]
    if "prompt_tokens" in options:
        assert answers == found.num_turns * (turn - options["prompt_tokens"])
    assert found.context - found.num_turns * turn < turn  # no turn more would fit


def simulated_mean_context(workload: Workload) -> float:
    """Tokens in the cache at every generated token, counted one by one."""
    prompt, answer = workload.prompt_tokens // workload.num_turns, workload.new_tokens // workload.num_turns
    cached, seen = 0, []
    for _ in range(workload.num_turns):
        cached += prompt
        for _ in range(answer):
            seen.append(cached)
            cached += 1
    return sum(seen) / len(seen)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 12))
def test_mean_context_against_counting(prompt: int, answer: int, turns: int) -> None:
    base = Workload(turns * (prompt + answer), 1, "float32", "float32", "float32", "float32")
    workload = dataclasses.replace(base, prompt_tokens=turns * prompt, num_turns=turns)
    assert workload.new_tokens == turns * answer
    assert abs(workload.mean_context - max(1, simulated_mean_context(workload))) <= 1
