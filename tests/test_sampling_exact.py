"""Speculative sampling emits exactly the target's distribution: proved by enumeration, not by statistics.

All probabilities are multiples of 1/units, so every decision "uniform() < a/b" has b at most ``units`` (an accept)
and every draw has its boundaries at multiples of 1/m with m at most ``units`` (m units of residual). Replacing
uniform() by the midpoints of a grid whose size is a multiple of all those numbers makes counting exact: as many
grid points lie below a boundary as the boundary's share of the grid, and none lies so close to it that rounding in
float32 could matter. The counts are then compared as fractions, without a tolerance.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.errors import InputError
from specplan_runtime.engine import Engine, Request
from specplan_runtime.sampling import RowSampler, SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.workspace import Workspace
from tests.runtime_helpers import checkpoint, perturbed, plan_for, prompt_of, reference_logits, serve, variant

Units = tuple[int, ...]
Distribution = dict[int, Fraction]


def workspace(vocab_size: int) -> Workspace:
    """The buffers that a sampler uses."""
    return cast(Workspace, SimpleNamespace(
        probs=torch.zeros(vocab_size),
        running=torch.zeros(vocab_size),
        keep=torch.zeros(vocab_size, dtype=torch.bool),
        argmax=torch.zeros(4, dtype=torch.int64),
    ))  # fmt: skip


def make_sampler(vocab_size: int, **options: Any) -> RowSampler:
    return RowSampler(workspace(vocab_size), SamplingParams(**({"temperature": 1.0} | options)))


def always(value: float) -> Callable[[], float]:
    """A source of one number."""
    return lambda: value


def compositions(units: int, parts: int) -> Iterator[Units]:
    """All ways to share ``units`` among ``parts`` tokens, none included."""
    if parts == 1:
        yield (units,)
        return
    for first in range(units + 1):
        for rest in compositions(units - first, parts - 1):
            yield (first, *rest)


def grid_for(units: int) -> int:
    return math.lcm(*range(1, units + 1))


def midpoints(size: int) -> list[float]:
    return [(number + 0.5) / size for number in range(size)]


def emitted(target: Units, draft: Units | None, proposed: int) -> Distribution:
    """Distribution of the token emitted when ``proposed`` was drafted, over the whole grid of both decisions."""
    units = sum(target)
    size = grid_for(units)
    value = 0.0
    sampler = make_sampler(len(target))
    draft_probs = None if draft is None else torch.tensor(draft) / units
    outcome: dict[int, Fraction] = defaultdict(Fraction)
    residual: torch.Tensor | None = None
    rejected = 0
    for value in midpoints(size):
        sampler.probs.copy_(torch.tensor(target) / units)
        if sampler.accept(proposed, draft_probs, always(value)):
            outcome[proposed] += Fraction(1, size)
            continue
        rejected += 1
        assert residual is None or torch.equal(residual, sampler.probs)
        residual = sampler.probs.clone()
    for value in midpoints(size) if rejected else []:
        outcome[sampler.draw(always(value))] += Fraction(rejected, size) / size
    return dict(outcome)


def as_distribution(units: Units) -> Distribution:
    return {token: Fraction(count, sum(units)) for token, count in enumerate(units) if count}


def mixture(target: Units, draft: Units) -> Distribution:
    """What comes out when the proposal is drawn from the draft."""
    total: dict[int, Fraction] = defaultdict(Fraction)
    for proposed, share in as_distribution(draft).items():
        for token, probability in emitted(target, draft, proposed).items():
            total[token] += share * probability
    return dict(total)


# ---------------------------------------------------------------------------------------- one position


@pytest.mark.parametrize("target", list(compositions(4, 4)), ids=str)
def test_every_pair_in_quarters_of_four_tokens(target: Units) -> None:
    for draft in compositions(4, 4):
        assert mixture(target, draft) == as_distribution(target)


@pytest.mark.parametrize(("target", "draft"), [
    ((1, 0, 3, 2, 2), (2, 2, 1, 2, 1)),
    ((8, 0, 0, 0, 0), (1, 2, 2, 2, 1)),
    ((1, 2, 2, 2, 1), (8, 0, 0, 0, 0)),
    ((0, 5, 0, 3, 0), (3, 0, 5, 0, 0)),
    ((1, 1, 1, 1, 1, 3), (3, 1, 1, 1, 1, 1)),
    ((0, 0, 7, 0, 1, 0), (1, 0, 7, 0, 0, 0)),
    ((2, 1, 0, 1, 3, 1), (2, 1, 0, 1, 3, 1)),
])  # fmt: skip
def test_pairs_in_eighths(target: Units, draft: Units) -> None:
    assert mixture(target, draft) == as_distribution(target)


@pytest.mark.parametrize("target", list(compositions(4, 4)), ids=str)
def test_proposals_made_with_certainty(target: Units) -> None:
    """Prompt lookup: whatever is proposed, the target's distribution comes out."""
    for proposed in range(4):
        assert emitted(target, None, proposed) == as_distribution(target)


@pytest.mark.parametrize(("target", "draft"), [
    ((1, 2, 0, 3, 2), (4, 4)),
    ((4, 0, 0, 0, 4), (2, 3, 3)),
    ((0, 0, 0, 0, 8), (7, 1)),
])  # fmt: skip
def test_a_draft_that_knows_fewer_tokens(target: Units, draft: Units) -> None:
    assert mixture(target, draft) == as_distribution(target)


@pytest.mark.parametrize(("target", "draft"), [((3, 5), (4, 4, 0, 0)), ((1, 7, 0), (6, 1, 1, 0))])
def test_a_draft_that_has_more_entries(target: Units, draft: Units) -> None:
    """Its entries beyond the target's vocabulary are padding and have no probability."""
    assert mixture(target, draft) == as_distribution(target)


def test_drawing_follows_the_probabilities() -> None:
    for units in compositions(4, 4):
        value = 0.0
        sampler = make_sampler(4)
        counts: Counter[int] = Counter()
        for value in midpoints(12):
            sampler.probs.copy_(torch.tensor(units) / 4)
            counts[sampler.draw(always(value))] += 1
        assert counts == {token: 3 * count for token, count in enumerate(units) if count}


# ------------------------------------------------------------------------------------- ends of the range


@pytest.mark.parametrize("value", [0.0, 1.0 - 2.0**-53])
@pytest.mark.parametrize("probs", [(0, 4, 4, 0, 0), (8, 0, 0, 0, 0), (0, 0, 0, 0, 8), (0, 1, 0, 7, 0)])
def test_extreme_uniform_numbers_never_draw_an_impossible_token(probs: Units, value: float) -> None:
    sampler = make_sampler(5)
    sampler.probs.copy_(torch.tensor(probs) / 8)
    assert probs[sampler.draw(always(value))] > 0


def test_an_impossible_token_is_never_accepted() -> None:
    for draft_probs in (None, torch.tensor([0.5, 0.5])):
        sampler = make_sampler(2)
        sampler.probs.copy_(torch.tensor([0.0, 1.0]))
        assert not sampler.accept(0, draft_probs, always(0.0))


def test_a_residual_that_rounding_left_empty_draws_a_possible_token() -> None:
    """Two models that differ by rounding only: the target's probability is an ulp below the draft's, nothing above."""
    below_one = 1.0 - 2.0**-24
    sampler = make_sampler(4)
    sampler.probs.copy_(torch.tensor([0.0, below_one, 0.0, 0.0]))
    draft_probs = torch.tensor([0.0, 1.0, 0.0, 0.0])
    token = 1 if sampler.accept(1, draft_probs, always(below_one)) else sampler.draw(always(1.0 - 2.0**-53))
    assert token == 1


# ------------------------------------------------------------------------------- chains, as the engine runs them


class Branches:
    """A source of uniform numbers that makes a program take every branch: the midpoints of a grid, call by call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.path: list[int] = []
        self._depth = 0

    def __call__(self) -> float:
        if self._depth == len(self.path):
            self.path.append(0)
        self._depth += 1
        return (self.path[self._depth - 1] + 0.5) / self.size

    def runs(self) -> Iterator[Callable[[], Fraction]]:
        """Once per leaf; the function gives the leaf's weight after the program ran."""
        while True:
            self._depth = 0
            yield lambda: Fraction(1, self.size ** len(self.path))
            while self.path and self.path[-1] == self.size - 1:
                self.path.pop()
            if not self.path:
                return
            self.path[-1] += 1


def stub_engine(rows_of_probs: list[list[Units]], draft: list[list[Units]] | None, tile: int) -> tuple[Engine, int]:
    """An engine whose target and draft are tables: ``_accept`` is the real one.

    Args:
        rows_of_probs: for each cache row, the target's distribution at each position.
        draft: the same for the draft; None proposes with certainty.
        tile: rows of logits at one time.
    """
    vocab_size = len(rows_of_probs[0][0])
    logits = torch.cat([torch.tensor(rows, dtype=torch.float32) for rows in rows_of_probs]).log()

    def tiles(work: Workspace, rows: None, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        assert num_rows == len(logits)
        for first in range(0, num_rows, tile):
            yield first, logits[first : first + tile]

    def probs(row: int, position: int) -> torch.Tensor | None:
        return None if draft is None else torch.tensor(draft[row][position]) / sum(draft[row][position])

    engine = object.__new__(Engine)
    engine.assembly = cast(Any, SimpleNamespace(
        workspaces={"verify": workspace(vocab_size)}, target=SimpleNamespace(logits=tiles)
    ))  # fmt: skip
    engine.drafter = cast(Any, SimpleNamespace(probs=probs))
    engine._rows = [Sequence(row, [0], 1, 9) for row in range(len(rows_of_probs))]
    return engine, len(rows_of_probs[0])


def accept(engine: Engine, width: int, proposals: list[list[int]], uniform: Callable[[], float]) -> list[list[int]]:
    params = SamplingParams(temperature=1.0)
    for sequence in engine._rows:
        assert sequence is not None
        sequence.uniform = uniform
    span = Span([[0] * width for _ in proposals], [0] * len(proposals))
    return [outcome.tokens for outcome in engine._accept(range(len(proposals)), span, proposals, params).values()]


FIRST: Units = (1, 0, 3)
SECOND: list[Units] = [(2, 1, 1), (0, 4, 0), (1, 3, 0)]
DRAFT_FIRST: Units = (2, 1, 1)
DRAFT_SECOND: list[Units] = [(1, 1, 2), (2, 2, 0), (0, 1, 3)]
BONUS: Units = (1, 1, 2)


def first_two_tokens(
    draft_first: Units | None, draft_second: list[Units], tile: int
) -> dict[tuple[int, int], Fraction]:
    """Joint distribution of the first two tokens emitted by steps that draft two tokens.

    A step that emits one token only is followed by another; what that one emits first is the second token.
    """
    joint: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for proposal in itertools.product(range(3), range(3)):
        share = Fraction(1)
        draft = None
        if draft_first is not None:
            chances = draft_first[proposal[0]], draft_second[proposal[0]][proposal[1]]
            share = Fraction(chances[0], 4) * Fraction(chances[1], 4)
            draft = [[draft_first, draft_second[proposal[0]]]]
        elif proposal != (2, 1):  # prompt lookup proposes one thing
            share = Fraction(0)
        if not share:
            continue
        engine, width = stub_engine([[FIRST, SECOND[proposal[0]], BONUS]], draft, tile)
        source = Branches(12)
        for weight in source.runs():
            (tokens,) = accept(engine, width, [list(proposal)], source)
            add_second_tokens(joint, tokens, share * weight(), draft_second)
    return dict(joint)


def add_second_tokens(
    joint: dict[tuple[int, int], Fraction], tokens: list[int], weight: Fraction, draft_second: list[Units]
) -> None:
    if len(tokens) > 1:
        joint[tokens[0], tokens[1]] += weight
        return
    for token, probability in mixture(SECOND[tokens[0]], draft_second[tokens[0]]).items():
        joint[tokens[0], token] += weight * probability


def product_of_conditionals() -> dict[tuple[int, int], Fraction]:
    return {
        (one, two): Fraction(FIRST[one], 4) * Fraction(SECOND[one][two], 4)
        for one, two in itertools.product(range(3), range(3))
        if FIRST[one] * SECOND[one][two]
    }


@pytest.mark.parametrize("tile", [1, 3])
def test_a_chain_of_two_has_the_targets_joint_distribution(tile: int) -> None:
    assert first_two_tokens(DRAFT_FIRST, DRAFT_SECOND, tile) == product_of_conditionals()


def test_a_certain_chain_of_two_has_the_targets_joint_distribution() -> None:
    assert first_two_tokens(None, DRAFT_SECOND, 2) == product_of_conditionals()


def test_rows_of_a_batch_are_independent_and_each_exact() -> None:
    """Two rows, one with a proposal and one with none; tiles that straddle the rows."""
    targets: list[Units] = [(1, 2, 1), (3, 0, 1)]
    draft: Units = (2, 1, 1)
    joint: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for proposed in range(3):
        rows = [[targets[0], BONUS], [targets[1], BONUS]]
        engine, width = stub_engine(rows, [[draft], [draft]], tile=3)
        source = Branches(12)
        for weight in source.runs():
            first, second = accept(engine, width, [[proposed], []], source)
            joint[first[0], second[0]] += weight() * Fraction(draft[proposed], 4)
    expected = {
        (one, two): Fraction(targets[0][one], 4) * Fraction(targets[1][two], 4)
        for one, two in itertools.product(range(3), range(3))
        if targets[0][one] * targets[1][two]
    }
    assert dict(joint) == expected


# --------------------------------------------------------------------------------------- temperature and cuts


def load(logits: torch.Tensor, **options: Any) -> torch.Tensor:
    return make_sampler(logits.numel(), **options).load(logits).clone()


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 0.7, 1.0, 2.5, 100.0])
def test_temperature_is_softmax_of_the_divided_logits(temperature: float) -> None:
    logits = 3 * torch.randn(57, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load(logits, temperature=temperature), torch.softmax(logits / temperature, 0))


def test_a_shorter_row_leaves_nothing_behind_it() -> None:
    sampler = make_sampler(6)
    sampler.load(torch.zeros(6))
    assert sampler.load(torch.zeros(4)).tolist() == [0.25] * 4 + [0.0] * 2


def sorted_cut(probs: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Top-k then top-p by sorting; ties with the last token kept are kept."""
    if 0 < top_k < probs.numel():
        last = probs.sort(descending=True).values[top_k - 1]
        probs = torch.where(probs >= last, probs, 0.0)
        probs = probs / probs.sum()
    if top_p < 1:
        ordered = probs.double().sort(descending=True).values
        number = int((ordered.cumsum(0) < top_p).sum())
        last = ordered[min(number, probs.numel() - 1)].float()
        probs = torch.where(probs >= last, probs, 0.0)
        probs = probs / probs.sum()
    return probs


#: Integer weights, so that ties are frequent and exact.
WEIGHTS = st.lists(st.integers(1, 9), min_size=2, max_size=12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(WEIGHTS, st.integers(0, 13), st.integers(0, 100))
def test_cuts_match_sorting(weights: list[int], top_k: int, share: int) -> None:
    logits = torch.tensor(weights, dtype=torch.float32).log()
    probs = torch.softmax(logits, 0)
    top_p = (share + 0.5) / 101 if share < 100 else 1.0
    kept = sorted_cut(probs, top_k, 1.0)
    reached = kept.double().sort(descending=True).values.cumsum(0)
    if top_p < 1 and float((reached - top_p).abs().min()) < 1e-5:
        return  # which side of the boundary a float32 sum falls on is not specified
    torch.testing.assert_close(load(logits, top_k=top_k, top_p=top_p), sorted_cut(probs, top_k, top_p))


@pytest.mark.parametrize(("top_k", "expected"), [
    (1, [0.0, 0.5, 0.5, 0.0]), (2, [0.0, 0.5, 0.5, 0.0]), (3, [0.2, 0.4, 0.4, 0.0]), (4, None), (9, None), (0, None),
])  # fmt: skip
def test_top_k_keeps_ties(top_k: int, expected: list[float] | None) -> None:
    weights = torch.tensor([2.0, 4.0, 4.0, 1.0])
    wanted = weights / 11 if expected is None else torch.tensor(expected)
    torch.testing.assert_close(load(weights.log(), top_k=top_k), wanted)


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 4), (0.5, 4), (1e-9, 4), (1.0, 8)])
def test_top_p_keeps_ties(top_p: float, kept: int) -> None:
    logits = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert int((load(logits, top_p=top_p) > 0).sum()) == kept


def test_cuts_of_many_tokens_match_sorting() -> None:
    logits = 2 * torch.randn(5000, generator=torch.Generator().manual_seed(3))
    for top_k, top_p in ((50, 1.0), (0, 0.9), (200, 0.5), (1, 1.0), (0, 1e-6)):
        torch.testing.assert_close(
            load(logits, top_k=top_k, top_p=top_p), sorted_cut(torch.softmax(logits, 0), top_k, top_p)
        )


@pytest.mark.parametrize("options", [
    {"temperature": -1.0}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_p": 0.0},
    {"top_p": 1.5}, {"top_p": math.nan},
])  # fmt: skip
def test_values_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SamplingParams(**options)


# -------------------------------------------------------------------------------------------------- end to end

TINY: dict[str, Any] = {"vocab_size": 6, "num_hidden_layers": 2}


def tiny_engine(drafter: str, batch_size: int = 1) -> Engine:
    folder = checkpoint("llama", seed=3, **TINY)
    options: dict[str, Any] = {} if drafter == "none" else {"num_speculative_tokens": 2}
    if drafter == "draft_model":
        options["draft"] = perturbed(folder, 0.05)
    return Engine(plan_for(folder, drafter=drafter, context=16, batch_size=batch_size, **options))


def expected_pairs(prompt: list[int], temperature: float) -> torch.Tensor:
    """Probabilities [V, V] of the second and third token after a prompt, the first one summed over."""
    folder = checkpoint("llama", seed=3, **TINY)

    def conditional(tokens: list[int]) -> torch.Tensor:
        return torch.softmax(reference_logits(folder, tokens)[-1].double() / temperature, 0)

    total = torch.zeros(6, 6, dtype=torch.float64)
    for first, share in enumerate(conditional(prompt)):
        for second, probability in enumerate(conditional([*prompt, first])):
            total[second] += share * probability * conditional([*prompt, first, second])
    return total


@pytest.mark.parametrize("drafter", ["none", "ngram", "early_exit", "draft_model"])
def test_samples_of_a_model_follow_its_distribution(drafter: str) -> None:
    """Chi-square over pairs of tokens with fixed seeds; the bound is six deviations above its mean."""
    prompt, temperature, num_samples = [0, 1, 2, 3, 0, 1, 2], 8.0, 450
    engine = tiny_engine(drafter)
    counts = torch.zeros(6, 6, dtype=torch.float64)
    for seed in range(num_samples):
        _, second, third, _ = engine.generate(prompt, 4, SamplingParams(temperature=temperature, seed=seed))
        counts[second, third] += 1
    expected = expected_pairs(prompt, temperature) * num_samples
    likely = expected >= 5
    pooled = torch.tensor([[float(counts[~likely].sum()), float(expected[~likely].sum())]], dtype=torch.float64)
    cells = torch.cat([torch.stack([counts[likely], expected[likely]], 1), pooled[pooled[:, 1] > 0]])
    freedom = len(cells) - 1
    assert freedom >= 15
    assert drafter == "none" or 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens
    statistic = float(((cells[:, 0] - cells[:, 1]) ** 2 / cells[:, 1]).sum())
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


DRAFTERS = ("none", "ngram", "early_exit", "draft_model")


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_seed_decides_the_output(drafter: str, batch_size: int) -> None:
    engine = tiny_engine(drafter, batch_size)
    prompts = [[0, 1, 2, 0, 1], [3], [4, 4], [5, 0, 5, 0]]

    def sample(seed: int) -> list[list[int]]:
        return serve(engine, prompts, 9, SamplingParams(temperature=2.0, top_k=4, top_p=0.95, seed=seed))

    first = sample(1)
    assert [len(tokens) for tokens in first] == [9] * 4
    assert sample(1) == first
    assert sample(2) != first


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_prompts_numbers_are_its_own(drafter: str) -> None:
    """What a row draws depends on the seed and the prompt's index: not on its neighbours, nor on what came before."""
    prompts, limits = [[0, 1, 2, 0, 1], [3], [4, 4], [5, 0, 5, 0], [1, 1, 1]], [9, 5, 8, 2, 7]
    params = SamplingParams(temperature=2.0, seed=4)
    whole = serve(tiny_engine(drafter, 3), prompts, limits, params)
    assert serve(tiny_engine(drafter), prompts, limits, params) == whole
    engine = tiny_engine(drafter, 2)
    rest = [Request(index, prompts[index], limits[index]) for index in (4, 1, 2)]
    found: dict[int, list[int]] = defaultdict(list)
    for emission in engine.serve(rest, params):
        found[emission.index] += emission.tokens
    assert found == {index: whole[index] for index in (1, 2, 4)}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_one_kept_token_is_greedy(drafter: str, batch_size: int) -> None:
    """Top-1 and a low temperature leave one choice: sampling must then give the greedy output."""
    folder = variant("llama-gqa")
    options: dict[str, Any] = {} if drafter == "none" else {"num_speculative_tokens": 3}
    if drafter == "draft_model":
        options["draft"] = perturbed(folder, 0.02)
    engine = Engine(plan_for(folder, drafter=drafter, batch_size=batch_size, knobs={"logits_rows": 2}, **options))
    prompts = [prompt_of(9), prompt_of(1), prompt_of(4), prompt_of(6)]
    greedy = serve(engine, prompts, 16)
    assert serve(engine, prompts, 16, SamplingParams(temperature=1.0, top_k=1)) == greedy
    assert serve(engine, prompts, 16, SamplingParams(temperature=1e-4)) == greedy


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("vocab_size", [97, 130, 132, 200])
def test_sampling_with_a_draft_of_another_vocabulary(vocab_size: int, batch_size: int) -> None:
    draft = checkpoint("llama", seed=11, vocab_size=vocab_size)
    plan = plan_for(
        variant("llama-gqa"), drafter="draft_model", draft=draft, num_speculative_tokens=3, batch_size=batch_size
    )
    params = SamplingParams(temperature=3.0, seed=1)
    found = serve(Engine(plan), [prompt_of(9), [130], prompt_of(4)], 20, params)
    assert [len(tokens) for tokens in found] == [20] * 3
    assert all(0 <= token < 131 for tokens in found for token in tokens)


@pytest.mark.parametrize("precision", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"kv_dtype": "float16"}])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_sampling_in_other_precisions(drafter: str, precision: dict[str, Any]) -> None:
    folder = variant("llama-gqa")
    options: dict[str, Any] = {} if drafter == "none" else {"num_speculative_tokens": 3}
    if drafter == "draft_model":
        options["draft"] = folder
    engine = Engine(plan_for(folder, drafter=drafter, batch_size=2, **precision, **options))
    prompts = [prompt_of(9), [5], prompt_of(4)]
    found = serve(engine, prompts, 12, SamplingParams(temperature=1.0, top_k=1))
    assert found == serve(engine, prompts, 12)
