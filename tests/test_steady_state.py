"""A thousand steps and fifty turns create no storage: what is there after the first is there after the last."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from specplan.plan import Plan
from specplan.speculation import Tree
from specplan_runtime.chat import chat
from specplan_runtime.engine import Engine, Request
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.text import Tokenizer
from specplan_runtime.tracing.tracker import StorageTracker
from specplan_runtime.transcript import load_transcript
from tests.cli_helpers import llama_folder
from tests.runtime_helpers import checkpoint, perturbed, plan_for, with_knobs

NUM_TURNS = 50
TREE = Tree(((0,), (1,), (0, 0), (1, 0), (0, 0, 0)))
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
MODES = {"greedy": SamplingParams(), "sampling": SamplingParams(temperature=1.0, top_k=5, seed=1)}


@pytest.fixture(autouse=True)
def no_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """In inference mode a tracker sees composite operators whole."""
    for name in ("start", "step"):
        monkeypatch.setattr(Engine, name, torch.no_grad()(getattr(Engine, name).__wrapped__))


class OutsideArena(TorchDispatchMode):
    """Notes every operator whose result does not lie in the arena; cheap enough for a thousand steps.

    Attributes:
        operators: how many ran.
        outside: those whose results lie elsewhere.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        block = engine.own.layout.arena.block
        assert block is not None
        self._home = block.untyped_storage()._cdata
        self.operators = 0
        self.outside: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata != self._home:
                self.outside.append(str(func))
        return result


def plan_of(folder: Path, kind: str, batch_size: int, **options: Any) -> Plan:
    """Chain, tree or ngram over a small model, in a format whose kernels write where they are told to."""
    options = {"dtype": "bfloat16"} | options
    drafter = "ngram" if kind == "ngram" else "draft_model"
    if drafter == "draft_model":
        options["draft"] = perturbed(folder, 0.02)
    shape: dict[str, Any] = {"num_draft_nodes": 5} if kind == "tree" else {"num_speculative_tokens": 3}
    plan = plan_for(folder, drafter=drafter, batch_size=batch_size, **shape, **options)
    knobs: dict[str, Any] = {"shape": TREE} if kind == "tree" else {}
    return with_knobs(plan, prefill_chunk=8, logits_rows=4, **knobs)


def requests() -> Iterator[Request]:
    """Prompts without end, periodic so that prompt lookup proposes something; lengths that are multiples of nothing."""
    for index in itertools.count():
        yield Request(index, [3, 1, 4, index % 7] * (1 + index % 5), 5 + index % 23)


def follow(engine: Engine, params: SamplingParams, num_steps: int, tracker: TorchDispatchMode) -> list[int]:
    """Serve for so many steps; the live bytes after each, where the tracker counts them."""
    live: list[int] = []
    step = engine.step

    def counting(params: SamplingParams) -> list[tuple[int, list[int]]]:
        emitted = step(params)
        live.append(getattr(tracker, "live_bytes", 0))
        return emitted

    engine.step = counting  # type: ignore[method-assign]
    with tracker:
        for _ in engine.serve(requests(), params):
            if len(live) >= num_steps:
                break
    return live


@pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1000), (8, 125)])  # a thousand steps of a sequence
@pytest.mark.parametrize("kind", ["chain", "tree", "ngram"])
def test_a_thousand_steps_create_no_storage(kind: str, batch_size: int, num_steps: int) -> None:
    folder = checkpoint("llama", vocab_size=24, num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    engine = Engine(plan_of(folder, kind, batch_size))
    tracker = OutsideArena(engine)
    assert len(follow(engine, SamplingParams(), num_steps, tracker)) == num_steps
    assert tracker.outside == []
    assert tracker.operators > 20 * num_steps  # the tracker did look
    assert engine.stats.num_accepted_tokens > 0


def test_the_tracker_sees_a_storage() -> None:
    engine = Engine(plan_of(checkpoint("llama", num_hidden_layers=1), "ngram", 1))
    with OutsideArena(engine) as tracker:
        engine.own.layout.target.embedding + 1
    assert tracker.outside == ["aten.add.Tensor"]


@pytest.mark.parametrize("kind", ["chain", "tree", "ngram"])
def test_sampling_creates_none_either(kind: str) -> None:
    folder = checkpoint("llama", vocab_size=24, num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    tracker = StorageTracker()
    follow(Engine(plan_of(folder, kind, 3)), MODES["sampling"], 25, tracker)
    assert tracker.events == []


@pytest.mark.parametrize("dtype", ["int8", "int4", "float32"])
@pytest.mark.parametrize("kind", ["chain", "tree", "ngram"])
def test_kernels_that_allocate_stay_within_the_declared_transients(kind: str, dtype: str) -> None:
    """What kernels allocate is freed within the step, and never more than the plan says."""
    folder = checkpoint("llama", vocab_size=24, num_hidden_layers=1)
    plan = plan_of(folder, kind, 3, dtype=dtype)
    tracker = StorageTracker()
    live = follow(Engine(plan), SamplingParams(), 25, tracker)
    assert live == [0] * 25
    assert 0 < tracker.peak_bytes <= plan.ledger.by_name()["kernel_output"].bytes


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(
        tmp_path_factory.mktemp("chat") / "model", chat_template=TEMPLATE, eos_token_id=None, num_hidden_layers=1
    )


@pytest.mark.parametrize(
    ("kind", "batch_size", "mode"),
    [
        ("chain", 1, "greedy"),
        ("tree", 1, "greedy"),
        ("ngram", 1, "sampling"),
        ("ngram", 8, "greedy"),
        ("tree", 8, "greedy"),
    ],
)
def test_fifty_turns_end_where_the_first_did(
    kind: str, batch_size: int, mode: str, talking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation fills its context several times over, and forgets its oldest turns."""
    engine = Engine(plan_of(talking, kind, batch_size))
    tokenizer = Tokenizer(engine.plan.inputs.target)
    tracker = StorageTracker()
    after: list[tuple[int, int]] = []

    lines = iter([f"{'abcdefg'[turn % 7]} b c a b\n" for turn in range(NUM_TURNS)] + [""])

    def readline() -> str:
        after.append((tracker.live_bytes, len(tracker.events)))
        return next(lines)

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, readline=readline))
    with tracker:
        chat(engine, tokenizer, 4, MODES[mode], tmp_path / "chat.json", drop_oldest=True)
    assert len(load_transcript(tmp_path / "chat.json")) == 2 * NUM_TURNS
    assert after == [(0, 0)] * (NUM_TURNS + 1)
    assert engine.stats.num_passes > NUM_TURNS
