"""``specplan verify`` over several devices: one rank of each kind, formula against trace, and all ranks together."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specplan import planfile
from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.heads import Heads, MedusaHeads, published_heads
from specplan.ledger import MemoryLedger
from specplan.models.resolve import resolve_model
from specplan.parallel.checks import can_spread
from specplan.parallel.ranks import even_layers
from specplan.parallelism import DraftPlacement, Parallelism
from specplan.plan import Plan, RankKind
from specplan.speculation import MODEL_DRAFTERS, Chain, Speculation, Tree
from specplan.trees import find_tree
from specplan.workload import Workload
from specplan_runtime.verification import Verification, verify
from tests.conftest import tiny_arch
from tests.runtime_helpers import spread_over
from tests.strategies import eagle3_heads, family_configs, trees
from tests.test_cli import ended
from tests.test_verification import FLOATS, arch_of, plan_of, workloads

_DRAFTERS = ("none", "ngram", "early_exit", "draft_model", "medusa", "eagle3")
_SIZES = ("num_attention_heads", "hidden_size", "intermediate_size", "moe_intermediate_size")


@st.composite
def spread_archs(draw: st.DrawFn, parts: int, num_layers: int) -> ModelArch:
    """A model of any family that the runtime computes, whose sizes divide by ``parts``."""
    config: dict[str, Any] = draw(family_configs())
    config |= {name: parts * config[name] for name in _SIZES if name in config}
    kv_heads = config["num_key_value_heads"]
    if parts % kv_heads or config["model_type"] in ("gpt_neox", "olmo2") or draw(st.booleans()):
        config["num_key_value_heads"] = parts * kv_heads
    config["num_hidden_layers"] = num_layers
    if "max_window_layers" in config:
        config["max_window_layers"] = draw(st.integers(0, num_layers))
    return arch_of(config)


@st.composite
def splits(draw: st.DrawFn, batch_size: int) -> Parallelism:
    """Tensor ranks, stages of any length, or both, with micro-batches and a place for a drafter."""
    parts = draw(st.sampled_from((1, 2, 3, 4)))
    stages = tuple(draw(st.lists(st.integers(1, 2), min_size=1 if parts > 1 else 2, max_size=3)))
    micro_batches = draw(st.integers(1, batch_size)) if len(stages) > 1 else 1
    placement = draw(st.sampled_from(("rank", "replicated", "split")))
    rank = draw(st.integers(0, parts * len(stages) - 1))
    return Parallelism(parts, stages, micro_batches, placement, rank)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """A plan whose text is short."""

    plan: Plan = field(repr=False)
    drafter: str
    parallelism: Parallelism


@st.composite
def spread_plans(draw: st.DrawFn) -> Case:
    """Plans over ranks: every family, every split, every drafter that can be spread, chains and trees."""
    drafter = draw(st.sampled_from(_DRAFTERS))
    workload = draw(workloads((*FLOATS, "int8"), same_cache=False))
    parallelism = draw(splits(workload.batch_size))
    num_layers = sum(parallelism.stage_layers)
    arch = draw(spread_archs(parallelism.tensor_parallel, num_layers))
    draft = draw(spread_archs(parallelism.tensor_parallel, num_layers)) if drafter == "draft_model" else None
    shape: Chain | Tree = Chain(0 if drafter == "none" else draw(st.integers(1, 7)))
    if drafter == "medusa" or (drafter in MODEL_DRAFTERS and draw(st.booleans())):
        shape = draw(trees())
        slots = workload.context + shape.num_verify_tokens
        assume(not any(model.windowed_layers(slots) for model in (arch, draft) if model is not None))
    heads: Heads | None = None
    if drafter == "medusa" and isinstance(shape, Tree):
        heads = MedusaHeads(shape.depth, draw(st.integers(1, 2)), draw(st.booleans()), shape.topk)
    if drafter == "eagle3":
        heads = draw(eagle3_heads(arch))
    if heads is not None and (drafter == "eagle3" or parallelism.draft_placement != "split"):
        parallelism = dataclasses.replace(parallelism, draft_placement="rank", draft_rank=parallelism.deciding_rank)
    exit_layers = draw(st.integers(1, num_layers)) if drafter == "early_exit" else 0
    speculation = Speculation(drafter, shape, exit_layers, draw(st.integers(1, 90)), draw(st.integers(2, 30)))  # type: ignore[arg-type]
    plan = plan_of(arch, draft, workload, speculation, heads=heads)
    assume(can_spread(plan.whole, parallelism))
    return Case(spread_over(plan, parallelism), drafter, parallelism)


def assert_holds(plan: Plan) -> Verification:
    found = verify(plan)
    assert [proof for proof in found.proofs if proof.difference] == []
    return found


def kinds_of(plan: Plan) -> tuple[RankKind, ...]:
    assert plan.spread is not None
    return plan.spread.kinds


@settings(max_examples=30)
@given(spread_plans())
def test_formula_and_trace_agree_on_every_kind_of_rank(case: Case) -> None:
    plan = case.plan
    found = assert_holds(plan)
    for kind in kinds_of(plan):  # nothing that the runtime owns is left out
        lines = [proof for proof in found.proofs if proof.ranks == kind.ranks and "." not in proof.subject]
        assert sum(line.formula_bytes for line in lines) == sum(item.bytes for item in kind.ledger.owned_items())
    everyone = tuple(range(max(max(kind.ranks) for kind in kinds_of(plan)) + 1))
    together = [
        proof.subject for proof in found.proofs if proof.ranks == everyone and proof.method.endswith("replicas")
    ]
    assert "target.kv_cache" in together


def llama_2_70b(parallelism: Parallelism) -> Plan:
    """Llama-2-70B in half precision with five Medusa heads over eight devices of 64 GB, at batch 10."""
    half, tree = "float16", find_tree("medusa-default")
    return spread_over(
        plan_of(
            resolve_model("llama-2-70b-chat").arch,
            None,
            Workload(2048, 10, half, half, half, half, 1024),
            Speculation("medusa", tree, 0, 256, 64),
            device=device_profile("mi250"),
            budget_bytes=int(device_profile("mi250").memory_bytes.value),
            heads=MedusaHeads(5, 1, shares_head=False, topk=tree.topk),
        ),
        parallelism,
    )


@pytest.mark.parametrize(("parts", "placement"), [(1, "rank"), (2, "rank"), (2, "split"), (8, "rank"), (8, "split")])
def test_llama_2_70b_over_eight_devices(parts: int, placement: DraftPlacement) -> None:
    plan = llama_2_70b(Parallelism(parts, even_layers(80, 8 // parts), 1, placement, 8 - parts))
    assert all(kind.ledger.peak_bytes < kind.budget_bytes for kind in kinds_of(plan))
    together = {proof.subject: proof for proof in assert_holds(plan).proofs if len(proof.ranks) == 8}
    norms = (parts - 1) * 2 * 8192 * (2 * 80 + 1)
    assert together["target.weights"].traced_bytes == 2 * 68_976_648_192 + norms
    assert together["target.kv_cache"].traced_bytes == 2 * 2 * 80 * 10 * 8 * 128 * (2048 + 64)


def changed(plan: Plan, rank: int, name: str, num_bytes: int) -> Plan:
    """The plan with another figure in a rank's ledger."""
    assert plan.spread is not None

    def other(kind: RankKind) -> RankKind:
        items = tuple(
            dataclasses.replace(item, bytes=item.bytes + num_bytes) if item.name == name else item
            for item in kind.ledger.items
        )
        return dataclasses.replace(kind, ledger=MemoryLedger(items)) if rank in kind.ranks else kind

    spread = dataclasses.replace(plan.spread, kinds=tuple(map(other, plan.spread.kinds)))
    return dataclasses.replace(plan, spread=spread, ledger=spread.kind_of(spread.binding_rank).ledger)


@pytest.fixture(scope="module")
def staged() -> Plan:
    arch = resolve_model("smollm2-135m").arch
    workload = Workload(100, 3, "float16", "float16", "float16", "float16")
    plan = plan_of(arch, None, workload, Speculation("ngram", Chain(3), 0, 16, 4))
    return spread_over(plan, Parallelism(3, (10, 20), 2))


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("verify.in_flight", (0, 1, 2)),
        ("verify.gathered", (3,)),
        ("target.weights", (4, 5)),
        ("target.kv_cache", (3,)),
    ],
)
def test_a_byte_too_many_on_one_kind_of_rank_is_found(name: str, ranks: tuple[int, ...], staged: Plan) -> None:
    found = verify(changed(staged, ranks[0], name, 1))
    assert not found.holds
    assert {proof.ranks for proof in found.proofs if proof.difference} <= {ranks, (0, 1, 2, 3, 4, 5)}


def test_a_replica_that_is_not_named_is_found(staged: Plan) -> None:
    assert staged.spread is not None
    replicas = {name: num for name, num in staged.spread.replicas.items() if name != "target.weights: tied table"}
    assert len(replicas) < len(staged.spread.replicas)
    found = verify(dataclasses.replace(staged, spread=dataclasses.replace(staged.spread, replicas=replicas)))
    assert [proof.subject for proof in found.proofs if proof.difference] == ["target.weights"]


@pytest.mark.parametrize("parallelism", [Parallelism(2, (6,)), Parallelism(2, (1, 2, 3), 1, "rank", 4)])
def test_an_eagle3_head_reads_features_of_all_stages(parallelism: Parallelism) -> None:
    arch = tiny_arch(num_hidden_layers=6, vocab_size=99)
    heads = published_heads("eagle3", arch, Chain(3), shares_head=False)
    workload, speculation = (
        Workload(100, 3, "float32", "float32", "float32", "float32"),
        Speculation("eagle3", Chain(3), 0, 16, 4),
    )
    plan = plan_of(arch, None, workload, speculation, heads=heads)
    assert_holds(spread_over(plan, parallelism))


def test_the_command_line(
    staged: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    planfile.save(staged, path)
    answer = ended(monkeypatch, capsys, "verify", str(path), "--format", "json")
    assert answer.returncode == 0
    lines = json.loads(answer.stdout)["lines"]
    assert {tuple(line["ranks"]) for line in lines} == {(0, 1, 2), (3,), (4, 5), (0, 1, 2, 3, 4, 5)}
    shown = ended(monkeypatch, capsys, "verify", str(path)).stdout
    assert "ranks 0 to 2" in shown
    assert "0 bytes difference" in shown
    planfile.save(changed(staged, 3, "verify.gathered", 256), path)
    answer = ended(monkeypatch, capsys, "verify", str(path))
    assert answer.returncode == 1
    assert "differ, most on verify of rank 3: -256 bytes" in answer.stdout
