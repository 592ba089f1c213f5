"""Packed float32 matrices: the same products, in the arena's own memory, and plans that do not depend on them."""

from __future__ import annotations

import pytest
import torch

from specplan_runtime import packing, parameters
from specplan_runtime.engine import Engine
from specplan_runtime.linear import PackedLinear
from specplan_runtime.packing import bind, layout_of
from specplan_runtime.report import measure_items
from specplan_runtime.tracing.tracker import StorageTracker
from tests.runtime_helpers import checkpoint, plan_for, prompt_of

needs_packing = pytest.mark.skipif(layout_of(64, 16) is None, reason="this PyTorch does not pack matrices")


def packed(rows: int, columns: int, step: int, bias: bool = False) -> tuple[PackedLinear, torch.Tensor]:
    """A matrix stored ``step`` rows at a time, and its values."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    layout = layout_of(rows, columns)
    assert layout is not None
    place = torch.zeros(rows // layout.block, columns, layout.block)
    linear = PackedLinear(place, bind(place, layout), torch.arange(rows).float() if bias else None)
    for first in range(0, rows, step):
        linear.store(first, values[first : first + step])
    return linear, values


@needs_packing
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "columns", "step"), [(64, 16, 64), (192, 48, 7), (320, 16, 100), (128, 576, 65)])
def test_packed_products_are_those_of_the_matrix(rows: int, columns: int, step: int, bias: bool) -> None:
    linear, values = packed(rows, columns, step, bias)
    assert torch.equal(linear.unpacked(), values)
    for num_rows in (1, 2, 4, 9, 16, 40):
        x = torch.randn(num_rows, columns, generator=torch.Generator().manual_seed(num_rows))
        expected = x.double() @ values.double().T + (torch.arange(rows) if bias else 0)
        found = linear(x, None)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
        place = torch.zeros(num_rows * rows + 3)
        assert torch.equal(linear(x, place), found)
        assert torch.equal(place[:-3].view(num_rows, rows), found)


@needs_packing
def test_a_packed_matrix_is_read_where_it_lies() -> None:
    linear, values = packed(128, 32, 128)
    x = torch.ones(4, 32)
    linear.store(70, torch.zeros(1, 32))
    found = linear(x, None)
    assert bool((found[:, 70] == 0).all())
    torch.testing.assert_close(found[:, 71], x @ values[71])


@pytest.mark.parametrize("shape", [(33, 17), (100, 30), (7, 5), (0, 8)])
def test_matrices_that_packing_would_enlarge_stay_plain(shape: tuple[int, int]) -> None:
    assert layout_of(*shape) is None


@needs_packing
def test_another_order_than_blocks_of_rows_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_is_blocked", lambda *_: False)
    assert layout_of.__wrapped__(64, 32) is None


def test_trackers_follow_steps_with_packed_matrices() -> None:
    folder = checkpoint("llama", seed=7, vocab_size=192, hidden_size=64)
    plan = plan_for(folder, drafter="ngram", num_speculative_tokens=3)
    engine = Engine(plan)
    with torch.no_grad(), StorageTracker() as tracker:
        engine.generate([3, 1, 4] * 6, 8)
    assert 0 < tracker.peak_bytes <= plan.ledger.by_name()["kernel_output"].bytes


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("drafter", ["none", "ngram", "early_exit"])
def test_a_plan_holds_whether_matrices_are_packed_or_not(
    drafter: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text and the same measured bytes where nothing can be packed; some of this model's matrices can."""
    folder = checkpoint("llama", seed=7, vocab_size=192, hidden_size=64, tie_word_embeddings=tied)
    plan = plan_for(folder, drafter=drafter, num_speculative_tokens=None if drafter == "none" else 3)
    found = []
    for packs in (True, False):
        if not packs:
            monkeypatch.setattr(parameters, "layout_of", lambda *_: None)
        engine = Engine(plan)
        assert isinstance(engine.own.layout.target.head, PackedLinear) == (packs and layout_of(192, 64) is not None)
        tokens = engine.generate([3, 1, 4] * 6 + prompt_of(5), 12)
        items = [item for item in measure_items(engine, None) if item.owned]
        assert all(item.difference == 0 for item in items)
        found.append((tokens, [item.measured_bytes for item in items]))
    assert found[0] == found[1]
