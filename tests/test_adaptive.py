"""Adaptive speculation against a simulated machine: what it loses, what it gains."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan_runtime.adaptive import AdaptiveLimit
from specplan_runtime.engine import Engine
from tests.runtime_helpers import perturbed, plan_for, prompt_of, reference_greedy, serve, variant

_TOKENS = 6000


class Machine:
    """Steps take base + slope · drafted seconds; position i is accepted with a probability, given those before it."""

    def __init__(self, slope: float, rate: Callable[[int], float], seed: int, noise: float = 0.0) -> None:
        self._slope, self._rate, self._noise = slope, rate, noise
        self._random = random.Random(seed)
        self.tokens, self.seconds = 0, 0.0

    def step(self, drafted: int) -> tuple[float, int]:
        accepted = 0
        while accepted < drafted and self._random.random() < self._rate(self.tokens):
            accepted += 1
        seconds = (1 + self._slope * drafted) * (1 + self._noise * self._random.uniform(-1, 1))
        self.tokens += 1 + accepted
        self.seconds += seconds
        return seconds, accepted


def run(machine: Machine, limit: AdaptiveLimit | int) -> float:
    """Tokens per second."""
    while machine.tokens < _TOKENS:
        drafted = limit if isinstance(limit, int) else limit.next_limit()
        seconds, accepted = machine.step(drafted)
        if not isinstance(limit, int):
            limit.observe(seconds, [drafted], [accepted])
    return machine.tokens / machine.seconds


@pytest.mark.parametrize("slope", [0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_it_loses_little_where_speculation_cannot_pay(slope: float, rate: float) -> None:
    adaptive = run(Machine(slope, lambda _: rate, 1), AdaptiveLimit(8))
    plain = run(Machine(slope, lambda _: rate, 1), 0)
    assert adaptive >= 0.97 * plain


@pytest.mark.parametrize("slope", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9, 0.97])
def test_it_comes_near_the_best_length(slope: float, rate: float) -> None:
    adaptive = run(Machine(slope, lambda _: rate, 2, noise=0.05), AdaptiveLimit(8))
    best = max(run(Machine(slope, lambda _: rate, 2, noise=0.05), length) for length in range(9))
    assert adaptive >= 0.9 * best


def test_it_grows_back() -> None:
    def turning(token: int) -> float:
        return 0.0 if token < 1500 else 0.95

    adaptive = run(Machine(0.1, turning, 3), AdaptiveLimit(8))
    assert adaptive >= 1.5 * run(Machine(0.1, turning, 3), 0)


def test_it_shrinks() -> None:
    def turning(token: int) -> float:
        return 0.95 if token < 3000 else 0.0

    limit = AdaptiveLimit(8)
    run(Machine(0.3, turning, 4), limit)
    assert limit.next_limit() == 0


@pytest.mark.parametrize(("num_drafting", "pays"), [(1, False), (7, True)])
def test_rows_that_find_nothing_to_draft_count(num_drafting: int, pays: bool) -> None:
    """With one row of eight that drafts, four right tokens are 1.5 a row, in a step that takes 1.7 times as long."""
    limit = AdaptiveLimit(4)
    limits = []
    for _ in range(400):
        limits.append(limit.next_limit())
        drafted = [limits[-1]] * num_drafting + [0] * (8 - num_drafting)
        limit.observe(1 + 0.7 * limits[-1] / 4, drafted, drafted)
    assert limits[200:].count(4) > 180 if pays else limits[200:].count(0) > 180


@given(st.integers(1, 12), st.booleans(), st.lists(st.tuples(st.floats(1e-6, 10), st.integers(0, 12)), max_size=60))
def test_it_never_drafts_more_than_planned(most: int, tree: bool, steps: list[tuple[float, int]]) -> None:
    limit = AdaptiveLimit(most, depth=min(most, 3) if tree else None)
    for seconds, accepted in steps:
        drafted = limit.next_limit()
        assert 0 <= drafted <= most
        assert not tree or drafted in (0, most)
        limit.observe(seconds, [drafted, 0], [min(drafted, accepted), 0])


class _Erratic:
    """A controller that jumps about: the output must not depend on it."""

    def __init__(self, seed: int, most: int) -> None:
        self._random, self._most = random.Random(seed), most

    def next_limit(self) -> int:
        return self._random.randint(0, self._most)

    def observe(self, seconds: float, num_drafted: list[int], num_accepted: list[int]) -> None:
        assert all(0 <= accepted <= drafted for drafted, accepted in zip(num_drafted, num_accepted, strict=True))


@pytest.mark.parametrize("drafter", ["ngram", "early_exit", "draft_model"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_output_does_not_depend_on_it(drafter: str, batch_size: int) -> None:
    folder = variant("llama-gqa")
    options: dict[str, Any] = {"draft": perturbed(folder, 0.02)} if drafter == "draft_model" else {}
    plan = plan_for(folder, drafter=drafter, batch_size=batch_size, num_speculative_tokens=5, **options)
    prompts = [prompt_of(9), [5], prompt_of(4, seed=3)]
    for seed in range(3):
        engine = Engine(plan, adaptive=True)
        engine._limit = _Erratic(seed, 5)  # type: ignore[assignment]
        for prompt, found in zip(prompts, serve(engine, prompts, 24), strict=True):
            assert found == reference_greedy(folder, prompt, 24)


def test_it_is_off_by_default_and_for_plain_decoding() -> None:
    folder = variant("llama-gqa")
    assert Engine(plan_for(folder, drafter="ngram"))._limit is None
    assert Engine(plan_for(folder, drafter="none"), adaptive=True)._limit is None
