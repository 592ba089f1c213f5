"""The tracker of storages, against counting by hand and against the simpler tracker of the arena's tests."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from specplan_runtime.tracing.tracker import Event, StorageTracker
from tests.test_trace import StorageTrace


def step(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Temporaries that die at different times, views that keep storages alive, and operators in place."""
    hidden = rows @ weight
    view = hidden.view(-1)[: hidden.numel() // 2]
    hidden = F.silu(hidden) * 2
    total = view.sum() + hidden.max()
    del view
    hidden.add_(total)
    return hidden.softmax(-1).transpose(0, 1).contiguous()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_allocation_and_free_in_order(device: str) -> None:
    before = torch.zeros(10, device=device)
    with torch.no_grad(), StorageTracker() as tracker:
        a = before + 1
        b = a.to(torch.float16)
        view = a[3:]
        del a
        c = before.new_zeros(3)
        del view, b
    assert tracker.events == [
        Event(0, "allocate", 40, "aten.add.Tensor", 0),
        Event(1, "allocate", 20, "aten._to_copy.default", 1),
        Event(2, "allocate", 12, "aten.new_zeros.default", 2),
        Event(3, "free", 40, "aten.add.Tensor", 0),
        Event(4, "free", 20, "aten._to_copy.default", 1),
    ]
    assert (tracker.peak_bytes, tracker.peak_time, tracker.live_bytes) == (72, 2, c.untyped_storage().nbytes())
    assert [event.storage for event in tracker.live_at_peak()] == [0, 1, 2]
    assert [event.storage for event in tracker.live_at(4)] == [2]


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_peak_is_that_of_another_tracker(rows: int) -> None:
    inputs, weight = torch.ones(rows, 16), torch.ones(16, 50)
    with torch.no_grad():
        with StorageTracker() as tracker:
            first = step(inputs, weight)
        with StorageTrace() as trace:
            second = step(inputs, weight)
    assert first.shape == second.shape
    assert tracker.peak_bytes == trace.peak_bytes
    assert tracker.live_bytes == first.nbytes


def test_meta_and_cpu_allocate_alike() -> None:
    peaks = {}
    for device in ("cpu", "meta"):
        with torch.no_grad(), StorageTracker((device,)) as tracker:
            inputs = torch.empty(9, 16, device=device)
            step(inputs, torch.empty(16, 50, device=device))
        peaks[device] = tracker.peak_bytes, len(tracker.events)
    assert peaks["cpu"] == peaks["meta"]


def test_other_devices_are_not_counted() -> None:
    with torch.no_grad(), StorageTracker(("meta",)) as tracker:
        torch.zeros(100)
        kept = torch.zeros(25, device="meta")
    assert [event.num_bytes for event in tracker.events] == [kept.nbytes]


def test_a_storage_is_free_when_its_last_view_is_gone() -> None:
    with torch.no_grad(), StorageTracker() as tracker:
        block = torch.zeros(1000)
        view = block[10:20].view(2, 5).t()
        del block
        gc.collect()
        assert tracker.live_bytes == 4000
        del view
        assert tracker.live_bytes == 0


def test_scalars_of_meta_tensors_are_answered() -> None:
    asked = []

    def answer(tensor: torch.Tensor) -> bool:
        asked.append(tensor.dtype)
        return True

    with StorageTracker(scalar=answer):
        assert bool((torch.zeros(3, device="meta") > 1).any())
        assert torch.zeros(3, device="meta").sum().item() == 1
        assert torch.full((1,), 7).item() == 7
    assert asked == [torch.bool, torch.float32]


def test_scalars_of_meta_tensors_fail_without_an_answer() -> None:
    with pytest.raises(RuntimeError, match="meta"), StorageTracker():
        torch.zeros(3, device="meta").sum().item()


def test_phases_have_their_own_peaks() -> None:
    with torch.no_grad(), StorageTracker() as tracker:
        kept = torch.zeros(10)
        with tracker.phase("outer") as outer:
            with tracker.phase("inner") as inner:
                torch.zeros(100)
            torch.zeros(50)
        with tracker.phase("idle") as idle:
            kept.view(2, 5)
    assert (outer.peak_bytes, outer.workspace_bytes, outer.num_operators) == (440, 400, 2)
    assert (inner.peak_bytes, inner.workspace_bytes, inner.num_operators) == (440, 400, 1)
    assert (idle.start_bytes, idle.workspace_bytes) == (40, 0)


def test_the_highest_byte_of_the_arena_that_was_touched() -> None:
    block = torch.zeros(1000, dtype=torch.uint8)
    rows = block[96:496].view(torch.float32).view(10, 10)
    with torch.no_grad(), StorageTracker(arena=block) as tracker:
        with tracker.phase("views") as views:
            block[104:904].view(torch.int64)
            torch.empty_like(block)
        with tracker.phase("write") as write:
            torch.add(rows[2], 1, out=rows[3])
        with tracker.phase("strided") as strided:
            rows[:, 4].zero_()
        with tracker.phase("read") as read:
            block[700:701].sum()
        with tracker.phase("elsewhere") as elsewhere:
            torch.zeros(3) + 1
    ends = [phase.arena_bytes for phase in (views, write, strided, read, elsewhere)]
    assert ends == [0, 96 + 160, 96 + 4 * 95, 701, 0]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_packed_weights_are_opaque_and_their_products_are_counted() -> None:
    rows, weight = torch.ones(4, 32), torch.ones(64, 32)
    with torch.no_grad(), StorageTracker() as tracker:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 4)
        product = torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")
    assert tracker.live_bytes == product.nbytes == 4 * 64 * 4
