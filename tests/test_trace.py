"""The arena is all that the runtime allocates: shown by trackers that know nothing of the plan's formulas.

Two trackers, because each sees what the other cannot:

- ``StorageTrace`` watches every operator below autograd and keeps weak references on the storages of its outputs. In
  inference mode it would see composite operators whole and miss the temporaries inside them, so ``Engine``'s two
  decorated methods are run under no_grad here.
- ``allocations`` asks PyTorch's profiler what its CPU allocator handed out: it also sees what kernels allocate for
  themselves.

Loading is judged apart. Its tiles are Python and numpy memory that no operator made and that the ledger holds as
``load_staging``; what is claimed of it is that one block is allocated that stays, and that it is the plan's size.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from specplan.caches.kv_formats import CACHE_FORMATS
from specplan.formulas.memory import MemoryModel
from specplan.heads import Heads, MedusaHeads
from specplan.plan import Plan
from specplan.speculation import MODEL_DRAFTERS, Chain, Speculation, Tree
from specplan.workload import Workload
from specplan_runtime.arena import Arena
from specplan_runtime.engine import Engine
from specplan_runtime.layout import place
from specplan_runtime.sampling import RowSampler, SamplingParams
from tests.eagle_helpers import eagle_config, eagle_folder
from tests.runtime_helpers import checkpoint, perturbed, plan_for, serve, with_knobs
from tests.strategies import draft_contexts, eagle3_heads, in_groups, runnable_archs, trees

DRAFTERS = ("none", "ngram", "early_exit", "draft_model")
#: The same, and trees that models draft; chains and trees of an EAGLE-3 head.
SHAPES = (*DRAFTERS, "early_exit tree", "draft_model tree", "eagle3", "eagle3 tree")
TREE = Tree(((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)))
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16, other caches": {"dtype": "float16", "kv_dtype": "float32", "draft_kv_dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "int4": {"dtype": "int4"},
    "int8 draft": {"draft_dtype": "int8"},
    "fp8 cache": {"kv_dtype": "fp8_e4m3", "draft_kv_dtype": "fp8_e5m2"},
    "int8 cache": {"dtype": "float16", "kv_dtype": "int8", "draft_kv_dtype": "int4"},
    "draft window": {"draft_context": 9},
    "quantized draft window": {"draft_context": 9, "draft_kv_dtype": "int8"},
    "int4 cache": {"dtype": "int8", "kv_dtype": "int4", "draft_kv_dtype": "int8"},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"temperature": 1.0, "top_k": 9, "top_p": 0.9, "seed": 5},
}
#: Precisions of all drafters, and those that only a draft model brings.
COMBINATIONS = [
    *itertools.product(("float32", "bfloat16", "int8", "int4"), SHAPES, (1, 3)),
    ("float16, other caches", "draft_model", 3),
    ("int8 draft", "draft_model", 3),
    *itertools.product(("draft window", "quantized draft window"), ("draft_model",), (1, 3)),
    *itertools.product(("fp8 cache", "int8 cache", "int4 cache"), SHAPES[2:], (3,)),
    ("int4", "eagle3", 3),
    ("int4", "eagle3 tree", 3),
    *itertools.product(("float16, other caches",), ("eagle3", "eagle3 tree"), (3,)),
]
#: Periodic, so that prompt lookup proposes as much as it may; longer than a prefill chunk.
PROMPT = [3, 1, 4] * 6


class StorageTrace(TorchDispatchMode):
    """Counts the bytes of live storages that operators returned.

    Attributes:
        peak_bytes: the most that were alive after any operator.
        created: operator and bytes of every storage when it was first seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.created: list[tuple[str, int]] = []
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
                self._see(func, leaf.untyped_storage())
        return result

    def _see(self, operator: Any, storage: torch.UntypedStorage) -> None:
        reference = StorageWeakRef(storage)
        known = self._seen.get(reference.cdata)
        if known is None or known[0].expired():
            self._seen[reference.cdata] = reference, storage.nbytes()
            self.created.append((str(operator), storage.nbytes()))
            self.peak_bytes = max(self.peak_bytes, self.live_bytes())  # the peak can only rise here

    def live_bytes(self) -> int:
        """Bytes of the storages that are still referenced."""
        for key, (reference, _) in list(self._seen.items()):
            if reference.expired():
                del self._seen[key]
        return sum(num_bytes for _, num_bytes in self._seen.values())


@pytest.fixture(autouse=True)
def no_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("start", "step"):
        monkeypatch.setattr(Engine, name, torch.no_grad()(getattr(Engine, name).__wrapped__))


@cache
def eagle_heads(vocab_size: int) -> Path:
    """A head for a target of two layers."""
    folder = checkpoint("llama", seed=5, num_hidden_layers=2).with_name(f"eagle-heads-of-two-layers-{vocab_size}")
    config = eagle_config(eagle_aux_hidden_state_layer_ids=[0, 1, 2], vocab_size=vocab_size)
    return eagle_folder(folder, config=config)


def make_plan(drafter: str, precision: str, batch_size: int, vocab_size: int = 131) -> Plan:
    """Prefill in chunks of 16, logits in tiles of 4 of the 4·batch rows (with a tree 7·batch) of a verify pass."""
    drafter, _, shape = drafter.partition(" ")
    folder = checkpoint("llama", seed=5, vocab_size=vocab_size, num_hidden_layers=2)
    options: dict[str, Any] = {} if drafter == "none" else {"num_speculative_tokens": 3}
    if drafter == "draft_model":
        options["draft"] = perturbed(folder, 0.03)
    if drafter == "eagle3":
        options["heads"] = eagle_heads(vocab_size)
    plan = plan_for(
        folder,
        drafter=drafter,
        batch_size=batch_size,
        knobs={"prefill_chunk": 16, "logits_rows": 4},
        **PRECISIONS[precision],
        **options,
    )
    return with_knobs(plan, shape=TREE) if shape else plan


def warm_engine(plan: Plan, params: SamplingParams) -> Engine:
    """An engine all of whose rows are in the middle of a sequence."""
    engine = Engine(plan)
    for row in range(plan.workload.batch_size):
        sequence = engine.open(PROMPT, 40, row)
        engine.start(sequence, params)
        engine._rows[row] = sequence
    engine.step(params)
    return engine


def arena_bytes(plan: Plan) -> int:
    """What the plan says that the runtime allocates up front."""
    kernel_output = plan.ledger.by_name().get("kernel_output")
    return plan.ledger.owned_bytes - (kernel_output.bytes if kernel_output else 0)


# ------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("mode", SAMPLING)
@pytest.mark.parametrize(("precision", "drafter", "batch_size"), COMBINATIONS)
def test_generation_peaks_at_what_the_plan_owns(precision: str, drafter: str, mode: str, batch_size: int) -> None:
    """More prompts than rows, so that prefill and decoding alternate."""
    plan = make_plan(drafter, precision, batch_size)
    engine = Engine(plan)
    with StorageTrace() as trace:
        found = serve(engine, [PROMPT] * (batch_size + 1), 6, SamplingParams(**SAMPLING[mode]))
    assert [len(tokens) for tokens in found] == [6] * (batch_size + 1)
    assert trace.peak_bytes - plan.ledger.owned_bytes == 0


@pytest.mark.parametrize("mode", SAMPLING)
@pytest.mark.parametrize("drafter", SHAPES)
def test_int8_logits_are_held_one_tile_at_a_time(drafter: str, mode: str) -> None:
    """The same where the head's output is the largest of all kernel outputs, in several tiles."""
    plan = make_plan(drafter, "int8", batch_size=3, vocab_size=1999)
    tile = 3 if drafter == "none" else 4
    assert plan.ledger.by_name()["kernel_output"].bytes == tile * 1999 * 2
    engine = Engine(plan)
    with StorageTrace() as trace:
        serve(engine, [PROMPT] * 4, 6, SamplingParams(**SAMPLING[mode]))
    if drafter != "ngram":  # which may find nothing to propose for a whole tile
        assert trace.peak_bytes - plan.ledger.owned_bytes == 0
    assert trace.peak_bytes <= plan.ledger.owned_bytes


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("mode", SAMPLING)
@pytest.mark.parametrize("drafter", SHAPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16, other caches", "fp8 cache", "int8 cache"])
def test_a_step_allocates_nothing(precision: str, drafter: str, mode: str, batch_size: int) -> None:
    params = SamplingParams(**SAMPLING[mode])
    plan = make_plan(drafter, precision, batch_size)
    engine = warm_engine(plan, params)
    with StorageTrace() as trace:
        engine.step(params)
    arena, outputs = arena_bytes(plan), plan.ledger.by_name().get("kernel_output")
    beside = [num_bytes for _, num_bytes in trace.created if num_bytes != arena]
    assert len(trace.created) == len(beside) + 1  # the arena itself, seen through views of it
    assert bool(beside) == (outputs is not None)
    assert trace.peak_bytes <= plan.ledger.owned_bytes
    assert trace.live_bytes() == arena


@pytest.mark.parametrize("drafted", [True, False])
def test_rejecting_a_proposal_allocates_nothing(drafted: bool) -> None:
    """The same for the branches that a run may not take: both kinds of rejection, and the draw that follows."""
    engine = Engine(make_plan("draft_model", "float32", 1))
    sampler = RowSampler(engine.assembly.workspaces["verify"], SamplingParams(temperature=1.0))
    sampler.probs.fill_(1 / 131)
    sampler.probs[3].zero_()
    draft_probs = engine.own.layout.draft_probs
    assert draft_probs is not None
    draft_probs[0, 0].fill_(1 / 262)
    draft_probs[0, 0, 3].fill_(0.5)
    with torch.no_grad(), StorageTrace() as trace:
        assert not sampler.accept(3, draft_probs[0, 0] if drafted else None, random.random)
        assert sampler.draw(random.random) != 3
    assert trace.created == [(trace.created[0][0], arena_bytes(engine.plan))]


def allocations(engine: Engine, params: SamplingParams) -> list[int]:
    """Sizes of all blocks that the CPU allocator hands out during a step, and, negative, takes back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine.step(params)
    results = profiler.profiler
    assert results is not None
    assert results.kineto_results is not None
    events = results.kineto_results.events()
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]


@pytest.mark.parametrize("mode", SAMPLING)
@pytest.mark.parametrize("drafter", SHAPES)
@pytest.mark.parametrize("vocab_size", [1984, 1999])  # a head that is packed, and one that is not
def test_kernels_allocate_only_their_outputs(drafter: str, mode: str, vocab_size: int) -> None:
    """Boxed scalars and one number per token are let pass, and oneDNN's notes: 256 bytes and 640 for each thread."""
    params = SamplingParams(**SAMPLING[mode])
    plan = make_plan(drafter, "float32", 3, vocab_size)
    engine = warm_engine(plan, params)
    least = 1024 * torch.get_num_threads()
    seen = [num_bytes for num_bytes in allocations(engine, params) if abs(num_bytes) >= least]
    assert sum(seen) == 0
    assert max(itertools.accumulate(seen)) <= plan.ledger.by_name()["kernel_output"].bytes


# ------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(("precision", "drafter", "batch_size"), COMBINATIONS)
def test_loading_leaves_one_block_of_the_planned_size(precision: str, drafter: str, batch_size: int) -> None:
    plan = make_plan(drafter, precision, batch_size)
    with StorageTrace() as trace:
        engine = Engine(plan)
        assert trace.live_bytes() == arena_bytes(plan)
    block = engine.own.layout.arena.block
    assert block is not None
    assert block.untyped_storage().nbytes() == arena_bytes(plan)
    assert trace.peak_bytes <= arena_bytes(plan) + plan.ledger.by_name()["load_staging"].bytes


@pytest.mark.parametrize("drafter", SHAPES)
def test_everything_that_runs_lies_in_the_block(drafter: str) -> None:
    layout = Engine(make_plan(drafter, "float32", 2)).own.layout
    kept: list[Any] = [layout.target, layout.draft, layout.draft_probs, layout.branches, layout.tree]
    kept += [layout.eagle3, layout.eagle3_chain]
    assert layout.arena.block is not None
    home = layout.arena.block.untyped_storage().data_ptr()
    tensors = list(tensors_of([*kept, *layout.workspaces.values()]))
    assert len(tensors) > 50
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == {home}


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors reachable through lists and attributes."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from tensors_of(item)
    elif type(value).__module__.startswith("specplan_runtime") and not isinstance(value, Arena):
        names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else vars(value)
        for name in names:
            yield from tensors_of(getattr(value, name))


# ------------------------------------------------------------------------------------------- random shapes

CACHES = st.sampled_from(list(CACHE_FORMATS))
WEIGHTS = st.sampled_from(["float32", "bfloat16", "float16", "int8", "int4"])


@st.composite
def random_plans(draw: st.DrawFn) -> Plan:
    drafter = draw(st.sampled_from((*DRAFTERS, "medusa", "eagle3")))
    base = make_plan("draft_model", "float32", 1)
    inputs, dtypes = base.inputs, (draw(WEIGHTS), draw(WEIGHTS))
    assert inputs.draft is not None
    archs = [in_groups(draw(runnable_archs()), dtype) for dtype in dtypes]
    target = dataclasses.replace(inputs.target, arch=archs[0])
    draft = dataclasses.replace(inputs.draft, arch=archs[1]) if drafter == "draft_model" else None
    layers, context = target.arch.num_hidden_layers, draw(st.integers(1, 90))
    shape: Chain | Tree = Chain(0 if drafter == "none" else draw(st.integers(0, 6)))
    heads: Heads | None = None
    if drafter == "eagle3":
        heads = draw(eagle3_heads(target.arch))
    if drafter == "medusa":
        shape = draw(trees())
        heads = MedusaHeads(shape.depth, draw(st.integers(1, 2)), draw(st.booleans()), shape.topk)
    elif drafter in (*MODEL_DRAFTERS, "eagle3") and draw(st.booleans()):
        shape = draw(trees())
    seen = draft_contexts(None if draft is None or isinstance(shape, Tree) else draft.arch, context)
    speculation = Speculation(
        drafter=drafter,  # type: ignore[arg-type]
        shape=shape,
        num_exit_layers=draw(st.integers(1, layers)) if drafter == "early_exit" else 0,
        prefill_chunk=draw(st.integers(1, 80)),
        logits_rows=draw(st.integers(2, 40)),
        draft_context=draw(seen),
    )
    workload = Workload(context, draw(st.integers(1, 4)), dtypes[0], draw(CACHES), dtypes[1], draw(CACHES))
    plan = dataclasses.replace(
        base,
        inputs=dataclasses.replace(inputs, target=target, draft=draft, heads=heads),
        workload=workload,
        speculation=speculation,
    )
    return dataclasses.replace(plan, ledger=MemoryModel(plan.scenario).ledger())


@settings(max_examples=400, deadline=None, derandomize=True)
@given(random_plans())
def test_the_layout_is_the_ledger_item_by_item(plan: Plan) -> None:
    arena = Arena()
    place(plan, arena)
    planned = {item.name: item.bytes for item in plan.ledger.owned_items() if item.name != "kernel_output"}
    placed = arena.bytes_by_item
    assert {name: placed.get(name, 0) for name in planned} == planned
    assert placed.keys() <= planned.keys()
    assert arena.high_water == arena_bytes(plan)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(random_plans())
def test_placing_for_real_agrees_with_counting(plan: Plan) -> None:
    counted = Arena()
    place(plan, counted)
    real = Arena.allocate(counted.high_water, torch.device("cpu"))
    place(plan, real)
    assert real.bytes_by_item == counted.bytes_by_item
    assert real.high_water == counted.high_water
