"""Replayed steps against the runtime's own, and the rates that are counted from them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.acceptance_traces import Output, draft_traces
from bench.measure_acceptance import ngram_steps
from specplan.speculation import Tree
from specplan.speed.acceptance import ASSUMED_ALPHA, Acceptance
from specplan.speed.acceptance_counts import (
    MIN_STEPS,
    Step,
    Trace,
    chain_steps,
    count_chains,
    count_steps,
    mean_accepted_length,
    tree_steps,
)
from specplan_runtime.engine import Engine, Request
from tests.runtime_helpers import perturbed, plan_for, prompt_of, reference_greedy, variant
from tests.strategies import trees

traces = st.builds(Trace, st.lists(st.integers(-1, 2), min_size=1, max_size=40).map(tuple), st.booleans())


def emitted(engine: Engine, prompt: list[int], num_tokens: int) -> list[list[int]]:
    """What each step emitted; the first token, of the prefill, left out."""
    return [emission.tokens for emission in engine.serve([Request(0, prompt, num_tokens)])][1:]


def model_and_draft() -> tuple[Path, Path]:
    target = variant("llama-gqa")
    return target, perturbed(target, 0.03)


@pytest.mark.parametrize("gamma", [1, 3, 5])
@pytest.mark.parametrize("finished", [False, True])
def test_replayed_drafts_are_those_of_the_runtime(gamma: int, finished: bool) -> None:
    target, draft = model_and_draft()
    prompt, num_tokens = prompt_of(7), 40
    tokens = reference_greedy(target, prompt, num_tokens)
    engine = Engine(plan_for(target, draft=draft, drafter="draft_model", num_speculative_tokens=gamma))
    if finished:  # the last token that was not there before ends the text
        end = max(place for place, token in enumerate(tokens) if tokens.index(token) == place)
        engine.assembly.eos_token_ids = (tokens[end],)
        tokens = tokens[: end + 1]
    (trace,) = draft_traces(str(draft), [Output("any", prompt, tokens, finished)], "float32", None)
    steps = list(chain_steps(trace, gamma))
    ran = [len(step) for step in emitted(engine, prompt, num_tokens)]
    assert len({step.num_accepted for step in steps}) > 1
    replayed = [step.num_accepted + 1 for step in steps]
    assert replayed == (ran if finished else ran[: len(replayed)])
    assert len(ran) - len(replayed) <= gamma + 1


@pytest.mark.parametrize("gamma", [2, 4])
def test_replayed_lookups_are_those_of_the_runtime(gamma: int) -> None:
    target = variant("llama-gqa", vocab_size=6)  # so few tokens that their pairs come again
    prompt = prompt_of(20, vocab_size=6)
    tokens = reference_greedy(target, prompt, 30)
    engine = Engine(plan_for(target, drafter="ngram", num_speculative_tokens=gamma))
    ran = [len(step) for step in emitted(engine, prompt, 30)]
    steps = ngram_steps([Output("any", prompt, tokens, False)], gamma)
    assert [step.num_accepted + 1 for step in steps] == ran[: len(steps)]
    assert {step.drafted for step in steps} == {True, False}
    assert any(step.num_accepted for step in steps)


def test_a_draft_that_is_the_target_is_always_right() -> None:
    target = variant("llama-gqa")
    prompt = prompt_of(6)
    outputs = [Output("any", prompt, reference_greedy(target, prompt, 50), False)]
    (trace,) = draft_traces(str(target), outputs, "float32", None)
    assert set(trace.ranks) == {0}
    assert {step.num_accepted for step in chain_steps(trace, 4)} == {4}


@given(traces, st.integers(1, 6))
def test_a_chain_is_the_tree_of_best_proposals(trace: Trace, gamma: int) -> None:
    chain = Tree(tuple((0,) * depth for depth in range(1, gamma + 1)))
    assert list(tree_steps(trace, chain)) == list(chain_steps(trace, gamma))


@given(traces, trees())
def test_steps_follow_one_another(trace: Trace, tree: Tree) -> None:
    steps, at = list(tree_steps(trace, tree)), 1
    for step in steps:
        assert step.start == at
        path = trace.ranks[at : at + step.num_accepted]
        assert path == () or path in tree.nodes
        at += step.num_accepted + 1
    if trace.finished:
        assert at == max(1, len(trace.ranks))
    else:
        assert at > len(trace.ranks) - tree.depth


@given(st.lists(traces, min_size=1, max_size=5))
def test_counted_rates_are_a_valid_category(found: list[Trace]) -> None:
    if not all(any(True for t in found for _ in chain_steps(t, gamma)) for gamma in range(1, 5)):
        with pytest.raises(ValueError, match="no steps"):
            count_chains(found, 3, 4, 3)
        return
    counted = count_chains(found, 3, 4, 3)
    for gamma, length in enumerate(counted.accepted_lengths, start=1):
        steps = [step for trace in found for step in chain_steps(trace, gamma)]
        assert length == pytest.approx(mean_accepted_length(steps), abs=1e-6)
    assert 1 <= len(counted.accepted_per_step) <= 3
    assert all(sum(ranks) <= 1 + 1e-5 for ranks in counted.rank_rates)
    assert sorted(counted.accepted_per_step, reverse=True) == list(counted.accepted_per_step)
    best = np.cumprod([ranks[0] for ranks in counted.rank_rates])
    assert best == pytest.approx(counted.accepted_per_step, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_shorter_chains_draft_more_often(seed: int) -> None:
    """The shares of drafting steps that follow from one chain's are those that prompt lookup has at every length."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(300) for _ in range(rng.randrange(2, 15))] for _ in range(60)]
    text = [token for phrase in rng.choices(phrases, k=260) for token in (*phrase, rng.randrange(300))]
    outputs = [Output("any", text[:200], text[200:], False)]
    steps = {gamma: ngram_steps(outputs, gamma) for gamma in range(1, 10)}
    counted = count_steps(steps, 9)
    profile = Acceptance(
        ASSUMED_ALPHA["ngram"], counted.accepted_per_step, counted.accepted_lengths, counted.draft_rate
    )
    found = [sum(step.drafted for step in steps[gamma]) / len(steps[gamma]) for gamma in steps]
    assert found[0] - found[-1] > 0.1
    assert profile.draft_rates(np.arange(1, 10)) == pytest.approx(found, abs=0.02)


def test_rates_by_hand() -> None:
    trace = Trace((-1, 0, 0, 1, 0, 2, -1, 0, 0, 0, 0, 0), False)
    steps = list(chain_steps(trace, 2))
    assert [(step.start, step.num_accepted) for step in steps] == [(1, 2), (4, 1), (6, 0), (7, 2), (10, 2)]
    counted = count_chains([trace] * MIN_STEPS, 2, 2, 3)
    assert counted.accepted_lengths[1] == pytest.approx(1 + 7 / 5)
    assert counted.accepted_per_step == (0.8, 0.6)
    assert counted.rank_rates == ((0.8, 0.0, 0.0), (0.75, 0.0, 0.25))
    tree = Tree(((0,), (0, 2), (0, 0)))
    assert [step.num_accepted for step in tree_steps(trace, tree)] == [2, 2, 2, 2]


def test_positions_that_few_steps_reached_are_left_out() -> None:
    steps = [Step(1, True, 3)] * (MIN_STEPS - 1) + [Step(1, True, 1), Step(1, False, 0)]
    counted = count_steps({1: steps, 2: steps, 3: steps}, 3)
    assert counted.accepted_per_step == pytest.approx((20 / 21, 19 / 21), abs=1e-6)
    assert counted.draft_rate == pytest.approx(20 / 21, abs=1e-6)


@given(st.lists(st.sampled_from((0, 0, 0, 1, -1)), min_size=200, max_size=400))
def test_trees_are_predicted_as_they_are_replayed(ranks: list[int]) -> None:
    """Where ranks do not depend on one another, products along paths are what happens."""
    trace = Trace(tuple(ranks), False)
    counted = count_chains([trace], 2, 2, 2)
    rates = Acceptance.from_alpha(0, "measured", "")
    rates = Acceptance(rates.alpha, counted.accepted_per_step, rank_rates=counted.rank_rates)
    predicted = rates.tree_accepted_lengths(Tree(((0,), (0, 0))))
    assert predicted[1] == pytest.approx(1 + counted.accepted_per_step[0], abs=1e-5)
    if len(counted.accepted_per_step) == 2:
        assert predicted[2] == pytest.approx(1 + sum(counted.accepted_per_step), abs=1e-5)
