"""Trees that a model drafts: their passes, the target's own tokens, and the target's own distribution."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from specplan.draft_passes import DraftPasses, draft_passes, draft_widths
from specplan.errors import InputError, SpecplanError, UnsupportedError
from specplan.formulas.memory import MemoryModel
from specplan.plan import Plan
from specplan.plan_checks import check_plan_values
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.space import all_candidates
from specplan.speculation import Chain, Tree
from specplan.speed.roofline import Pass
from specplan.speed.steps import draft_seconds
from specplan.speed.timer import modelled
from specplan_runtime.drafters.branching import BranchingDrafter
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import RowSampler, SamplingParams, Uniform
from tests.runtime_helpers import (
    checkpoint,
    perturbed,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_logits,
    serve,
    variant,
    with_knobs,
)
from tests.strategies import trees

BUSHY = Tree(((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (2,)))
#: Its first node of a depth that has children is not the first node of that depth.
CROOKED = Tree(((0,), (1,), (1, 0), (1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 0, 0)))
WIDE = Tree(((0,), (1,), (2,), (3,)))
LINE = Tree(((0,), (0, 0), (0, 0, 0)))


def tree_plan(folder: Path, tree: Tree, drafter: str = "draft_model", batch_size: int = 1, **options: Any) -> Plan:
    """A plan whose drafting model proposes exactly this tree."""
    if drafter == "early_exit":
        options = {"num_exit_layers": 2} | options
    plan = plan_for(folder, drafter=drafter, num_draft_nodes=1, batch_size=batch_size, **options)
    return with_knobs(plan, shape=tree, prefill_chunk=7, logits_rows=3)


# ------------------------------------------------------------------------------------------------ passes


def test_passes_of_a_tree() -> None:
    assert draft_widths(BUSHY)[-1].tolist() == [1, 2, 2]
    assert draft_widths(CROOKED)[-1].tolist() == [1, 1, 2, 1]
    assert draft_widths(WIDE).tolist() == [[0], [1], [1], [1], [1]]
    passes = draft_passes(BUSHY, 8)
    assert (passes.num_rows, passes.widest, passes.topk, passes.depth) == (5, 2, 3, 3)


@given(trees())
def test_passes_of_the_first_nodes_are_those_of_the_pruned_tree(tree: Tree) -> None:
    sizes = np.arange(1, tree.num_draft_nodes + 1)
    many = draft_passes(tree, sizes)
    for size in sizes.tolist():
        one = tree.pruned(size)
        fed = one.inner.rows  # the root, and the nodes with children
        by_depth = [sum(len(path) == depth for path in fed) for depth in range(one.depth)]
        assert draft_widths(tree)[size, : one.depth].tolist() == by_depth
        sums = (many.num_rows, many.widest, many.topk, many.depth)
        assert [int(values[size - 1]) for values in sums] == [len(fed), max(by_depth), one.topk, one.depth]  # type: ignore[index]
        assert draft_passes(one, size) == draft_passes(tree, size)


def test_a_chain_is_a_tree_of_one_branch() -> None:
    assert draft_passes(LINE, 3) == draft_passes(Chain(3), 3) == DraftPasses(num_rows=3, widest=1, topk=1, depth=3)


# ---------------------------------------------------------------------------------------- greedy decoding


PROMPTS = [prompt_of(9), [5], prompt_of(17, seed=3), prompt_of(2), prompt_of(30), prompt_of(7), prompt_of(3), [0, 0]]
PROMPTS += [prompt_of(12, seed=4), prompt_of(5, seed=5)]
LIMITS = [24, 9, 30, 1, 20, 2, 17, 3, 12, 21]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("tree", [BUSHY, CROOKED, WIDE, LINE], ids=["bushy", "crooked", "wide", "line"])
@pytest.mark.parametrize("noise", [0.0, 0.02, None], ids=["same", "perturbed", "unrelated"])
def test_a_draft_models_tree_gives_the_targets_own_tokens(noise: float | None, tree: Tree, batch_size: int) -> None:
    folder = variant("llama-gqa")
    draft = variant("qwen3-wide-heads") if noise is None else perturbed(folder, noise)
    engine = Engine(tree_plan(folder, tree, batch_size=batch_size, draft=draft))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(folder, prompt, limit)
    assert engine.stats.num_draft_tokens > 0


@pytest.mark.parametrize("name", ["qwen3-wide-heads", "gpt-neox", "olmo2", "mixtral"])
@pytest.mark.parametrize("drafter", ["draft_model", "early_exit"])
def test_families(drafter: str, name: str) -> None:
    folder = variant(name)
    options = {"draft": perturbed(folder, 0.02)} if drafter == "draft_model" else {"num_exit_layers": 1}
    engine = Engine(tree_plan(folder, CROOKED, drafter, 3, **options))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(folder, prompt, limit)


@pytest.mark.parametrize("cache", ["bfloat16", "int8"])
def test_a_draft_with_another_cache_moves_it_whole(cache: str) -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, BUSHY, batch_size=3, draft=folder, draft_kv_dtype=cache))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(folder, prompt, limit)
    assert engine.stats.mean_accepted_length is not None
    assert engine.stats.mean_accepted_length > 2.5


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("drafter", ["draft_model", "early_exit"])
@pytest.mark.parametrize("tree", [BUSHY, CROOKED, LINE], ids=["bushy", "crooked", "line"])
def test_the_target_as_its_own_draft_accepts_the_whole_best_path(tree: Tree, drafter: str, batch_size: int) -> None:
    """Its best tokens are ranks 0, so every step emits the path of zeros and the target's own token."""
    folder = variant("llama-gqa")
    options: dict[str, Any] = {"draft": folder} if drafter == "draft_model" else {"num_exit_layers": 3}
    engine = Engine(tree_plan(folder, tree, drafter, batch_size, **options))
    zeros = max(len(path) for path in tree.nodes if not any(path))
    steps = 4
    limit = 1 + steps * (zeros + 1)
    found = serve(engine, [prompt_of(9, seed=seed) for seed in range(batch_size)], limit)
    assert found == [reference_greedy(folder, prompt_of(9, seed=seed), limit) for seed in range(batch_size)]
    assert engine.stats.num_drafts == steps * batch_size
    assert engine.stats.num_accepted_tokens == steps * zeros * batch_size


class Wrong:
    """Passes a drafter's trees on, its first depth replaced by tokens that the target will not say."""

    def __init__(self, inner: BranchingDrafter, tree: Tree, truth: Callable[[list[int]], int]) -> None:
        self._inner, self._truth = inner, truth
        self._first = [(row, path[0]) for row, path in enumerate(tree.rows[1:]) if len(path) == 1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def propose(self, rows: Any, limits: Any, params: SamplingParams) -> list[list[int]]:
        proposals = self._inner.propose(rows, limits, params)
        for sequence, proposal in zip(rows, proposals, strict=True):
            for row, rank in self._first if proposal else ():
                proposal[row] = (self._truth(sequence.tokens) + 1 + rank) % 131
        return proposals


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_draft_that_is_never_right_costs_no_token(batch_size: int) -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, BUSHY, batch_size=batch_size, draft=folder))
    drafter = engine.drafter
    assert isinstance(drafter, BranchingDrafter)
    engine.drafter = Wrong(drafter, BUSHY, lambda tokens: reference_greedy(folder, tokens, 1)[0])
    limits = [min(limit, 9) for limit in LIMITS]
    for prompt, limit, found in zip(PROMPTS, limits, serve(engine, PROMPTS, limits), strict=True):
        assert found == reference_greedy(folder, prompt, limit)
    assert engine.stats.num_accepted_tokens == 0


@pytest.mark.parametrize("drafter", ["draft_model", "early_exit"])
def test_every_node_is_what_the_draft_says_after_its_path(drafter: str) -> None:
    """Against transformers without any cache, over steps that accept different branches."""
    folder = variant("llama-gqa")
    draft = perturbed(folder, 0.02)
    if drafter == "early_exit":  # all layers but the last: that model is the target without it
        draft = _without_last_layer(folder)
    options: dict[str, Any] = {"draft": draft} if drafter == "draft_model" else {"num_exit_layers": 2}
    engine = Engine(tree_plan(folder, CROOKED, drafter, 3, **options))
    propose, moved = engine.drafter.propose, 0

    def checking(rows: Any, limits: Any, params: SamplingParams) -> list[list[int]]:
        nonlocal moved
        proposals = propose(rows, limits, params)
        for sequence, proposal in zip(rows, proposals, strict=True):
            if proposal:
                _check_tree(draft, sequence.tokens, CROOKED, proposal)
        return proposals

    engine.drafter.propose = checking  # type: ignore[method-assign]
    commit = engine.drafter.commit

    def watching(sequence: Any, num_drafted: int, path: Any) -> None:
        nonlocal moved
        moved += list(path) != list(range(1, len(path) + 1))
        commit(sequence, num_drafted, path)

    engine.drafter.commit = watching  # type: ignore[method-assign]
    serve(engine, PROMPTS[:4], 25)
    assert moved > 0


def _check_tree(draft: Path, tokens: list[int], tree: Tree, proposal: list[int]) -> None:
    drafted = dict(zip(tree.rows[1:], proposal, strict=True))
    for path, token in drafted.items():
        before = tokens + [drafted[path[:end]] for end in range(1, len(path))]
        assert token == int(torch.topk(reference_logits(draft, before)[-1], path[-1] + 1).indices[-1])


def _without_last_layer(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    copy = folder.with_name(f"{folder.name}-shorter")
    if not copy.exists():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        del model.model.layers[-1]
        model.config.num_hidden_layers -= 1
        model.save_pretrained(copy)
    return copy


def test_switching_speculation_off_and_on() -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, BUSHY, draft=folder))
    prompt = prompt_of(9)
    sequence = engine.open(prompt, 40)
    engine.start(sequence, SamplingParams())
    engine._rows[0] = sequence
    for speculating in (True, False, True, True, False, False, False, True):
        engine.set_speculating(speculating)
        engine.step(SamplingParams())
    found = sequence.new_tokens
    assert found == reference_greedy(folder, prompt, len(found))
    assert engine.stats.num_accepted_tokens == 4 * 3


def test_a_conversation_that_goes_on_elsewhere() -> None:
    """A later turn shares a part of what was drafted into the cache."""
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, CROOKED, draft=perturbed(folder, 0.02)))
    prompt = prompt_of(9)
    sequence = engine.open(prompt, 12)
    engine.start(sequence, SamplingParams())
    list(engine.run_row(sequence, SamplingParams()))
    for kept in (15, 18, 4):
        turn = sequence.tokens[:kept] + prompt_of(6, seed=kept)
        engine.resume(sequence, turn, 11)
        engine.start(sequence, SamplingParams())
        list(engine.run_row(sequence, SamplingParams()))
        assert sequence.new_tokens == reference_greedy(folder, turn, 11)


def test_a_tree_at_the_end_of_the_context() -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, BUSHY, draft=folder))
    prompt = prompt_of(60)
    assert engine.generate(prompt, 50) == reference_greedy(folder, prompt, 4)


# ------------------------------------------------------------------------------------------------ sampling


class Outcomes:
    """Makes a program take every course of its random decisions, each with the exact weight that it has.

    ``accept`` and ``draw`` are given the middle of the interval of uniform numbers that leads to the outcome whose
    turn it is; the decisions themselves are the runtime's own.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path: list[tuple[int, list[float]]] = []
        self._depth = 0
        self.weight = 1.0
        accept, draw = RowSampler.accept, RowSampler.draw

        def accepting(sampler: RowSampler, token: int, draft_probs: None, uniform: Uniform) -> bool:
            chance = sampler.probs[token].item()
            taken = self._next([chance, 1 - chance])
            middle = chance / 2 if taken == 0 else (1 + chance) / 2
            assert accept(sampler, token, draft_probs, lambda: middle) == (taken == 0)
            return taken == 0

        def drawing(sampler: RowSampler, uniform: Uniform) -> int:
            shares = (sampler.probs.double() / sampler.probs.double().sum()).tolist()
            taken = self._next(shares)
            middle = sum(shares[:taken]) + shares[taken] / 2
            assert draw(sampler, lambda: middle) == taken
            return taken

        monkeypatch.setattr(RowSampler, "accept", accepting)
        monkeypatch.setattr(RowSampler, "draw", drawing)

    def _next(self, shares: list[float]) -> int:
        if self._depth == len(self._path):
            self._path.append((next(i for i, share in enumerate(shares) if share > 1e-9), shares))
        taken, shares = self._path[self._depth]
        self._depth += 1
        self.weight *= shares[taken]
        return taken

    def courses(self) -> Iterator[None]:
        """Once per course."""
        while True:
            self._depth, self.weight = 0, 1.0
            yield
            while self._path:
                taken, shares = self._path.pop()
                later = next((i for i in range(taken + 1, len(shares)) if shares[i] > 1e-9), None)
                if later is not None:
                    self._path.append((later, shares))
                    break
            if not self._path:
                return


@pytest.mark.parametrize("drafter", ["draft_model", "early_exit"])
@pytest.mark.parametrize("tree", [Tree(((0,), (1,), (1, 0), (1, 1))), WIDE], ids=["deep", "wide"])
def test_sampling_on_a_drafted_tree_is_the_targets_distribution(
    tree: Tree, drafter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every course of three tokens over five, weighed; against transformers' own probabilities."""
    folder = checkpoint("llama", vocab_size=5, num_hidden_layers=2)
    options: dict[str, Any] = {"draft": perturbed(folder, 0.1)} if drafter == "draft_model" else {"num_exit_layers": 1}
    engine = Engine(tree_plan(folder, tree, drafter, **options))
    outcomes = Outcomes(monkeypatch)
    params = SamplingParams(temperature=2.0)
    prompt = [0, 1, 2, 0, 1]
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for _ in outcomes.courses():
        found[tuple(engine.generate(prompt, 3, params))] += outcomes.weight
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens
    for tokens in itertools.product(range(5), repeat=3):
        logits = reference_logits(folder, [*prompt, *tokens[:-1]]).double()[len(prompt) - 1 :]
        shares = torch.softmax(logits / 2, -1)
        expected = float(torch.prod(shares[torch.arange(3), torch.tensor(tokens)]))
        assert found[tokens] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("drafter", ["draft_model", "early_exit"])
def test_one_kept_token_is_greedy(drafter: str) -> None:
    folder = variant("llama-gqa")
    options: dict[str, Any] = {"draft": perturbed(folder, 0.02)} if drafter == "draft_model" else {}
    engine = Engine(tree_plan(folder, CROOKED, drafter, 3, **options))
    greedy = serve(engine, PROMPTS, LIMITS)
    assert serve(engine, PROMPTS, LIMITS, SamplingParams(temperature=1.0, top_k=1)) == greedy


@pytest.mark.parametrize("vocab_size", [3, 97, 200])
def test_a_draft_of_another_vocabulary(vocab_size: int) -> None:
    folder = variant("llama-gqa")
    draft = checkpoint("llama", seed=11, vocab_size=vocab_size)
    engine = Engine(tree_plan(folder, Tree((*BUSHY.nodes, (3,), (4,))), batch_size=2, draft=draft))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(folder, prompt, limit)


# ------------------------------------------------------------------------------------------------ planning

PAIR: dict[str, Any] = {"model": "qwen2.5-coder-1.5b", "draft": "qwen2.5-coder-0.5b", "gpu": "rtx4090", "context": 2048}


def test_a_tree_is_planned_with_the_pairs_own_ranks() -> None:
    plan = analyze(ask(**PAIR, num_draft_nodes=12))
    assert isinstance(plan, Plan)
    speculation = plan.speculation
    assert isinstance(speculation.shape, Tree)
    assert (speculation.drafter, speculation.num_draft_nodes, speculation.draft_context) == ("draft_model", 12, 0)
    assert plan.estimate.alpha.source == "measured"
    assert plan.estimate.mean_accepted_length.source == "modelled"
    assert plan.peak_bytes == MemoryModel(plan.scenario).ledger().peak_bytes
    check_plan_values(plan, "plan")


def test_ranks_that_nobody_measured_are_called_assumed() -> None:
    plan = analyze(ask(**PAIR, num_draft_nodes=12, alpha=0.6))
    assert isinstance(plan, Plan)
    assert plan.estimate.mean_accepted_length.source == "assumed"


def test_a_given_tree_is_drafted() -> None:
    plan = analyze(ask(**PAIR, tree="specmemo-44", num_draft_nodes=20))
    assert isinstance(plan, Plan)
    assert plan.speculation.num_draft_nodes == 20


def test_every_size_of_a_searched_tree_has_the_bytes_of_its_own_ledger() -> None:
    question = dataclasses.replace(ask(**PAIR, tree="best"), drafters=("draft_model",))
    groups = all_candidates(question)
    assert max(group.gamma.max() for group in groups) == question.most_draft_nodes
    for group in groups:
        for index in range(0, len(group), 97):
            assert MemoryModel(group.scenario_at(index)).ledger().peak_bytes == group.peak_bytes[index]


_CHAIN_AND_TREE: tuple[dict[str, Any], ...] = ({}, {"tree": "best"})


def test_the_best_tree_is_no_slower_than_the_best_chain() -> None:
    """A chain is a tree: with ranks that are never right the search finds just that."""
    chain, tree = (analyze(ask(**PAIR, drafter="draft_model", **more)) for more in _CHAIN_AND_TREE)
    assert isinstance(chain, Plan)
    assert isinstance(tree, Plan)
    assert isinstance(tree.speculation.shape, Tree)
    assert tree.estimate.tokens_per_s.value >= 0.99 * chain.estimate.tokens_per_s.value


def test_a_step_drafts_once_per_depth() -> None:
    """Each pass takes what the timer says of its rows; sizes in between add up as their pruned trees do."""
    (group,) = all_candidates(dataclasses.replace(
        ask(**PAIR, tree="specmemo-44"), drafters=("draft_model",), num_draft_nodes=None
    ))[:1]  # fmt: skip
    scenario, tree = group.scenario, group.variant.tree
    assert tree is not None
    timing = modelled(scenario)
    assert timing.draft is not None
    sizes = np.arange(1, tree.num_draft_nodes + 1)
    found = draft_seconds(scenario, timing, sizes, np.full(len(sizes), 8))
    for size in (1, 7, 20, tree.num_draft_nodes):
        pruned = tree.pruned(size)
        widths = [sum(len(path) == depth for path in pruned.inner.rows) for depth in range(pruned.depth)]
        each = [
            timing.draft.pass_seconds(Pass(
                rows=width, batch_size=1, context=scenario.workload.mean_context, logits_rows=8, head_rows=width,
            )) for width in widths
        ]  # fmt: skip
        assert found[size - 1] == pytest.approx(float(sum(each)))


@pytest.mark.parametrize(("options", "error"), [
    ({"tree": "specmemo-44", "draft_context": 256}, UnsupportedError),
    ({"tree": "best", "draft_context": 256}, UnsupportedError),
    ({"tree": "specmemo-44", "draft_device": "host"}, UnsupportedError),
    ({"num_draft_nodes": 4, "forward": "transformers"}, UnsupportedError),
    ({"num_draft_nodes": 4, "num_speculative_tokens": 4}, InputError),
    ({"tree": "specmemo-44", "drafter": "ngram", "draft": None}, InputError),
])  # fmt: skip
def test_trees_that_cannot_be_drafted_are_refused(options: dict[str, Any], error: type[SpecplanError]) -> None:
    with pytest.raises(error, match=r"--(tree|num-draft-nodes)"):
        analyze(ask(**(PAIR | options)))


@pytest.mark.parametrize("role", ["target", "draft"])
def test_windowed_layers_take_chains_only(role: str) -> None:
    windowed, plain = variant("mistral-window"), variant("llama-gqa")
    models = {"target": plain, "draft": plain} | {role: windowed}
    with pytest.raises(UnsupportedError, match="windowed"):
        analyze(ask(model=str(models["target"]), draft=str(models["draft"]), gpu="cpu-generic", context=64,
                    num_draft_nodes=4))  # fmt: skip


def test_a_plan_whose_draft_looks_elsewhere_is_refused() -> None:
    plan = analyze(ask(**PAIR, num_draft_nodes=4))
    assert isinstance(plan, Plan)
    changed = dataclasses.replace(plan, speculation=dataclasses.replace(plan.speculation, draft_context=64))
    with pytest.raises(InputError, match="shape is a tree"):
        check_plan_values(changed, "plan")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(trees(8))
def test_any_tree(tree: Tree) -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, tree, batch_size=2, draft=perturbed(folder, 0.02)))
    prompts = PROMPTS[:3]
    for prompt, found in zip(prompts, serve(engine, prompts, 15), strict=True):
        assert found == reference_greedy(folder, prompt, 15)
