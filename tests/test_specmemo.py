"""What bench/specmemo.py claims: bars of generation memory, closed forms against tensors, stages against passes."""

from __future__ import annotations

import pytest
import torch

from bench import specmemo, specmemo_70b
from bench import specmemo_search as search
from bench.medusa_reference import (
    num_leaves,
    paper_tree_buffers,
    prefill_logits_rows,
    reference_footprint,
    step_logits_rows,
)
from specplan.acceptance_profiles import bundled_acceptance
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Knobs
from specplan.planner.space import Candidates
from specplan.speculation import Tree
from specplan.speed.acceptance import Acceptance
from specplan.speed.roofline import Pass, pass_seconds
from specplan.trees import find_tree
from specplan_runtime.tracing.tracker import StorageTracker

#: One query and the paper's twenty; unpublished ranks counted least and most.
CASES = pytest.mark.parametrize(
    ("queries", "extended"), [(1, False), (1, True), (20, False), (20, True)], ids=["1", "1-most", "20", "20-most"]
)
SHARED = pytest.mark.parametrize("share_head", [False, True], ids=["own", "shared"])


@CASES
@SHARED
def test_65_percent_less_than_the_reference_at_96_percent_of_its_speed(
    queries: int, extended: bool, share_head: bool
) -> None:
    reference = specmemo.released(queries, extended)
    found = specmemo.ours(queries, extended, share_head, 0.96 * reference.throughput)
    assert found.throughput >= 0.96 * reference.throughput
    assert found.footprint.total <= 0.35 * reference.footprint.total
    # so it is against the four heads that its tree uses, of the five that it loads
    four = specmemo.released(queries, extended, num_heads=4)
    assert four.throughput > reference.throughput
    as_fast = specmemo.ours(queries, extended, share_head, 0.96 * four.throughput)
    assert as_fast.footprint.total <= 0.35 * four.footprint.total


@CASES
def test_steps_alone_need_a_shared_head_for_65_percent(queries: int, extended: bool) -> None:
    reference = specmemo.steps_only(queries, extended)
    shared = specmemo.ours(queries, extended, True, 0.96 * reference.throughput)
    own = specmemo.ours(queries, extended, False, 0.96 * reference.throughput)
    assert shared.footprint.total <= 0.35 * reference.footprint.total
    # two heads of their own miss the bar by little; docs/specmemo.md says so
    assert own.num_heads == 2
    assert 0.35 < own.footprint.total / reference.footprint.total < 0.37


@CASES
@SHARED
def test_less_than_specmemos_tree_at_its_speed(queries: int, extended: bool, share_head: bool) -> None:
    rival = specmemo.specmemo(queries, extended)
    found = specmemo.ours(queries, extended, share_head, rival.throughput)
    assert found.throughput >= rival.throughput
    assert found.footprint.total < rival.footprint.total
    with_its_tree = specmemo.ours_with(queries, extended, share_head, "specmemo-44")
    assert with_its_tree.throughput >= 0.999 * rival.throughput
    assert with_its_tree.footprint.total < rival.footprint.total


@CASES
def test_the_papers_tree_buffers_are_gone(queries: int, extended: bool) -> None:
    found = specmemo.ours(queries, extended, False, 0.96 * specmemo.released(queries, extended).throughput)
    buffers = found.footprint.logits + found.footprint.constants
    assert buffers <= 0.35 * paper_tree_buffers(42, 4, 32000)
    assert buffers < paper_tree_buffers(specmemo.SPECMEMO_LEAVES, specmemo.SPECMEMO_DEPTH, 32000)


def test_the_papers_figures() -> None:
    assert round(paper_tree_buffers(43, 4, 32000) / 1e6, 1) == 55.0
    assert round(paper_tree_buffers(19, 3, 32000) / 1e6, 1) == 19.5
    assert num_leaves(find_tree("medusa-default")) == 42
    assert num_leaves(Tree(((0,), (1,), (0, 0), (0, 1)))) == 3


@pytest.mark.parametrize("share_head", [False, True])
def test_kinds_sum_to_the_ledger(share_head: bool) -> None:
    (group, num_bytes), *_ = search.evaluated(1, False, share_head)
    for index in range(0, len(group), 97):
        scenario = group.scenario_at(index)
        ledger = MemoryModel(scenario).ledger()
        items = ledger.by_name()
        committed = 2 * 32 * 32 * 128 * 2 * scenario.workload.context  # K and V, layers, heads, head size, half
        whole = ledger.owned_bytes - items["target.weights"].bytes - committed
        assert search.footprint(scenario).total == whole == num_bytes[index]
        assert search.generation_bytes(scenario, Knobs(*_knobs(group, index))) == whole


def _knobs(group: Candidates, index: int) -> tuple[int, int, int]:
    return int(group.gamma[index]), int(group.prefill_chunk[index]), int(group.logits_rows[index])


def _logits(num_heads: int, rows: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.empty(1, rows, vocab, dtype=torch.float16, device="meta") + 0
    heads = [target + 0 for _ in range(num_heads)]
    return target, torch.stack(heads)


def _step(num_heads: int, rows: int, index: torch.Tensor, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of all rows, then of all paths; only views of those are kept, as the paths' last ones."""
    target, heads = _logits(num_heads, rows, vocab)
    return target[0, index], heads[:, 0, index]


@pytest.mark.parametrize(
    ("num_heads", "rows", "leaves", "depth"), [(5, 64, 42, 4), (3, 44, 19, 3), (2, 40, 3, 2), (1, 2, 1, 1)]
)
@pytest.mark.parametrize("prompt", [3, 64, 500])
def test_closed_forms_are_what_tensors_take(num_heads: int, rows: int, leaves: int, depth: int, prompt: int) -> None:
    vocab, paths = 1000, leaves * (depth + 1)
    index = torch.zeros(leaves, depth + 1, dtype=torch.int64, device="meta")
    with torch.no_grad(), StorageTracker() as tracker:
        with tracker.phase("first") as first:
            kept = tuple(logits[..., -1:, :] for logits in _logits(num_heads, prompt, vocab))
            kept = tuple(logits[..., :1, :] for logits in _step(num_heads, rows, index, vocab))
        with tracker.phase("later") as later:
            kept = tuple(logits[..., :1, :] for logits in _step(num_heads, rows, index, vocab))
    assert len(kept) == 2
    assert later.peak_bytes == step_logits_rows(num_heads, rows, paths) * vocab * 2
    assert first.peak_bytes == prefill_logits_rows(num_heads, prompt, rows, paths) * vocab * 2


def test_the_reference_by_hand() -> None:
    arch = search.question(1, extended=False).inputs.target.arch
    found = reference_footprint(
        arch, find_tree("medusa-default"), num_heads=5, context=128, prompt_rows=64, kv_positions=2048
    )
    assert found.drafter_weights == 5 * 2 * (4096 * 4096 + 4096 + 32000 * 4096)
    assert found.kv_slots == (2048 - 128) * 524288
    assert found.logits == (2 * 6 * 42 * 5 + 6 * 64) * 32000 * 2  # last gather, this one, and the rows themselves
    assert found.constants == 64 * 64 * 4 + (64 + 64 + 42 * 5) * 8


def test_stages_together_are_the_whole_model() -> None:
    scenario = specmemo_70b.scenario(4, None)
    each = Pass(rows=4, batch_size=4, context=scenario.workload.mean_context, logits_rows=4, head_rows=4)
    seconds = pass_seconds(scenario.target, scenario.device, "float16", "float16", each)
    assert specmemo_70b.step_seconds(scenario) == pytest.approx(float(seconds), rel=0.01)
    assert specmemo_70b.step_seconds(scenario) > float(seconds)
    assert specmemo_70b.parallelism().stage_layers == (10,) * 8


def test_devices_hold_the_whole_model() -> None:
    scenario = specmemo_70b.scenario(1, None)
    whole = MemoryModel(scenario).ledger().by_name()
    ranks = [MemoryModel(rank).ledger().by_name() for rank in specmemo_70b.ranks(scenario)]
    for item in ("target.weights", "target.kv_cache"):
        assert sum(rank[item].bytes for rank in ranks) == whole[item].bytes
    table = 32000 * 8192 * 2
    assert ranks[0]["target.weights"].bytes - ranks[1]["target.weights"].bytes == table
    assert ranks[7]["target.weights"].bytes - ranks[1]["target.weights"].bytes == table + 8192 * 2


def test_speculation_over_eight_devices() -> None:
    tree = find_tree("specmemo-44")
    acceptance = Acceptance.from_profile(bundled_acceptance(specmemo_70b.ACCEPTANCE))
    plain = [specmemo_70b.point(batch, None, acceptance) for batch in specmemo_70b.BATCHES]
    whole = [specmemo_70b.point(batch, tree, acceptance) for batch in specmemo_70b.BATCHES]
    assert whole[0].tokens_per_s > 2 * plain[0].tokens_per_s
    assert whole[-1].tokens_per_s < plain[-1].tokens_per_s  # 440 rows are bound by computing
    for batch, point in zip(specmemo_70b.BATCHES, plain, strict=True):
        best = specmemo_70b.best_tree(batch, tree, acceptance)
        assert specmemo_70b.speed(batch, best, acceptance)[1] >= 2 * point.tokens_per_s
    assert all(point.last_device_bytes < 64 << 30 for point in whole)
    assert all(point.middle_device_bytes < point.last_device_bytes for point in whole)


def test_any_split_is_at_least_as_good_as_stages() -> None:
    for drafter in ("none", "medusa"):
        stages, spread = (specmemo_70b.searched(4, drafter, parts) for parts in (1, None))
        assert spread.estimate.throughput.value >= stages.estimate.throughput.value
        assert spread.peak_bytes < 64 << 30
