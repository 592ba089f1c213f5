"""``specplan verify``: formula and trace agree to the byte over random models, and a wrong ledger is found."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specplan import planfile
from specplan.arch import ModelArch
from specplan.devices.bundled import device_profile
from specplan.errors import UnsupportedError
from specplan.formulas.memory import MemoryModel
from specplan.heads import Heads, MedusaHeads
from specplan.models.config import read_config
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.speculation import MODEL_DRAFTERS, Chain, Speculation, Tree
from specplan.workload import Workload
from specplan_runtime.verification import verify
from tests.conftest import model_input, tiny_question
from tests.strategies import draft_contexts, eagle3_heads, family_configs, in_groups, trees
from tests.test_cli import ended

DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "olmo2")
FLOATS = ("float32", "bfloat16", "float16")


@cache
def base_plan() -> Plan:
    plan = analyze(tiny_question(device=device_profile("h200"), budget_bytes=8 << 30))
    assert isinstance(plan, Plan)
    return plan


@st.composite
def workloads(draw: st.DrawFn, weights: tuple[str, ...], same_cache: bool) -> Workload:
    """Contexts and batches that are no multiples of anything."""
    target, draft = draw(st.sampled_from(weights)), draw(st.sampled_from(weights))
    caches = (target, draft) if same_cache else (draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS)))
    return Workload(draw(st.integers(1, 150)), draw(st.integers(1, 5)), target, caches[0], draft, caches[1])


def plan_of(
    arch: ModelArch, draft: ModelArch | None, workload: Workload, speculation: Speculation, **inputs: Any
) -> Plan:
    base = base_plan()
    changed = dataclasses.replace(
        base.inputs, target=model_input(arch), draft=None if draft is None else model_input(draft), **inputs
    )
    plan = dataclasses.replace(base, inputs=changed, workload=workload, speculation=speculation)
    if changed.transformers_version is not None:
        plan = dataclasses.replace(plan, forward="transformers")
    return dataclasses.replace(plan, ledger=MemoryModel(plan.scenario).ledger())


def arch_of(config: dict[str, Any]) -> ModelArch:
    return read_config(config, "config.json")


@st.composite
def arena_plans(draw: st.DrawFn) -> Plan:
    """Plans of the runtime's own forward: every family that it computes, every drafter, chains and trees."""
    drafter = draw(st.sampled_from(("none", "ngram", "early_exit", "draft_model", "medusa", "eagle3")))
    workload = draw(workloads((*FLOATS, "int8", "int4"), same_cache=False))
    arch = in_groups(arch_of(draw(family_configs())), workload.dtype)
    draft = in_groups(arch_of(draw(family_configs())), workload.draft_dtype) if drafter == "draft_model" else None
    shape: Chain | Tree = Chain(0 if drafter == "none" else draw(st.integers(1, 7)))
    heads: Heads | None = None
    if drafter == "eagle3":
        heads = draw(eagle3_heads(arch))
    if drafter == "medusa":
        shape = draw(trees())
        assume(not arch.windowed_layers(workload.context + shape.num_verify_tokens))
        heads = MedusaHeads(shape.depth, draw(st.integers(1, 2)), False, shape.topk)
    if drafter in (*MODEL_DRAFTERS, "eagle3") and draw(st.booleans()):
        shape = draw(trees())
        slots = workload.context + shape.num_verify_tokens
        assume(not any(model.windowed_layers(slots) for model in (arch, draft) if model is not None))
    exit_layers = draw(st.integers(1, arch.num_hidden_layers)) if drafter == "early_exit" else 0
    chunk, rows = draw(st.integers(1, 90)), draw(st.integers(2, 30))
    window = draw(draft_contexts(draft, workload.context)) if isinstance(shape, Chain) else 0
    speculation = Speculation(drafter, shape, exit_layers, chunk, rows, window)  # type: ignore[arg-type]
    return plan_of(arch, draft, workload, speculation, heads=heads)


@st.composite
def transformers_plans(draw: st.DrawFn) -> Plan:
    """Plans of transformers' forward."""
    drafter = draw(st.sampled_from(("none", "ngram", "draft_model")))
    configs = family_configs(DENSE, head_dims=(16, 32, 144))
    arch = arch_of(draw(configs))
    draft = arch_of(draw(configs)) if drafter == "draft_model" else None
    workload = draw(workloads(FLOATS, same_cache=True))
    gamma = 0 if drafter == "none" else draw(st.integers(1, 7))
    speculation = Speculation(drafter, Chain(gamma), 0, draw(st.integers(1, 90)), 2)  # type: ignore[arg-type]
    version = ask(model="llama-68m", gpu="h200", forward="transformers").inputs.transformers_version
    return plan_of(arch, draft, workload, speculation, transformers_version=version)


def assert_holds(plan: Plan) -> None:
    differing = [proof for proof in verify(plan).proofs if proof.difference]
    assert not differing


@settings(max_examples=300)
@given(arena_plans())
def test_formula_and_trace_agree_for_the_runtimes_forward(plan: Plan) -> None:
    assert_holds(plan)


@settings(max_examples=300)
@given(transformers_plans())
def test_formula_and_trace_agree_for_transformers_forward(plan: Plan) -> None:
    assert_holds(plan)


@pytest.mark.parametrize("forward", ["specplan", "transformers"])
def test_llama_2_70b(forward: str) -> None:
    plan = analyze(ask(model="llama-2-70b-chat", draft="llama-68m", gpu="mi300x" if forward == "specplan" else "h200",
                       forward=forward, context=2048, dtype="float16"))  # fmt: skip
    assert isinstance(plan, Plan)
    assert_holds(plan)


@pytest.mark.parametrize("name", ["target.weights", "target.kv_cache", "verify.mask", "prefill_target.scratch"])
def test_a_byte_too_many_is_found(name: str) -> None:
    plan = base_plan()
    items = [dataclasses.replace(i, bytes=i.bytes + 1) if i.name == name else i for i in plan.ledger.items]
    wrong = dataclasses.replace(plan, ledger=dataclasses.replace(plan.ledger, items=tuple(items)))
    verification = verify(wrong)
    assert not verification.holds
    assert next(proof.difference for proof in verification.proofs if proof.difference) == -1


def test_modelled_workspace_is_not_verified() -> None:
    plan = analyze(ask(model="deepseek-v2-lite", gpu="h200", context=1024, drafter="none"))
    assert isinstance(plan, Plan)
    with pytest.raises(UnsupportedError, match="deepseek_v2"):
        verify(plan)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    planfile.save(base_plan(), path)
    answer = ended(monkeypatch, capsys, "verify", str(path), "--format", "json")
    assert answer.returncode == 0
    data = json.loads(answer.stdout)
    assert data["holds"] is True
    assert {line["difference_bytes"] for line in data["lines"]} == {0}
    assert "0 bytes difference" in ended(monkeypatch, capsys, "verify", str(path)).stdout
    assert ended(monkeypatch, capsys, "verify", str(tmp_path / "missing.json")).returncode == 2
