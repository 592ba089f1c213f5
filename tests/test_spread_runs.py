"""Every drafter wherever the search may place it, over forks of this process: the tokens and proposals of one process,
the planned bytes on every rank.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from specplan.parallelism import Parallelism
from specplan.planner.ask import ask
from specplan.planner.question import Question
from specplan.planner.variants import Variant, variants
from specplan.speculation import Drafter
from specplan_runtime.distributed.commands import Choose, Command, Forward, Passes
from specplan_runtime.distributed.interrupts import Interrupts
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from tests.eagle_helpers import eagle_folder, eagle_tensors
from tests.gguf_checkpoints import write_gguf
from tests.head_helpers import heads_folder, medusa_tensors
from tests.rank_helpers import alone, among_ranks
from tests.runtime_helpers import perturbed, plan_for, prompt_of, serve, spread_over, variant

TARGET = "llama-gqa"
PROMPTS = [prompt_of(9), [5], prompt_of(20)]
NEW_TOKENS = 10
TENSOR = Parallelism(2, (3,))
SPLIT = Parallelism(2, (3,), 1, "split")
LAST, FIRST = Parallelism(1, (2, 1), 1, "rank", 1), Parallelism(1, (2, 1), 1, "rank", 0)
BOTH = Parallelism(2, (1, 2), 1, "rank", 2)
SAMPLED = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, seed=3)
BUSHY: dict[str, Any] = {"tree": "medusa-default", "num_draft_nodes": 20}
TREE: dict[str, Any] = {"tree": "best", "num_draft_nodes": 6}
CHAIN: dict[str, Any] = {"num_speculative_tokens": 3}


@dataclass(frozen=True)
class Case:
    """A drafter somewhere.

    Attributes:
        drafter: who proposes.
        parallelism: where.
        shape: options of a chain or a tree.
        options: others.
        params: how tokens are chosen.
    """

    drafter: Drafter
    parallelism: Parallelism
    shape: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    params: SamplingParams | None = None


CASES: dict[str, Case] = {
    "plain, tensor ranks": Case("none", TENSOR, {}),
    "ngram, micro-batches": Case("ngram", Parallelism(1, (1, 2), 2, "rank", 1), CHAIN, {"batch_size": 3}),
    "draft, micro-batches over three stages, sampled": Case(
        "draft_model", Parallelism(1, (1, 1, 1), 3, "rank", 2), CHAIN, {"batch_size": 3}, SAMPLED
    ),
    "split draft, micro-batches of trees over both": Case(
        "draft_model", Parallelism(2, (2, 1), 2, "split", 2), TREE, {"batch_size": 3}
    ),
    "heads, micro-batches of trees over both": Case(
        "medusa", Parallelism(2, (1, 2), 2, "rank", 2), BUSHY, {"batch_size": 3}
    ),
    "draft beside the logits": Case("draft_model", LAST, CHAIN, {"batch_size": 2}),
    "draft beside the logits, tree": Case("draft_model", LAST, TREE),
    "draft on the first rank": Case("draft_model", FIRST, CHAIN, {"batch_size": 2}),
    "draft on the first rank, sampled": Case("draft_model", FIRST, CHAIN, {}, SAMPLED),
    "draft on every rank": Case("draft_model", Parallelism(2, (3,), 1, "replicated"), CHAIN),
    "split draft, sampled": Case("draft_model", SPLIT, CHAIN, {"batch_size": 2}, SAMPLED),
    "split draft, tree": Case("draft_model", SPLIT, TREE),
    "early exit": Case("early_exit", TENSOR, CHAIN),
    "early exit, tree, sampled": Case("early_exit", TENSOR, TREE, {}, SAMPLED),
    "heads": Case("medusa", BOTH, BUSHY),
    "heads, chain": Case("medusa", LAST, CHAIN, {"batch_size": 2}),
    "heads that share the head": Case("medusa", LAST, BUSHY, {"shared": True}),
    "split heads": Case("medusa", SPLIT, BUSHY, {"batch_size": 3}),
    "split heads, chain": Case("medusa", SPLIT, CHAIN),
    "split heads that share the head": Case("medusa", SPLIT, BUSHY, {"shared": True}, SAMPLED),
    "eagle3, tensor ranks": Case("eagle3", TENSOR, CHAIN, {"batch_size": 2}),
    "eagle3, stages": Case("eagle3", LAST, CHAIN, {"batch_size": 2}),
    "eagle3, tensor ranks, tree": Case("eagle3", TENSOR, TREE, {"batch_size": 2}),
    "eagle3, both, tree": Case("eagle3", BOTH, TREE),
    "eagle3, stages, tree, sampled": Case("eagle3", LAST, TREE, {"own": True}, SAMPLED),
    "eagle3, both, own embedding, sampled": Case("eagle3", BOTH, CHAIN, {"own": True}, SAMPLED),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for shared in (False, True):
        heads_folder(folder / f"medusa-{shared}", medusa_tensors(4, shares_head=shared), medusa_num_heads=4)
    for own in (False, True):
        eagle_folder(folder / f"eagle3-{own}", eagle_tensors(own_embedding=own))
    return folder


def options_of(case: Case, checkpoints: Path) -> dict[str, Any]:
    """Options of ``plan_for``."""
    options = {"drafter": case.drafter, "dtype": "float32", "kv_dtype": "float32"} | case.shape | case.options
    shared, own = options.pop("shared", False), options.pop("own", False)
    if case.drafter == "draft_model":
        options["draft"] = perturbed(variant(TARGET), 0.03)
    if case.drafter == "medusa":
        options["heads"] = checkpoints / f"medusa-{shared}"
    if case.drafter == "eagle3":
        options["heads"] = checkpoints / f"eagle3-{own}"
    return options


@pytest.mark.parametrize("name", CASES)
def test_ranks_propose_and_say_what_one_process_does(name: str, checkpoints: Path) -> None:
    case = CASES[name]
    plan = plan_for(variant(TARGET), knobs={"prefill_chunk": 7}, **options_of(case, checkpoints))
    one = alone(plan, PROMPTS, NEW_TOKENS, case.params)
    found = among_ranks(spread_over(plan, case.parallelism), PROMPTS, NEW_TOKENS, case.params)
    assert found == dataclasses.replace(one, differences=(0,) * case.parallelism.num_ranks)
    assert any(map(any, one.proposals)) or case.drafter == "none"
    assert one.num_accepted > 5 or case.drafter != "draft_model"


class Told(Ranks):
    """The deciding rank of two stages without the other, which would send zeros: what it tells."""

    def __init__(self, parallelism: Parallelism) -> None:
        self.parallelism, self.rank, self.stage, self.part = parallelism, 1, 1, 0
        self.interrupts, self._postponed = Interrupts(), None
        self.told: list[Command] = []

    def tell(self, command: Command) -> None:
        self.told.append(command)

    def exchange(self, own: list[int]) -> list[list[int]]:
        return [own, own]

    def receive(self, x: torch.Tensor, rank: int) -> None:
        x.zero_()


def test_chunks_of_a_prompt_and_micro_batches_are_told_at_once() -> None:
    """So that the first stage goes on while the second is busy; with one sequence left a step is one pass again."""
    options: dict[str, Any] = {"drafter": "none", "batch_size": 2, "dtype": "float32", "kv_dtype": "float32"}
    parallelism = Parallelism(1, (2, 1), 2, "rank", 1)
    plan = spread_over(plan_for(variant(TARGET), knobs={"prefill_chunk": 7}, **options), parallelism)
    ranks = Told(parallelism)
    engine = Engine(plan.seen_from(1), ranks=ranks)
    serve(engine, [prompt_of(20), prompt_of(5)], [4, 3])
    told = [(type(command), len(command.forwards) if isinstance(command, Passes) else 1) for command in ranks.told]
    prefill, step = [(Passes, 3), (Choose, 1), (Forward, 1), (Choose, 1)], (Passes, 2)
    assert told == [*prefill, step, step, (Forward, 1), (Choose, 1)]


# ------------------------------------------------------------------------------------- whatever is searched


Kind = tuple[Drafter, bool, str, bool]


def kind_of(drafter: Drafter, is_tree: bool, parallelism: Parallelism) -> Kind:
    """What the runtime does differently: the drafter, whether it is a tree, where it is, whether beside the logits."""
    beside = parallelism.draft_rank == parallelism.deciding_rank
    return drafter, is_tree, parallelism.draft_placement, beside or parallelism.draft_placement != "rank"


@cache
def ran() -> set[Kind]:
    return {kind_of(case.drafter, "tree" in case.shape, case.parallelism) for case in CASES.values()}


def searched(question: Question) -> list[Variant]:
    return [each for drafter in question.drafters for each in variants(question, drafter)]


@pytest.mark.parametrize("shape", [TREE, {}], ids=["trees", "chains"])
@pytest.mark.parametrize("gpu", ["rtx-3060,rtx-3090", "rtx-3090,rtx-3060,rtx-3060,rtx-3060"])
@pytest.mark.parametrize("drafter", ["none", "ngram", "draft_model", "early_exit", "medusa", "shared", "eagle3"])
def test_whatever_the_search_places_is_run_here(
    drafter: str, gpu: str, shape: dict[str, Any], checkpoints: Path
) -> None:
    options: dict[str, Any] = {"drafter": "medusa" if drafter == "shared" else drafter}
    if drafter == "draft_model":
        options["draft"] = str(variant(TARGET))
    if drafter in ("medusa", "shared"):
        options["heads"] = str(checkpoints / f"medusa-{drafter == 'shared'}")
    if drafter == "eagle3":
        options["heads"] = str(checkpoints / "eagle3-False")
    if shape and drafter in ("none", "ngram", "eagle3"):
        return
    folder = variant(TARGET, num_hidden_layers=4)
    question = ask(model=str(folder), gpu=gpu, context=128, batch_size=4, **options, **shape)
    found = searched(question)
    assert found
    kinds = set()
    for each in found:
        assert each.parallelism is not None
        kinds.add(kind_of(each.drafter, each.tree is not None, each.parallelism))
    assert kinds <= ran()


# ---------------------------------------------------------------------------------------- files and precisions


def test_a_gguf_over_ranks(tmp_path: Path) -> None:
    file = write_gguf(variant(TARGET), tmp_path / "target.gguf", dtype="Q8_0")
    plan = plan_for(file, dtype="float32", kv_dtype="float32", drafter="ngram", num_speculative_tokens=3)
    one = alone(plan, PROMPTS, NEW_TOKENS)
    for parallelism in (TENSOR, LAST):
        found = among_ranks(spread_over(plan, parallelism), PROMPTS, NEW_TOKENS)
        assert found == dataclasses.replace(one, differences=(0, 0))


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"kv_dtype": "int8"}], ids=str)
@pytest.mark.parametrize("parallelism", [TENSOR, LAST], ids=Parallelism.describe)
def test_other_precisions_over_ranks(options: dict[str, Any], parallelism: Parallelism) -> None:
    drafter = "early_exit" if parallelism == TENSOR else "ngram"
    plan = plan_for(variant("qwen2-tied"), drafter=drafter, num_speculative_tokens=2, **options)
    one, found = alone(plan, PROMPTS, NEW_TOKENS), among_ranks(spread_over(plan, parallelism), PROMPTS, NEW_TOKENS)
    assert found.differences == (0, 0)
    assert found.tokens == one.tokens
