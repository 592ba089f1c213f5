"""What operators allocate and free, seen from outside: no allocator statistics, no device, no knowledge of formulas."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: A view that PyTorch does not declare as one.
_UNDECLARED_VIEWS = ("aten::_unsafe_view",)


@dataclass(frozen=True, slots=True)
class Event:
    """One allocation or one free.

    Attributes:
        time: position in the trace's one clock; no two events share it.
        kind: what happened.
        num_bytes: size of the storage.
        operator: that allocated it, also where it is freed.
        storage: number of the storage, unique in the trace.
    """

    time: int
    kind: Literal["allocate", "free"]
    num_bytes: int
    operator: str
    storage: int


@dataclass(slots=True)
class Phase:
    """What happened while a phase ran.

    Attributes:
        name: as given.
        start_bytes: live when it began.
        peak_bytes: the most that was live, what was there before included.
        arena_bytes: one past the highest byte of the arena that an operator read or wrote, 0 if none did.
        num_operators: that ran.
    """

    name: str
    start_bytes: int
    peak_bytes: int
    arena_bytes: int = 0
    num_operators: int = 0

    @property
    def workspace_bytes(self) -> int:
        """What the phase added at its peak."""
        return self.peak_bytes - self.start_bytes


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator creates from its allocation to its death, by a weak reference.

    A storage that is an operator's argument before any operator returned it existed before the trace: weights,
    caches and inputs need no registration and are not counted. In inference mode composite operators arrive
    whole and hide their temporaries: trace under ``no_grad``. What a kernel allocates inside itself is not seen, nor
    what an opaque tensor (weights packed for oneDNN) holds.

    Args:
        device_types: count storages on these device types only, for example ``("meta",)``; None for all.
        scalar: answers reads of single elements of meta tensors (``.item()``, ``bool(tensor)``), which have no
            value of their own; ``.tolist()`` then gives 0, 1, 2, … in the rows of a table, 0 in a single row. None
            leaves both to fail as PyTorch has it.
        arena: a tensor that spans the storage in which the highest touched byte is looked for.

    Attributes:
        events: allocations and frees in order.
        live_bytes: of counted storages, now.
        peak_bytes: the most that ``live_bytes`` has been.
        peak_time: of the allocation that reached it, -1 before any.
    """

    def __init__(
        self,
        device_types: Collection[str] | None = None,
        scalar: Callable[[torch.Tensor], bool | int | float] | None = None,
        arena: torch.Tensor | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.live_bytes = self.peak_bytes = 0
        self.peak_time = -1
        self._device_types = device_types
        self._scalar = scalar
        self._arena = None if arena is None else _key(arena)
        self._clock = itertools.count()
        self._phases: list[Phase] = []
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = _tensors((args, kwargs))
        for tensor in arguments:
            self._follow(tensor, None)
        for phase in self._phases:
            phase.num_operators += 1
        if self._arena is not None and not _only_views(func):
            self._touch(func, arguments)
        if self._scalar is not None and _reads_a_scalar(func) and arguments[0].device.type == "meta":
            return self._scalar(arguments[0])
        if self._scalar is not None and _reads_to_the_host(func, arguments, kwargs):
            return _ranks(arguments[0])
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor, str(func))
        return result

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Watch a part of the trace; phases may nest."""
        phase = Phase(name, self.live_bytes, self.live_bytes)
        self._phases.append(phase)
        try:
            yield phase
        finally:
            self._phases.remove(phase)

    def live_at(self, time: int) -> list[Event]:
        """The allocations that were alive at a time, the event at that time included; in order of allocation."""
        alive: dict[int, Event] = {}
        for event in itertools.takewhile(lambda event: event.time <= time, self.events):
            if event.kind == "allocate":
                alive[event.storage] = event
            else:
                del alive[event.storage]
        return list(alive.values())

    def live_at_peak(self) -> list[Event]:
        """The allocations that were alive at the peak."""
        return self.live_at(self.peak_time)

    def _follow(self, tensor: torch.Tensor, operator: str | None) -> None:
        """Note a storage that is seen for the first time; ``operator`` is None if nobody allocated it in here."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known[storage._cdata] = weakref.ref(storage, partial(self._forget, storage._cdata))
        counts = self._device_types is None or tensor.device.type in self._device_types
        if operator is not None and counts and storage.nbytes() > 0:
            self._allocate(storage, operator)

    def _allocate(self, storage: torch.UntypedStorage, operator: str) -> None:
        time = next(self._clock)
        event = Event(time, "allocate", storage.nbytes(), operator, time)
        self.events.append(event)
        self._known[storage._cdata] = weakref.ref(storage, partial(self._free, storage._cdata, event))
        self.live_bytes += event.num_bytes
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_time = self.live_bytes, time
        for phase in self._phases:
            phase.peak_bytes = max(phase.peak_bytes, self.live_bytes)

    def _free(self, key: int, allocated: Event, reference: weakref.ref[torch.UntypedStorage]) -> None:
        self._forget(key, reference)
        self.live_bytes -= allocated.num_bytes
        freed = Event(next(self._clock), "free", allocated.num_bytes, allocated.operator, allocated.storage)
        self.events.append(freed)

    def _forget(self, key: int, reference: weakref.ref[torch.UntypedStorage]) -> None:
        if self._known.get(key) is reference:
            del self._known[key]

    def _touch(self, func: Any, arguments: Sequence[torch.Tensor]) -> None:
        ends = [_end_byte(tensor) for tensor in arguments if _key(tensor) == self._arena]
        for phase in self._phases:
            phase.arena_bytes = max([phase.arena_bytes, *ends])


def _tensors(tree: Any) -> list[torch.Tensor]:
    """Those with a storage: weights that a kernel library packed are opaque."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided]


def _key(tensor: torch.Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _end_byte(tensor: torch.Tensor) -> int:
    """One past the last byte of its storage that a tensor covers."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + last + 1) * tensor.itemsize


def _reads_a_scalar(func: Any) -> bool:
    return bool(func is torch.ops.aten._local_scalar_dense.default)


def _reads_to_the_host(func: Any, arguments: Sequence[torch.Tensor], kwargs: Any) -> bool:
    """Whether a meta tensor is copied to the host, as ``tolist()`` does."""
    copies = func is torch.ops.aten._to_copy.default
    return copies and arguments[0].device.type == "meta" and str((kwargs or {}).get("device")) == "cpu"


def _ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Stands for content that is not there: 0, 1, 2, … in a table's rows, as choices of experts are; 0 in a single one,
    as the best tokens of rows are.
    """
    if tensor.dim() < 2:
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.arange(tensor.shape[-1]).expand(tensor.shape).to(tensor.dtype)


def _only_views(func: Any) -> bool:
    """Whether an operator takes no more than shape and dtype from its arguments."""
    name = func.name().split(".")[0]
    return bool(func.is_view) or name in _UNDECLARED_VIEWS or name.endswith("_like") or name.startswith("aten::new_")
