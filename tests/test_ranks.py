"""Models spread over devices: what every rank holds, tensor by tensor, and what all of them hold together."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.errors import InputError, UnsupportedError
from specplan.formulas.memory import MemoryModel
from specplan.formulas.replicas import replicas
from specplan.heads import MedusaHeads, published_heads
from specplan.models.resolve import resolve_model
from specplan.parallel.checks import check_parallelism
from specplan.parallel.ranks import even_layers, rank_scenarios
from specplan.parallelism import Parallelism
from specplan.scenario import Scenario
from specplan.speculation import Chain, Drafter, Speculation, Tree
from specplan.trees import find_tree
from specplan.workload import Workload
from tests.conftest import tiny_arch
from tests.strategies import any_archs, runnable_archs

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 2}


def whole(
    target: ModelArch,
    draft: ModelArch | None = None,
    dtype: str = "float32",
    drafter: Drafter | None = None,
    batch_size: int = 3,
    device: str = "cpu-generic",
) -> Scenario:
    """A scenario on one device."""
    kv = "float32" if dtype == "float32" else "bfloat16"
    drafter = drafter or ("none" if draft is None else "draft_model")
    return Scenario(
        target,
        draft,
        device_profile(device),
        Workload(100, batch_size, dtype, kv, dtype, kv),
        Speculation(drafter, Chain(0 if drafter == "none" else 3), int(drafter == "early_exit"), 16, 4),
    )


def spread(scenario: Scenario, parallelism: Parallelism) -> list[dict[str, int]]:
    """Bytes by item of every rank."""
    check_parallelism(scenario, parallelism)
    devices = [scenario.device] * parallelism.num_ranks
    ranks = rank_scenarios(scenario, parallelism, devices)
    return [{item.name: item.bytes for item in MemoryModel(rank).ledger().items} for rank in ranks]


def weight_bytes(arch: ModelArch, dtype: str, parts: int, layers: range, first: bool, last: bool) -> int:
    """Weights of one rank counted tensor by tensor: columns are split, or rows, or nothing."""
    vector = ELEMENT_BYTES[dtype]
    total = 0

    def matrix(rows: int, columns: int, split: str, count: int = 1) -> None:
        nonlocal total
        rows, columns = (
            (rows // parts if split == "rows" else rows),
            (columns // parts if split == "columns" else columns),
        )
        total += count * (rows * (columns + vector) if dtype == "int8" else rows * columns * vector)

    def vectors(elements: int, split: bool, count: int = 1) -> None:
        nonlocal total
        total += count * (elements // parts if split else elements) * vector

    h, d, biased = arch.hidden_size, arch.head_dim, 1 + (arch.norm == "layer")
    heads, kv = arch.num_attention_heads, max(arch.num_key_value_heads, parts)
    vocab = (arch.vocab_size + parts - 1) // parts * parts
    if last or (first and arch.tie_word_embeddings):
        matrix(vocab, h, "rows")
    if first and not arch.tie_word_embeddings:
        vectors(vocab * h, split=True)
    vectors(h, split=False, count=last * biased)
    for layer in layers:
        matrix((heads * (1 + arch.query_gate) + 2 * kv) * d, h, "rows")
        matrix(h, heads * d, "columns")
        vectors((heads * (1 + arch.query_gate) + 2 * kv) * d, True, count=arch.qkv_bias)
        vectors(h, False, count=arch.output_bias)
        vectors(d, False, count=2 * (arch.qk_norm == "head"))
        vectors((heads + kv) * d, True, count=arch.qk_norm == "full")
        vectors(h, False, count=biased * arch.num_norms_per_layer)
        if arch.mlp_types[layer] == "dense":
            inner = (1 + arch.gated_mlp) * arch.intermediate_size
            matrix(inner, h, "rows")
            matrix(h, arch.intermediate_size, "columns")
            vectors(inner, True, count=arch.mlp_bias)
            vectors(h, False, count=arch.mlp_bias)
        else:
            assert arch.moe is not None
            experts, width = arch.moe.num_experts, arch.moe.moe_intermediate_size
            vectors(experts * h, False)
            vectors(experts, False, count=arch.moe.router_bias)
            matrix(2 * width, h, "rows", count=experts)
            matrix(h, width, "columns", count=experts)
            vectors(2 * width, True, count=experts * arch.moe.expert_bias)
            vectors(h, False, count=experts * arch.moe.expert_bias)
    return total


@st.composite
def splits(draw: st.DrawFn) -> tuple[ModelArch, Parallelism]:
    """A random model whose sizes divide, spread over tensor ranks and uneven stages."""
    arch = draw(runnable_archs(layers=7, hidden=40, inner=40, vocab=99))
    parts = draw(st.sampled_from((1, 2, 3, 4)))
    heads = arch.num_key_value_heads
    full_norm = arch.qk_norm == "full"
    kv = parts * heads if full_norm or draw(st.booleans()) else draw(st.sampled_from((1, parts)))
    moe = arch.moe
    if moe is not None:
        moe = dataclasses.replace(moe, moe_intermediate_size=parts * moe.moe_intermediate_size)
    arch = dataclasses.replace(
        arch,
        num_key_value_heads=kv,
        num_attention_heads=parts * kv,
        intermediate_size=parts * arch.intermediate_size,
        moe=moe,
    )
    cuts = (
        draw(st.sets(st.integers(1, arch.num_hidden_layers - 1), max_size=3)) if arch.num_hidden_layers > 1 else set()
    )
    ends = [*sorted(cuts), arch.num_hidden_layers]
    stages = tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))
    micro_batches = draw(st.integers(1, 3)) if len(stages) > 1 else 1
    return arch, Parallelism(parts, stages, micro_batches)


@given(splits(), st.sampled_from(("float32", "bfloat16", "int8")))
def test_ranks_hold_the_whole_model_and_what_is_named(split: tuple[ModelArch, Parallelism], dtype: str) -> None:
    arch, parallelism = split
    scenario = whole(arch, dtype=dtype)
    ranks = spread(scenario, parallelism)
    for rank, items in enumerate(ranks):
        stage = parallelism.stage_of(rank)
        begin = parallelism.first_layer(stage)
        layers = range(begin, begin + parallelism.stage_layers[stage])
        ends = stage == 0, stage == parallelism.num_stages - 1
        assert items["target.weights"] == weight_bytes(arch, dtype, parallelism.tensor_parallel, layers, *ends)
    single = {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}
    more: Counter[str] = Counter()
    for replica in replicas(scenario, parallelism):
        assert replica.bytes > 0
        more[replica.item] += replica.bytes
    for item in ("target.weights", "target.kv_cache"):
        assert sum(rank[item] for rank in ranks) == single[item] + more[item]


@given(any_archs(layers=6, hidden=40, inner=40, vocab=99), st.sampled_from((1, 2, 3)), st.integers(1, 3), st.booleans())
def test_models_that_are_only_planned_sum_up_too(arch: ModelArch, parts: int, num_stages: int, shared: bool) -> None:
    """Compressed caches, shared experts and routers on tensor ranks; recurrent layers in stages."""
    parts = 1 if {"linear_attention", "mamba", "hybrid"} & set(arch.layer_types) else parts
    num_stages = min(num_stages, arch.num_hidden_layers)
    moe = arch.moe
    if moe is not None:
        inner = parts * moe.moe_intermediate_size
        moe = dataclasses.replace(
            moe,
            moe_intermediate_size=inner,
            shared_intermediate_size=inner * shared,
            shared_gate=shared,
            router_correction=shared,
        )
    arch = dataclasses.replace(
        arch,
        num_attention_heads=parts * arch.num_attention_heads,
        num_key_value_heads=parts * arch.num_key_value_heads,
        intermediate_size=parts * arch.intermediate_size,
        moe=moe,
    )
    scenario = whole(arch, dtype="bfloat16")
    parallelism = Parallelism(parts, even_layers(arch.num_hidden_layers, num_stages))
    ranks = spread(scenario, parallelism)
    single = {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}
    more: Counter[str] = Counter()
    for replica in replicas(scenario, parallelism):
        more[replica.item] += replica.bytes
    for item in ("target.weights", "target.kv_cache", "target.recurrent_state"):
        assert sum(rank.get(item, 0) for rank in ranks) == single.get(item, 0) + more[item]


@pytest.mark.parametrize("placement", ["rank", "replicated", "split"])
@pytest.mark.parametrize("stage_layers", [(4,), (1, 3)])
def test_a_draft_lives_where_it_is_placed(placement: str, stage_layers: tuple[int, ...]) -> None:
    draft = tiny_arch(num_hidden_layers=3, hidden_size=24, tie_word_embeddings=True)
    scenario = whole(tiny_arch(num_hidden_layers=4), draft)
    parallelism = Parallelism(2, stage_layers, 1, placement, 1)  # type: ignore[arg-type]
    ranks = spread(scenario, parallelism)
    single = {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}
    have = [rank for rank, items in enumerate(ranks) if "draft.weights" in items]
    assert have == ([1] if placement == "rank" else list(range(parallelism.num_ranks)))
    more: Counter[str] = Counter()
    for replica in replicas(scenario, parallelism):
        more[replica.item] += replica.bytes
    for item in ("draft.weights", "draft.kv_cache"):
        assert sum(rank.get(item, 0) for rank in ranks) == single[item] + more[item]
    # probabilities are where they are drafted, and where it is decided
    drafted = {"rank": {1}, "replicated": set(range(len(ranks))), "split": set()}[placement]
    with_probs = {rank for rank, items in enumerate(ranks) if "draft_probs" in items}
    assert with_probs == drafted | {parallelism.deciding_rank}


def test_llama_2_70b_over_eight_devices_of_64_gigabytes() -> None:
    """Stages, tensor ranks and both: what the ranks hold is the model, its cache, its heads, and what is named."""
    target = resolve_model("llama-2-70b-chat").arch
    half, tree = "float16", find_tree("medusa-default")
    heads = MedusaHeads(5, 1, shares_head=False, topk=tree.topk)
    scenario = Scenario(
        target, None, device_profile("mi250"), Workload(2048, 10, half, half, half, half, 1024),
        Speculation("medusa", tree, 0, 256, 64), heads,
    )  # fmt: skip
    single = {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}
    assert single["target.weights"] == 2 * 68_976_648_192
    assert single["target.kv_cache"] == 2 * 2 * 80 * 10 * 8 * 128 * (2048 + 64)
    assert single["drafter.weights"] == 2 * 5 * (8192 * 8192 + 8192 + 32000 * 8192)
    norms = 2 * 8192 * (2 * 80 + 1)
    for parts, placement in ((1, "rank"), (2, "split"), (8, "split"), (8, "rank")):
        stages = 8 // parts
        parallelism = Parallelism(parts, even_layers(80, stages), 1, placement, 8 - parts)  # type: ignore[arg-type]
        ranks = spread(scenario, parallelism)
        assert all(sum(rank.values()) < 64e9 for rank in ranks)
        more = {(replica.item, replica.name): replica.bytes for replica in replicas(scenario, parallelism)}
        blocks = (parts - 1) * 2 * 5 * (8192 * 8192 + 8192) if placement == "split" else 0
        assert sum(rank["target.weights"] for rank in ranks) == single["target.weights"] + (parts - 1) * norms
        assert sum(rank["target.kv_cache"] for rank in ranks) == single["target.kv_cache"]
        assert sum(rank.get("drafter.weights", 0) for rank in ranks) == single["drafter.weights"] + blocks
        named = {"norms": (parts - 1) * 2 * 8192 * 160, "final norm": (parts - 1) * 2 * 8192, "blocks of heads": blocks}
        assert {name: num for (_, name), num in more.items()} == {name: num for name, num in named.items() if num}


def test_a_middle_stage_has_layers_and_nothing_else() -> None:
    scenario = whole(tiny_arch(num_hidden_layers=6))
    first, middle, last = spread(scenario, Parallelism(1, (2, 2, 2)))
    table = 32 * 16 * 4
    assert first["target.weights"] - middle["target.weights"] == table
    assert last["target.weights"] - middle["target.weights"] == table + 16 * 4
    assert first.keys() == middle.keys() == last.keys() | {"prefill_target.in_flight"}


def test_micro_batches_are_in_flight_and_make_passes_smaller() -> None:
    scenario = whole(tiny_arch(num_hidden_layers=4), batch_size=6, drafter="ngram")
    one, three = (spread(scenario, Parallelism(1, (2, 2), count))[0] for count in (1, 3))
    assert "verify.in_flight" not in one
    hidden = -(-2 * 4 * 16 * 4 // 256) * 256
    assert three["verify.hidden"] == hidden
    assert three["verify.in_flight"] == hidden
    for rank in (one, three):  # chunks of a prompt follow one another in any case
        assert rank["prefill_target.in_flight"] == rank["prefill_target.hidden"]
    assert three["verify.mask"] < one["verify.mask"]


def test_one_rank_samples_over_the_whole_vocabulary() -> None:
    scenario = whole(tiny_arch(vocab_size=301, intermediate_size=2))
    ranks = spread(scenario, Parallelism(2, (2,)))
    gathered = [rank["verify.gathered"] for rank in ranks]
    pairs = 256 + 256  # of three rows and of both ranks
    assert gathered == [pairs + -(-2 * 151 * 4 // 256) * 256, pairs]
    assert ranks[0]["verify.scratch"] > ranks[1]["verify.scratch"]


def test_communicators_are_items() -> None:
    scenario = whole(tiny_arch(num_hidden_layers=4), device="h100-80gb")
    tensor, stages = spread(scenario, Parallelism(2, (4,)))[0], spread(scenario, Parallelism(1, (1, 2, 1)))
    assert "nccl" in tensor
    assert "nccl_stages" not in tensor
    assert all("nccl" not in rank for rank in stages)
    ends, middle = stages[0]["nccl_stages"], stages[1]["nccl_stages"]
    assert middle == 2 * ends == 2 * 32 * (12 << 20)
    amd = spread(dataclasses.replace(scenario, device=device_profile("mi250")), Parallelism(2, (2, 2)))[0]
    assert amd["rccl"] == 2 * round(0.65 * 2**30)
    host = [
        spread(whole(tiny_arch(num_hidden_layers=4)), Parallelism(parts, (4,) if parts > 1 else (2, 2)))[0]
        for parts in (1, 2)
    ]
    assert ["gloo" in rank for rank in host] == [False, True]


@pytest.mark.parametrize(
    ("changes", "parallelism", "message"),
    [
        ({"num_attention_heads": 4}, Parallelism(3, (2,)), "num_attention_heads 4"),
        ({"intermediate_size": 25}, Parallelism(2, (2,)), "intermediate_size 25"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 4, "hidden_size": 24},
            Parallelism(6, (2,)),
            "num_key_value_heads 4",
        ),
        ({}, Parallelism(1, (1, 2)), "2 layers do not fill"),
        ({}, Parallelism(1, (2, 0)), "2 layers do not fill"),
        ({}, Parallelism(1, (2,), 2), "2 micro-batches"),
        ({}, Parallelism(1, (1, 1), 4), "4 micro-batches"),
        ({}, Parallelism(1, (1, 1), draft_rank=2), "draft_rank 2"),
    ],
)
def test_what_does_not_divide_is_refused(changes: dict[str, int], parallelism: Parallelism, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_parallelism(whole(tiny_arch(**changes)), parallelism)


def test_drafters_that_read_other_stages_are_refused() -> None:
    early = whole(tiny_arch(), drafter="early_exit")
    check_parallelism(early, Parallelism(2, (2,)))
    with pytest.raises(UnsupportedError, match="early_exit"):
        check_parallelism(early, Parallelism(1, (1, 1)))
    with pytest.raises(UnsupportedError, match="mtp"):
        check_parallelism(whole(tiny_arch(), drafter="mtp"), Parallelism(2, (2,)))


def test_an_eagle3_head_is_beside_the_logits_with_an_embedding() -> None:
    """In stages the target's embedding is elsewhere, in tensor ranks in parts: the head's rank holds a copy."""
    arch = tiny_arch(num_hidden_layers=4, vocab_size=99)
    heads = published_heads("eagle3", arch, Chain(3), shares_head=False)
    scenario = dataclasses.replace(whole(arch, drafter="eagle3"), heads=heads)
    single = {item.name: item.bytes for item in MemoryModel(scenario).ledger().items}
    for parallelism in (
        Parallelism(2, (4,)),
        Parallelism(1, (1, 3), draft_rank=1),
        Parallelism(2, (2, 2), 1, "rank", 2),
    ):
        ranks = spread(scenario, parallelism)
        have = [rank for rank, items in enumerate(ranks) if "drafter.weights" in items]
        assert have == [parallelism.deciding_rank]
        table = 99 * arch.hidden_size * 4
        assert ranks[have[0]]["drafter.weights"] == single["drafter.weights"] + table
        assert ranks[have[0]]["drafter.kv_cache"] == single["drafter.kv_cache"]
        (copy,) = (found for found in replicas(scenario, parallelism) if found.item == "drafter.weights")
        assert (copy.name, copy.bytes) == ("the target's embedding", table)
    with pytest.raises(InputError, match="rank that decides, 1"):
        check_parallelism(scenario, Parallelism(1, (1, 3), draft_rank=0))
    with pytest.raises(UnsupportedError, match="no micro-batches"):
        check_parallelism(scenario, Parallelism(1, (1, 3), 2, draft_rank=1))


def test_a_draft_that_proposes_trees_is_beside_the_logits_or_split() -> None:
    scenario = whole(tiny_arch(), tiny_arch())
    tree = Tree(((0,), (1,), (0, 0)))
    scenario = dataclasses.replace(scenario, speculation=dataclasses.replace(scenario.speculation, shape=tree))
    check_parallelism(scenario, Parallelism(1, (1, 1), draft_rank=1))
    check_parallelism(scenario, Parallelism(1, (1, 1), 1, "split"))
    with pytest.raises(UnsupportedError, match="lives on rank 1"):
        check_parallelism(scenario, Parallelism(1, (1, 1), draft_rank=0))


@pytest.mark.parametrize(
    ("layers", "stages", "expected"), [(80, 8, (10,) * 8), (32, 3, (11, 11, 10)), (7, 3, (2, 3, 2))]
)
def test_longer_stages_are_in_the_middle(layers: int, stages: int, expected: tuple[int, ...]) -> None:
    assert even_layers(layers, stages) == expected
