"""Drafts that see their last tokens only: same output, smaller cache, and the proposals of a windowed model."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from specplan.caches.draft_window import can_window, windowed
from specplan.errors import UnsupportedError
from specplan.plan import Plan
from specplan_runtime.engine import Engine
from specplan_runtime.verification import verify
from tests.conftest import tiny_arch
from tests.runtime_helpers import (
    CONTEXT,
    checkpoint,
    perturbed,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_logits,
    serve,
)


def window_plan(window: int, *, gamma: int = 3, batch_size: int = 1, chunk: int = 7, draft: Path | None = None) -> Plan:
    folder = checkpoint("llama")
    return plan_for(
        folder,
        drafter="draft_model",
        draft=draft or perturbed(folder, 0.02),
        draft_context=window,
        num_speculative_tokens=gamma,
        batch_size=batch_size,
        knobs={"prefill_chunk": chunk, "logits_rows": 2},
    )


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("gamma", [1, 4])
@pytest.mark.parametrize("window", [1, 5, 20, CONTEXT - 1])
def test_the_output_is_the_targets_own(window: int, gamma: int, batch_size: int) -> None:
    engine = Engine(window_plan(window, gamma=gamma, batch_size=batch_size))
    prompts = [prompt_of(length, seed) for seed, length in enumerate((3, 30, 12, 25))]
    found = serve(engine, prompts, 20)
    assert found == [reference_greedy(checkpoint("llama"), prompt, 20) for prompt in prompts]
    assert engine.stats.num_draft_tokens > 0


@cache
def mistral_of(folder: Path, window: int) -> Path:
    """The same weights as a Mistral, whose layers see a window: transformers' code, not ours."""
    copy = folder.with_name(f"{folder.name}-mistral-{window}")
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def replayed(prompt: list[int], target: list[int], draft: Path, gamma: int) -> tuple[int, int]:
    """Drafted and accepted tokens of greedy speculation, with every draft pass over the whole sequence."""
    drafted = accepted = 0
    emitted = 1  # the first comes from prefill
    while emitted < len(target):
        known = prompt + target[:emitted]
        proposals: list[int] = []
        for _ in range(min(gamma, len(target) - emitted - 1)):  # the last one is the target's own
            proposals.append(int(reference_logits(draft, known + proposals)[-1].argmax()))
        right = 0
        while right < len(proposals) and proposals[right] == target[emitted + right]:
            right += 1
        drafted += len(proposals)
        accepted += right
        emitted += right + 1
    return drafted, accepted


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("window", [2, 6, 17])
def test_it_proposes_what_a_windowed_model_does(window: int, chunk: int) -> None:
    """The draft is the target but for its window; Mistral's window in transformers says what it then proposes."""
    folder, gamma, prompt = checkpoint("llama"), 3, prompt_of(30)
    engine = Engine(window_plan(window, gamma=gamma, chunk=chunk, draft=folder))
    target = reference_greedy(folder, prompt, 24)
    assert serve(engine, [prompt], 24) == [target]
    expected = replayed(prompt, target, mistral_of(folder, window), gamma)
    assert (engine.stats.num_draft_tokens, engine.stats.num_accepted_tokens) == expected
    assert expected[1] < expected[0]  # a window changes what this model says


def test_a_window_as_long_as_the_context_changes_nothing() -> None:
    folder = checkpoint("llama")
    engine = Engine(window_plan(CONTEXT, draft=folder))
    assert engine.plan.speculation.draft_context == 0
    serve(engine, [prompt_of(9)], 20)
    assert engine.stats.num_accepted_tokens == engine.stats.num_draft_tokens


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("window", [1, 9, 40])
def test_planned_is_measured(window: int, batch_size: int) -> None:
    plan = window_plan(window, batch_size=batch_size)
    engine = Engine(plan)
    placed = engine.own.layout.arena.bytes_by_item
    planned = {item.name: item.bytes for item in plan.ledger.owned_items() if item.name != "kernel_output"}
    assert {name: placed.get(name, 0) for name in planned} == planned
    # window + max(chunk, γ + 1) - 1 slots of keys and values of two heads of eight floats, in three layers
    slots = min(window + 7 - 1, CONTEXT + 3)
    assert planned["draft.kv_cache"] == batch_size * slots * 2 * 2 * 8 * 4 * 3
    assert verify(plan).holds


def test_only_full_attention_is_windowed() -> None:
    arch = tiny_arch()
    assert windowed(arch, 0) is arch
    narrow = windowed(arch, 5)
    assert (narrow.sliding_window, set(narrow.layer_types)) == (5, {"sliding_attention"})
    assert not can_window(narrow)
    with pytest.raises(UnsupportedError, match="llama"):
        windowed(narrow, 4)


def test_a_plan_with_a_window_survives_its_file(tmp_path: Path) -> None:
    from specplan import planfile
    from specplan.checks import check_plan

    plan = window_plan(9)
    path = tmp_path / "plan.json"
    planfile.save(plan, path)
    loaded = planfile.load(path)
    assert loaded == plan
    assert loaded.scenario.draft == windowed(plan.inputs.draft.arch, 9) if plan.inputs.draft else False
    assert check_plan(loaded, None) == ()
    assert torch.equal(torch.tensor(serve(Engine(loaded), [[5]], 5)), torch.tensor(serve(Engine(plan), [[5]], 5)))
