"""Timing passes of a decoder: layers and head apart, point by point of a grid, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from specplan_runtime.arena import Arena
from specplan_runtime.decoder import Decoder
from specplan_runtime.parameters import Parameters, Slots
from specplan_runtime.span import Span
from specplan_runtime.workspace import PassShape, Workspace

Clock = Callable[[], float]

#: Rows whose logits one tile of a measured pass holds at most; the planner tries no more.
MOST_TILE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Point:
    """A pass: sequences, tokens that its rows see, tokens of each sequence."""

    batch_size: int
    context: int
    rows: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The passes to measure.

    Attributes:
        rows: tokens per sequence, rising.
        batch_sizes: 1, and the cache's own where that is larger.
        contexts: tokens that a pass sees, rising; none below the most rows.
    """

    rows: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    contexts: tuple[int, ...]

    def points(self) -> Iterator[Point]:
        """Every combination."""
        for batch_size in self.batch_sizes:
            for context in self.contexts:
                for rows in self.rows:
                    yield Point(batch_size, context, rows)


@dataclass(slots=True)
class PassTimes:
    """Measured seconds of one decoder at one depth.

    Attributes:
        layers: by point, of the layers.
        head: by rows of the tile, of the head.
    """

    layers: dict[Point, list[float]] = field(default_factory=dict)
    head: dict[int, list[float]] = field(default_factory=dict)

    def layer_medians(self, grid: Grid) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """[batch_sizes][contexts][rows]."""
        return tuple(
            tuple(
                tuple(statistics.median(self.layers[Point(batch, context, rows)]) for rows in grid.rows)
                for context in grid.contexts
            )
            for batch in grid.batch_sizes
        )

    def head_medians(self) -> dict[int, float]:
        """By rows of a tile, rising."""
        return {rows: statistics.median(self.head[rows]) for rows in sorted(self.head)}

    @property
    def spread(self) -> float:
        """Median over all points of the quartile distance over the median; 0 for points measured once."""
        return statistics.median(_spread(times) for times in (*self.layers.values(), *self.head.values()))


class PassTimer:
    """Runs passes of one decoder in buffers of its own.

    Args:
        decoder: loaded.
        batch_size: sequences in its cache.
        slots: of each.
        most_rows: tokens per sequence of the largest pass.
        num_layers: layers to run, all when None.
        clock: seconds; the machine's own unless a test brings one.
    """

    def __init__(
        self,
        decoder: Decoder,
        batch_size: int,
        slots: Slots,
        most_rows: int,
        num_layers: int | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._decoder, self._num_layers, self._clock = decoder, num_layers, clock
        self._batch_size = batch_size
        self._work = place_workspace(decoder.parameters, batch_size, slots, most_rows)
        self.times = PassTimes()

    def warm_up(self, point: Point) -> None:
        """Run one pass that is forgotten."""
        times, self.times = self.times, PassTimes()
        self.measure(point)
        self.times = times

    @torch.inference_mode()
    def measure(self, point: Point) -> None:
        """Run one pass, and note what it took.

        Raises:
            ValueError: a batch that is neither 1 nor the cache's own.
        """
        if point.batch_size not in (1, self._batch_size):
            raise ValueError(f"batch {point.batch_size} in a cache of {self._batch_size}")
        alone = point.batch_size == 1
        self._wait()
        began = self._clock()
        span = Span(
            [[1] * point.rows] * point.batch_size,
            [max(0, point.context - point.rows)] * point.batch_size,
            row=0 if alone else None,
        )
        self._decoder.forward(self._work, span, self._num_layers)
        self._wait()
        between = self._clock()
        self.times.layers.setdefault(point, []).append(between - began)
        if alone and point.rows <= self._work.shape.logits_rows:
            for _, logits in self._decoder.logits(self._work, None, point.rows):
                torch.argmax(logits, dim=-1, out=self._work.argmax[: len(logits)]).tolist()
                del logits
            self.times.head.setdefault(point.rows, []).append(self._clock() - between)

    def _wait(self) -> None:
        device = self._decoder.parameters.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def place_workspace(parameters: Parameters, batch_size: int, slots: Slots, most_rows: int) -> Workspace:
    """Buffers for passes of up to ``most_rows`` tokens of ``batch_size`` sequences, in an arena of their own.

    Raises:
        BudgetError: the device does not have the memory.
    """
    tile = max(2, min(MOST_TILE_ROWS, most_rows))
    shape = PassShape("verify", batch_size * most_rows, batch_size, slots, tile)
    counted = Arena()
    Workspace(counted, parameters.arch, parameters.precision, shape)
    arena = Arena.allocate(counted.high_water, parameters.device)
    return Workspace(arena, parameters.arch, parameters.precision, shape)


@torch.inference_mode()
def fill_caches(parameters: Parameters) -> None:
    """Noise in every slot: pages that were never written would be read faster than real ones."""
    for cache in (parameters.full, parameters.windowed):
        for tensor in (cache.keys, cache.values):
            tensor.normal_(0, 1)


def measure_in_turns(
    timers: Sequence[PassTimer], grids: Sequence[Grid], repeats: int, done: Callable[[float], None]
) -> None:
    """Every point of every timer once, then all of them again: drift of the machine falls on all alike.

    A timer's turn begins with a pass that is not counted: a model that rested for a while was measured to be a quarter
    slower in its first pass.

    Args:
        timers: of decoders.
        grids: one for each.
        repeats: rounds that count; one more before them warms up and is forgotten.
        done: told the fraction that is done.
    """
    num_points, number = sum(len(tuple(grid.points())) for grid in grids), 0
    for index in range(repeats + 1):
        for timer, grid in zip(timers, grids, strict=True):
            timer.warm_up(next(grid.points()))
            for point in grid.points():
                timer.measure(point)
                number += 1
                done(number / ((repeats + 1) * num_points))
        if not index:
            for timer in timers:
                timer.times = PassTimes()


def _spread(times: Sequence[float]) -> float:
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle
