"""Every drafter, chain and tree, over fifty prompts: greedy output is the target's own, row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specplan.plan import Plan
from specplan_runtime.engine import Engine
from tests import test_draft_trees, test_eagle3_trees, test_trees
from tests.eagle_helpers import eagle_folder
from tests.runtime_helpers import perturbed, plan_for, prompt_of, reference_greedy, serve, variant
from tests.test_eagle3 import eagle_plan

TARGET = "llama-gqa"
GAMMA = 4
PROMPTS = [prompt_of(1 + 7 * seed % 23, seed=seed) for seed in range(40)]
#: Prompts in which prompt lookup finds something.
PROMPTS += [prompt_of(6, seed=seed) * 3 for seed in range(10)]
LIMITS = [1 + 5 * seed % 16 for seed in range(50)]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eagle_folder(tmp_path_factory.mktemp("eagle") / "heads")


def chain(drafter: str, **options: Any) -> Plan:
    return plan_for(variant(TARGET), drafter=drafter, num_speculative_tokens=GAMMA, **options)


def tree(drafter: str, **options: Any) -> Plan:
    return test_draft_trees.tree_plan(variant(TARGET), test_draft_trees.BUSHY, drafter, **options)


PLANS: dict[str, Callable[[Path, int], Plan]] = {
    "ngram": lambda _, batch: chain("ngram", batch_size=batch),
    "early exit": lambda _, batch: chain("early_exit", batch_size=batch),
    "draft model": lambda _, batch: chain("draft_model", draft=perturbed(variant(TARGET), 0.02), batch_size=batch),
    "early exit, tree": lambda _, batch: tree("early_exit", batch_size=batch),
    "draft model, tree": lambda _, batch: tree("draft_model", draft=perturbed(variant(TARGET), 0.02), batch_size=batch),
    "Medusa, tree": lambda _, batch: test_trees.tree_plan(variant(TARGET), test_trees.BUSHY, batch),
    "EAGLE-3": lambda heads, batch: eagle_plan(heads, TARGET, GAMMA, batch_size=batch),
    "EAGLE-3, tree": lambda heads, batch: test_eagle3_trees.tree_plan(
        heads, test_draft_trees.BUSHY, TARGET, batch_size=batch
    ),
}


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("name", PLANS)
def test_fifty_prompts(heads: Path, name: str, batch_size: int) -> None:
    engine = Engine(PLANS[name](heads, batch_size))
    if name.startswith("Medusa"):
        test_trees.filled(engine)
    found = serve(engine, PROMPTS, LIMITS)
    assert found == [
        reference_greedy(variant(TARGET), prompt, limit) for prompt, limit in zip(PROMPTS, LIMITS, strict=True)
    ]
    assert engine.stats.num_draft_tokens > 0
