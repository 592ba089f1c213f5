"""Trees of proposals: their shape, greedy and sampled acceptance, Medusa heads."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given

from specplan.errors import InputError
from specplan.heads import MedusaHeads
from specplan.plan import Plan
from specplan.speculation import Tree
from specplan.trees import checked_tree, find_tree
from specplan_runtime.acceptance import SampledAcceptance, accept_greedy
from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.engine import Engine
from specplan_runtime.heads import run_medusa
from specplan_runtime.sampling import RowSampler, SamplingParams
from specplan_runtime.topology import topology_of
from tests.runtime_helpers import plan_for, prompt_of, reference_greedy, serve, variant, with_knobs
from tests.strategies import trees
from tests.test_sampling_exact import Branches, workspace

BUSHY = Tree(((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (2,)))


# ------------------------------------------------------------------------------------------------ shapes


def test_rows_of_a_tree_go_by_depth() -> None:
    tree = Tree(((0,), (0, 0), (1,), (0, 0, 2)))
    assert tree.rows == ((), (0,), (1,), (0, 0), (0, 0, 2))
    assert tree.parents == (0, 0, 1, 3)
    assert (tree.num_draft_nodes, tree.num_verify_tokens, tree.depth, tree.topk) == (4, 5, 3, 3)


def test_medusas_default_tree() -> None:
    tree = find_tree("medusa-default")
    assert (tree.num_draft_nodes, tree.depth, tree.topk) == (63, 4, 10)
    assert find_tree("mc_sim_7b_63") == tree


def test_the_papers_tree_has_its_published_levels() -> None:
    depths = [len(path) for path in find_tree("specmemo-44").nodes]
    assert [depths.count(depth) for depth in (1, 2, 3)] == [10, 16, 17]


@given(trees())
def test_the_first_nodes_of_a_tree_are_a_tree(tree: Tree) -> None:
    for count in range(1, tree.num_draft_nodes + 1):
        assert checked_tree(tree.pruned(count).nodes, "here").num_draft_nodes == count


@given(trees())
def test_a_row_sees_its_ancestors_only(tree: Tree) -> None:
    size = tree.num_verify_tokens
    topology = topology_of(tree, torch.empty(size, size, dtype=torch.bool))
    assert topology.hidden is not None
    for (i, one), (j, other) in itertools.product(enumerate(tree.rows), repeat=2):
        assert topology.hidden[i, j].item() is (one[: len(other)] != other)


@pytest.mark.parametrize("nodes", [(), ((0, 0),), ((0,), (0,)), ((-1,),), ((),), ((0,), (1, 0))])
def test_paths_that_are_no_tree_are_refused(nodes: Any) -> None:
    with pytest.raises(InputError, match="here"):
        checked_tree(nodes, "here")


# -------------------------------------------------------------------------------------------- acceptance


def test_greedy_acceptance_takes_the_longest_path() -> None:
    topology = topology_of(BUSHY, torch.empty(9, 9, dtype=torch.bool))
    tokens = {(0,): 5, (1,): 7, (2,): 9, (0, 0): 1, (0, 1): 2, (1, 0): 3, (0, 0, 0): 4, (0, 1, 0): 6}
    proposal = [tokens[path] for path in BUSHY.rows[1:]]
    best = dict.fromkeys(range(9), 8)
    row = {path: index for index, path in enumerate(BUSHY.rows)}
    best[0], best[row[(0,)]], best[row[(0, 1)]] = 5, 2, 6
    outcome = accept_greedy(topology, proposal, [best[index] for index in range(9)])
    assert outcome.path == [row[(0,)], row[(0, 1)], row[(0, 1, 0)]]
    assert outcome.tokens == [5, 2, 6, 8]


def joint_distribution(tree: Tree, tokens: list[int], rows: list[tuple[int, ...]]) -> dict[tuple[int, ...], Fraction]:
    """What a step emits, over every course that its uniform numbers can take; ``rows`` in quarters."""
    logits = torch.tensor(rows, dtype=torch.float32).log()
    size = tree.num_verify_tokens
    topology = topology_of(tree, torch.empty(size, size, dtype=torch.bool))
    joint: dict[tuple[int, ...], Fraction] = defaultdict(Fraction)
    source = Branches(12)
    for weight in source.runs():
        sampler = RowSampler(workspace(3), SamplingParams(temperature=1.0))
        judge = SampledAcceptance(topology, [tokens], {0: source}, sampler, lambda *_: None)
        judge.judge(iter([(0, logits[:2]), (2, logits[2:])]), [(0, row) for row in range(size)])
        joint[tuple(judge.outcomes[0].tokens)] += weight()
    return joint


@pytest.mark.parametrize("first", [(1, 0, 3), (2, 1, 1), (4, 0, 0), (0, 2, 2)])
@pytest.mark.parametrize("tokens", [(0, 1, 2, 0), (2, 0, 1, 1), (1, 2, 0, 2)])
def test_siblings_tried_in_turn_give_the_targets_distribution(first: Any, tokens: Any) -> None:
    """Two siblings, the first with two children: the first token, and the second one after it, are the target's."""
    tree = Tree(((0,), (1,), (0, 0), (0, 1)))
    second, other = (2, 1, 1), (1, 3, 0)
    rows = [first, second, other, (1, 1, 2), (1, 2, 1)]
    joint = joint_distribution(tree, list(tokens), rows)
    firsts: dict[int, Fraction] = defaultdict(Fraction)
    for emitted, chance in joint.items():
        firsts[emitted[0]] += chance
    assert dict(firsts) == {token: Fraction(count, 4) for token, count in enumerate(first) if count}
    for sibling, row in ((tokens[0], second), (tokens[1], other)):
        seconds: dict[int, Fraction] = defaultdict(Fraction)
        for emitted, chance in joint.items():
            if emitted[0] == sibling:
                seconds[emitted[1]] += chance
        total = sum(seconds.values(), start=Fraction(0))
        assert all(seconds[t] == total * Fraction(row[t], 4) for t in range(3))


# ------------------------------------------------------------------------------------------------ engine


class OracleDrafter(NoDrafter):
    """Proposes trees that hold what the target will say, at changing ranks, among tokens that it will not say."""

    def __init__(self, tree: Tree, truth: Callable[[list[int]], list[int]]) -> None:
        self._tree, self._truth = tree, truth

    def propose(self, rows: Any, limits: Any, params: SamplingParams) -> list[list[int]]:
        return [[] if s is None else self._proposal(s.tokens) for s in rows]

    def _proposal(self, tokens: list[int]) -> list[int]:
        future = self._truth(tokens)
        lucky = self._tree.nodes[len(tokens) % self._tree.num_draft_nodes]
        found = []
        for path in self._tree.rows[1:]:
            right = future[len(path) - 1] if len(path) <= len(future) else 0
            found.append(right if path == lucky[: len(path)] else (right + 1 + path[-1]) % 131)
        return found


def tree_plan(folder: Path, tree: Tree, batch_size: int = 1, **options: Any) -> Plan:
    """A Medusa plan that drafts exactly this tree."""
    plan = plan_for(folder, drafter="medusa", tree="medusa-default", batch_size=batch_size, **options)
    heads = MedusaHeads(tree.depth, 1, False, tree.topk)
    plan = dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, heads=heads), forward="specplan")
    return with_knobs(plan, shape=tree, prefill_chunk=7, logits_rows=3)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", ["llama-gqa", "qwen3-wide-heads", "gpt-neox", "olmo2", "mixtral"])
def test_trees_give_the_targets_own_tokens(name: str, batch_size: int) -> None:
    folder = variant(name)
    engine = Engine(tree_plan(folder, BUSHY, batch_size))
    engine.drafter = OracleDrafter(BUSHY, lambda tokens: reference_greedy(folder, tokens, 4))
    prompts, limits = [prompt_of(9), [5], prompt_of(17, seed=3), prompt_of(2)], [24, 9, 30, 1]
    for prompt, limit, found in zip(prompts, limits, serve(engine, prompts, limits), strict=True):
        assert found == reference_greedy(folder, prompt, limit)
    assert engine.stats.mean_accepted_length is not None
    assert 1.5 < engine.stats.mean_accepted_length < 4


def test_a_tree_at_the_end_of_the_context() -> None:
    folder = variant("llama-gqa")
    engine = Engine(tree_plan(folder, BUSHY))
    engine.drafter = OracleDrafter(BUSHY, lambda tokens: reference_greedy(folder, tokens, 4))
    prompt = prompt_of(60)
    assert engine.generate(prompt, 50) == reference_greedy(folder, prompt, 4)


# ------------------------------------------------------------------------------------------------ Medusa


def filled(engine: Engine, seed: int = 0) -> Engine:
    """Random weights in the heads."""
    medusa = engine.own.layout.medusa
    assert medusa is not None
    generator = torch.Generator().manual_seed(seed)
    for head in medusa.heads:
        tensors = [t for block in head.blocks for t in (block.weight, block.bias)] + [head.head.weight]
        for tensor in tensors:
            assert tensor is not None
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return engine


@pytest.mark.parametrize("batch_size", [1, 3])
def test_medusa_heads_speculate_without_changing_the_output(batch_size: int) -> None:
    folder = variant("llama-gqa")
    engine = filled(Engine(tree_plan(folder, BUSHY, batch_size)))
    prompts, limits = [prompt_of(9), [5], prompt_of(17, seed=3)], [20, 9, 30]
    for prompt, limit, found in zip(prompts, limits, serve(engine, prompts, limits), strict=True):
        assert found == reference_greedy(folder, prompt, limit)
    assert engine.stats.num_draft_tokens > 0


def test_medusa_candidates_are_the_heads_best_tokens() -> None:
    """Against the published definition: x + silu(W x + b), then the head; ranked."""
    engine = filled(Engine(tree_plan(variant("qwen2-tied"), BUSHY, batch_size=4)))
    layout = engine.own.layout
    assert layout.medusa is not None
    assert layout.medusa_work is not None
    layout.medusa.features.copy_(torch.randn(layout.medusa.features.shape, generator=torch.Generator().manual_seed(1)))
    run_medusa(layout.medusa, layout.medusa_work)
    for index, head in enumerate(layout.medusa.heads):
        (block,) = head.blocks
        x = layout.medusa.features
        x = x + torch.nn.functional.silu(torch.nn.functional.linear(x, block.weight, block.bias))
        expected = torch.topk(x @ head.head.weight.T, layout.medusa.candidates.shape[2]).indices
        assert torch.equal(layout.medusa.candidates[:, index], expected)
