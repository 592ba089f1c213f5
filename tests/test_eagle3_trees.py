"""Trees that an EAGLE-3 head drafts: the published definition along every path, lossless output, memory to the byte."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from specplan import planfile
from specplan.errors import SpecplanError
from specplan.formulas.memory import MemoryModel
from specplan.heads import Eagle3Head, head_layer
from specplan.plan import Plan
from specplan.plan_checks import check_plan_values
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.space import all_candidates
from specplan.speculation import Tree
from specplan.speed.roofline import Pass, pass_seconds
from specplan.speed.steps import draft_seconds
from specplan_runtime.drafters.eagle3_branching import Eagle3BranchingDrafter
from specplan_runtime.engine import Engine
from specplan_runtime.linear import PackedLinear
from specplan_runtime.packing import layout_of
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.verification import verify
from tests.eagle_helpers import (
    HIDDEN,
    ReferenceHead,
    eagle_config,
    eagle_folder,
    eagle_tensors,
    speculators_config,
)
from tests.runtime_helpers import (
    checkpoint,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_logits,
    reference_model,
    serve,
    variant,
    with_knobs,
)
from tests.strategies import trees
from tests.test_draft_trees import BUSHY, CROOKED, LIMITS, LINE, PROMPTS, WIDE, Outcomes
from tests.test_eagle3 import FEW, KNOWN, NEXT, TARGET, Witness, eagle_plan, features_of, rigged_plan

SHAPES = {"bushy": BUSHY, "crooked": CROOKED, "wide": WIDE, "line": LINE}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eagle_folder(tmp_path_factory.mktemp("eagle") / "heads")


def tree_plan(heads: Path, tree: Tree, target: str = TARGET, **options: Any) -> Plan:
    """A plan whose head proposes exactly this tree."""
    return with_knobs(eagle_plan(heads, target, 1, **options), shape=tree, logits_rows=3)


# ------------------------------------------------------------------------------------------------ the oracle


def check_tree(folder: Path, head: ReferenceHead, tokens: list[int], tree: Tree, proposal: list[int]) -> None:
    """Every node is the token of its rank after its path, which the head goes along by itself."""
    drafted = dict(zip(tree.rows[1:], proposal, strict=True))
    ids = head.tensors["d2t"] + torch.arange(len(head.tensors["d2t"]))
    states: dict[tuple[int, ...], torch.Tensor] = {}
    logits: dict[tuple[int, ...], torch.Tensor] = {}
    for path in tree.inner.rows:
        features = head.fuse(*features_of(folder, tuple(tokens[:-1])))
        if path:
            features = torch.cat([features, *(states[path[:end]] for end in range(len(path)))])
        hidden, scores = head(features, tokens[1:] + [drafted[path[:end]] for end in range(1, len(path) + 1)])
        states[path], logits[path] = hidden[-1:], scores[-1]
    for path, token in drafted.items():
        assert token == int(ids[torch.topk(logits[path[:-1]], path[-1] + 1).indices[-1]])


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("tree", [BUSHY, CROOKED], ids=["bushy", "crooked"])
@pytest.mark.parametrize("library", [False, True])
def test_nodes_are_those_of_the_published_definition(
    tmp_path: Path, library: bool, tree: Tree, batch_size: int
) -> None:
    """Step by step: after a prefill in chunks, in ragged batches, in rows that were taken over."""
    tensors = eagle_tensors("layers.0" if library else "midlayer", own_embedding=not library)
    config, folder = speculators_config() if library else None, variant(TARGET)
    engine = Engine(tree_plan(eagle_folder(tmp_path / "heads", tensors, config), tree, batch_size=batch_size))
    assert isinstance(engine.drafter, Eagle3BranchingDrafter)
    head = ReferenceHead(tensors, reference_model(folder).get_input_embeddings().weight, library)
    witness = Witness(engine)
    serve(engine, PROMPTS[:6], LIMITS[:6])
    drafted = [(tokens, proposal) for tokens, proposal in witness.seen if proposal]
    assert len(drafted) > 30
    with torch.no_grad():
        for tokens, proposal in drafted:
            check_tree(folder, head, tokens, tree, proposal)


# ------------------------------------------------------------------------------------------------ lossless


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("tree", SHAPES.values(), ids=SHAPES)
def test_greedy_output_is_the_targets(heads: Path, tree: Tree, batch_size: int) -> None:
    engine = Engine(tree_plan(heads, tree, batch_size=batch_size))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(variant(TARGET), prompt, limit)
    assert engine.stats.num_draft_tokens > 0


@pytest.mark.parametrize("name", ["llama-llama3-rope", "qwen2-tied", "olmo2", "gpt-neox", "mixtral"])
def test_families(heads: Path, name: str) -> None:
    engine = Engine(tree_plan(heads, CROOKED, name, batch_size=3))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(variant(name), prompt, limit)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"kv_dtype": "int8"}, {"chunk": 64}])
def test_other_precisions_and_chunks_give_what_plain_decoding_gives(heads: Path, options: Any) -> None:
    engine = Engine(tree_plan(heads, BUSHY, "qwen2-tied", batch_size=2, **options))
    found = serve(engine, PROMPTS, 12)
    assert engine.stats.num_draft_tokens > 0
    engine.set_speculating(False)
    assert serve(engine, PROMPTS, 12) == found


@settings(max_examples=12, deadline=None, derandomize=True)
@given(trees(8))
def test_any_tree(tree: Tree) -> None:
    folder = variant(TARGET)
    engine = Engine(tree_plan(eagle_folder(folder.with_name("eagle-for-any-tree")), tree, batch_size=2))
    for prompt, found in zip(PROMPTS[:3], serve(engine, PROMPTS[:3], 15), strict=True):
        assert found == reference_greedy(folder, prompt, 15)


def test_a_context_that_fills_up(heads: Path) -> None:
    engine = Engine(tree_plan(heads, BUSHY, batch_size=2, context=24))
    prompts = [prompt_of(22), prompt_of(19), [3]]
    found = serve(engine, prompts, 100)
    for prompt, tokens in zip(prompts, found, strict=True):
        assert tokens == reference_greedy(variant(TARGET), prompt, 24 - len(prompt))


@pytest.mark.parametrize("shared", [None, 12, 3])
def test_the_next_turn_drafts_as_from_the_start(heads: Path, shared: int | None) -> None:
    engine, folder = Engine(tree_plan(heads, CROOKED, chunk=4, context=90)), variant(TARGET)
    sequence = engine.open(prompt_of(9), 11)
    engine.start(sequence, SamplingParams())
    list(engine.run_row(sequence, SamplingParams()))
    prompt = [*sequence.tokens[:shared], *prompt_of(6, seed=3)]
    engine.resume(sequence, prompt, 15)
    witness = Witness(engine)
    engine.start(sequence, SamplingParams())
    list(engine.run_row(sequence, SamplingParams()))
    assert sequence.new_tokens == reference_greedy(folder, prompt, 15)
    head = ReferenceHead(eagle_tensors(), reference_model(folder).get_input_embeddings().weight)
    with torch.no_grad():
        for tokens, proposal in witness.seen:
            if proposal:
                check_tree(folder, head, tokens, CROOKED, proposal)


def test_steps_without_drafts_keep_the_head_up_to_date(heads: Path) -> None:
    engine, folder = Engine(tree_plan(heads, BUSHY)), variant(TARGET)
    sequence = engine.open(prompt_of(9), 20)
    engine.start(sequence, SamplingParams())
    engine._rows = [sequence]
    limits, witness = iter([8, 0, 0, 8, 0] * 9), Witness(engine)
    engine._limits = lambda: [next(limits)]  # type: ignore[method-assign]
    while sequence.finish_reason is None:
        engine.step(SamplingParams())
    assert {len(proposal) for _, proposal in witness.seen} == {0, 8}
    head = ReferenceHead(eagle_tensors(), reference_model(folder).get_input_embeddings().weight)
    with torch.no_grad():
        for tokens, proposal in witness.seen:
            if proposal:
                check_tree(folder, head, tokens, BUSHY, proposal)


# ------------------------------------------------------------------------------------------------ acceptance


def rank_after(token: int) -> int:
    """The rank that the rigged head gives to the token that really follows."""
    return token // 2 % 3


def knowing_head() -> torch.Tensor:
    """Logits [V_d, V] of a head that knows what follows every even token, but not always best."""
    logits = torch.zeros(len(KNOWN), FEW)
    for token in range(0, FEW, 2):
        order = [other for other in KNOWN.tolist() if other != NEXT[token]]
        order.insert(rank_after(token), NEXT[token])
        for rank, other in enumerate(order):
            logits[other // 2, token] = 9 - rank
    return logits


def passes_of(tree: Tree, last: int, num_tokens: int) -> tuple[int, int]:
    """Verify passes for so many tokens after ``last``, and what they accept, by following the head's ranks."""
    passes = accepted = 0
    while num_tokens > 0:
        path: list[int] = []
        token = last
        while num_tokens > 1 and (*path, rank_after(token)) in tree.nodes:
            path.append(rank_after(token))
            token = NEXT[token]
        emitted = min(len(path) + 1, num_tokens)
        passes, accepted = passes + 1, accepted + min(len(path), emitted)
        num_tokens -= emitted
        last = (last + 2 * emitted) % FEW
    return passes, accepted


FULL = Tree(tuple(path for depth in (1, 2, 3) for path in itertools.product(range(3), repeat=depth)))
TWISTED = Tree(((2,), (0,), (1,), (2, 0), (0, 1), (1, 2), (2, 0, 1), (0, 1, 2), (1, 2, 0)))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("tree", [FULL, TWISTED, CROOKED, LINE], ids=["full", "twisted", "crooked", "line"])
def test_what_the_head_knows_is_accepted(tmp_path: Path, tree: Tree, batch_size: int) -> None:
    """Branches of other ranks than the best: features of accepted rows, and the path, move to the front."""
    target = torch.full((FEW, FEW), -9.0)
    target[range(FEW), NEXT] = 9.0
    plan = rigged_plan(tmp_path, target, knowing_head(), walks=True, gamma=1)
    plan = dataclasses.replace(plan, workload=dataclasses.replace(plan.workload, batch_size=batch_size))
    engine = Engine(with_knobs(plan, shape=tree, prefill_chunk=2, logits_rows=3))
    prompts = [[6, 8, 10], [2, 4], [0, 2, 4, 6, 8]][:batch_size]
    num_tokens, expected = 1 + 21, []
    for prompt, found in zip(prompts, serve(engine, prompts, num_tokens), strict=True):
        assert found == [(prompt[-1] + 2 + 2 * step) % FEW for step in range(num_tokens)]
        expected.append(passes_of(tree, NEXT[prompt[-1]], num_tokens - 1))
    assert engine.stats.num_accepted_tokens == sum(accepted for _, accepted in expected)
    assert engine.stats.num_passes == sum(passes for passes, _ in expected)
    if tree is FULL:
        assert expected[0] == (6, 15)


@pytest.mark.parametrize("tree", [Tree(((0,), (1,), (1, 0), (1, 1))), WIDE], ids=["deep", "wide"])
def test_sampling_is_the_targets_distribution(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every course of three tokens over five, of which the head knows four; against transformers' probabilities."""
    folder, ids = checkpoint("llama", vocab_size=5), torch.tensor([0, 1, 3, 4])
    tensors = eagle_tensors(ids=ids)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][: len(ids)].contiguous()
    heads = eagle_folder(tmp_path, tensors, eagle_config(vocab_size=5, draft_vocab_size=len(ids)))
    plan = plan_for(folder, heads=heads, drafter="eagle3", num_speculative_tokens=1)
    engine = Engine(with_knobs(plan, shape=tree, prefill_chunk=7, logits_rows=3))
    outcomes, params, prompt = Outcomes(monkeypatch), SamplingParams(temperature=2.0), [0, 1, 2, 0, 1]
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


def test_one_kept_token_is_greedy(heads: Path) -> None:
    engine = Engine(tree_plan(heads, CROOKED, batch_size=3))
    greedy = serve(engine, PROMPTS, LIMITS)
    assert serve(engine, PROMPTS, LIMITS, SamplingParams(temperature=1.0, top_k=1)) == greedy


# ------------------------------------------------------------------------------------------------ memory


def wide_heads(root: Path, inner: int = 320) -> Path:
    """A head whose MLP is wider than everything that the target has."""
    tensors, generator = eagle_tensors(), torch.Generator().manual_seed(1)
    for name, shape in (("gate_proj", (inner, HIDDEN)), ("up_proj", (inner, HIDDEN)), ("down_proj", (HIDDEN, inner))):
        tensors[f"midlayer.mlp.{name}.weight"] = torch.randn(shape, generator=generator) / 8
    return eagle_folder(root, tensors, eagle_config(intermediate_size=inner))


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16", "batch_size": 3}, {"dtype": "int8", "batch_size": 2},
                                     {"kv_dtype": "int4", "dtype": "float16"}, {"gpu": "h200"}])  # fmt: skip
@pytest.mark.parametrize("tree", [BUSHY, WIDE], ids=["bushy", "wide"])
def test_verify_agrees_to_the_byte(tmp_path: Path, tree: Tree, options: Any) -> None:
    plan = tree_plan(wide_heads(tmp_path), tree, **options)
    assert not [item.name for item in plan.ledger.owned_items() if item.source != "exact"]
    assert [proof.difference for proof in verify(plan).proofs] == [0] * len(verify(plan).proofs)


@pytest.mark.parametrize("shape", [BUSHY, None], ids=["tree", "chain"])
def test_packed_layers_hold_what_the_ledger_says(tmp_path: Path, shape: Tree | None) -> None:
    """On a CPU the head is packed like the target, and its largest kernel output counts."""
    heads = wide_heads(tmp_path)
    plan = eagle_plan(heads, gamma=3, batch_size=2) if shape is None else tree_plan(heads, shape, batch_size=2)
    engine = Engine(plan)
    head = engine.own.layout.eagle3
    assert head is not None
    (layer,) = head.parameters.layers
    held = (layer.qkv, layer.output, layer.gate_up, layer.down, head.parameters.head, *head.tap.fusion)
    for linear in held:
        packable = layout_of(linear.out_features, linear.weight.shape[1]) is not None  # type: ignore[union-attr]
        assert isinstance(linear, PackedLinear) == packable
    rows = max(4, 2 * 4)  # of a prefill chunk of 7, and of a draft pass over two sequences
    expected = plan.ledger.by_name()["kernel_output"].bytes
    assert expected == rows * (2 * 320 + HIDDEN) * 4
    assert engine.assembly.largest_kernel_output() == expected
    serve(engine, PROMPTS[:3], 9)
    assert engine.assembly.largest_kernel_output() == expected


# ------------------------------------------------------------------------------------------------ planning

BIG: dict[str, Any] = {"model": "llama-3.1-8b", "drafter": "eagle3", "gpu": "h200", "context": 2048}


def test_heads_are_asked_for_a_tree_without_a_name(heads: Path, tmp_path: Path) -> None:
    for options in ({"tree": "best"}, {"num_draft_nodes": 6}, {"tree": "specmemo-44", "num_draft_nodes": 9}):
        plan = plan_for(variant(TARGET), heads=heads, alpha=0.9, **options)
        assert isinstance(plan.speculation.shape, Tree)
        assert (plan.forward, plan.speculation.drafter) == ("specplan", "eagle3")
        check_plan_values(plan, "plan")
        planfile.save(plan, tmp_path / "plan.json")
        assert planfile.load(tmp_path / "plan.json") == plan
    with pytest.raises(SpecplanError, match="--num-draft-nodes needs --drafter"):
        ask(model=str(variant(TARGET)), gpu="cpu-generic", num_draft_nodes=4)


def test_windowed_layers_take_chains_only(heads: Path) -> None:
    with pytest.raises(SpecplanError, match="windowed layers"):
        plan_for(variant("mistral-window"), heads=heads, tree="best")


def test_every_size_of_a_searched_tree_has_the_bytes_of_its_own_ledger() -> None:
    groups = [group for group in all_candidates(ask(**BIG, tree="best")) if group.drafter == "eagle3"]
    assert max(group.gamma.max() for group in groups) == 64
    for group in groups:
        for index in range(0, len(group), 97):
            assert MemoryModel(group.scenario_at(index)).ledger().peak_bytes == group.peak_bytes[index]


def test_a_step_drafts_once_per_depth() -> None:
    """Each pass takes what the roofline says of its rows; sizes in between add up as their pruned trees do."""
    (group,) = [group for group in all_candidates(ask(**BIG, tree="specmemo-44")) if group.drafter == "eagle3"][:1]
    scenario, tree = group.scenario, group.variant.tree
    assert tree is not None
    assert isinstance(scenario.heads, Eagle3Head)
    sizes = np.arange(1, tree.num_draft_nodes + 1)
    found = draft_seconds(scenario, None, sizes, np.full(len(sizes), 8))  # type: ignore[arg-type]  # no timer is asked
    for size in (1, 7, 20, tree.num_draft_nodes):
        pruned = tree.pruned(size)
        widths = [sum(len(path) == depth for path in pruned.inner.rows) for depth in range(pruned.depth)]
        each = [
            pass_seconds(
                head_layer(scenario.heads, scenario.target), scenario.device, "bfloat16", scenario.workload.kv_dtype,
                Pass(
                    rows=width, batch_size=1, context=scenario.workload.mean_context, head_rows=width, logits_rows=8,
                ),
            ) for width in widths
        ]  # fmt: skip
        assert found[size - 1] == pytest.approx(float(sum(each)))


def test_the_best_tree_is_no_slower_than_the_best_chain() -> None:
    chain, tree = analyze(ask(**BIG)), analyze(ask(**BIG, tree="best"))
    assert isinstance(chain, Plan)
    assert isinstance(tree, Plan)
    assert isinstance(tree.speculation.shape, Tree)
    assert tree.estimate.tokens_per_s.value >= 0.99 * chain.estimate.tokens_per_s.value
