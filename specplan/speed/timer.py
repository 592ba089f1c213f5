"""``StepTimer``: one object that is asked how long a pass takes, whether a table or the roofline answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specplan.arch import ModelArch
from specplan.device import DeviceSpec
from specplan.provenance import Source
from specplan.scenario import Scenario
from specplan.speculation import Drafter
from specplan.speed import roofline, step_times
from specplan.speed.roofline import Pass, Rows, Times
from specplan.speed.step_times import StepTimeTable

ROOFLINE = "roofline over the device profile, efficiencies assumed"


class StepTimer(Protocol):
    """Times the passes of one model in one precision on one device."""

    @property
    def reference(self) -> str:
        """Where its times come from."""

    def pass_seconds(self, each: Pass) -> Times:
        """Seconds of a pass."""

    def source(self, *, rows: int, batch_size: int, context: int, num_layers: int | None = None) -> Source:
        """Whether the time of such a pass is measured, or modelled."""

    def host_seconds(self, drafter: Drafter) -> float:
        """Seconds of a step beyond its passes, where they were measured."""


@dataclass(frozen=True, slots=True)
class RooflineTimer:
    """Times from the device's peak figures.

    Attributes:
        arch: the model.
        device: peaks.
        dtype, kv_dtype: weight format and element type of the cache.
    """

    arch: ModelArch
    device: DeviceSpec
    dtype: str
    kv_dtype: str

    @property
    def reference(self) -> str:
        """The roofline."""
        return ROOFLINE

    def pass_seconds(self, each: Pass) -> Times:
        """Modelled seconds."""
        return roofline.pass_seconds(self.arch, self.device, self.dtype, self.kv_dtype, each)

    def layer_seconds(self, each: Pass) -> Times:
        """Modelled seconds of the layers alone."""
        return roofline.layer_seconds(self.arch, self.device, self.dtype, self.kv_dtype, each)

    def tile_seconds(self, rows: Rows) -> Times:
        """Modelled seconds of one tile of the head."""
        return roofline.head_seconds(self.arch, self.device, self.dtype, tiles=1, rows=rows, tile_rows=rows)

    def source(self, *, rows: int, batch_size: int, context: int, num_layers: int | None = None) -> Source:
        """Always modelled."""
        return "modelled"

    def host_seconds(self, drafter: Drafter) -> float:
        """Not measured."""
        return 0.0


@dataclass(frozen=True, slots=True)
class TableTimer:
    """Times from measured tables; outside of their grids scaled as the roofline scales, which is modelled.

    A precision that was not measured is scaled in the same way: beside measured times, bare modelled ones would look
    better than they are.

    Attributes:
        tables: of one model by the layers that run, in one precision, the whole model among them.
        model: the roofline of the same model in the precision that is asked for.
    """

    tables: dict[int, StepTimeTable]
    model: RooflineTimer

    @property
    def reference(self) -> str:
        """The table's own."""
        table = self._whole
        scaled = f" in {table.dtype} (KV {table.kv_dtype}), scaled by the roofline"
        return table.reference + ("" if self._is_measured else scaled)

    @property
    def _is_measured(self) -> bool:
        return (self._whole.dtype, self._whole.kv_dtype) == (self.model.dtype, self.model.kv_dtype)

    @property
    def _edge(self) -> RooflineTimer:
        """The roofline of what was measured."""
        return dataclasses.replace(self.model, dtype=self._whole.dtype, kv_dtype=self._whole.kv_dtype)

    @property
    def _whole(self) -> StepTimeTable:
        return self.tables[self.model.arch.num_hidden_layers]

    def pass_seconds(self, each: Pass) -> Times:
        """Measured seconds of the layers and of the head's tiles."""
        seconds: Times = self._layer_seconds(each) + each.num_tiles * self._tile_seconds(each.tile_rows)
        return seconds

    def source(self, *, rows: int, batch_size: int, context: int, num_layers: int | None = None) -> Source:
        """Measured inside the grid of a table for this depth."""
        table = self.tables.get(num_layers or self.model.arch.num_hidden_layers)
        if table is None or not self._is_measured:
            return "modelled"
        axes = ((rows / batch_size, table.rows), (batch_size, table.batch_sizes), (context, table.contexts))
        return "measured" if all(axis[0] <= point <= axis[-1] for point, axis in axes) else "modelled"

    def host_seconds(self, drafter: Drafter) -> float:
        """Measured; of plain decoding for a drafter that was not."""
        host = self._whole.host_s
        return host.get(drafter, host.get("none", 0.0))

    def _layer_seconds(self, each: Pass) -> Times:
        table = self.tables.get(each.num_layers or self.model.arch.num_hidden_layers, self._whole)
        batch = min(max(each.batch_size, table.batch_sizes[0]), table.batch_sizes[-1])
        seen = min(max(each.context, table.contexts[0]), table.contexts[-1])
        rows = np.clip(np.asarray(each.rows) / each.batch_size, table.rows[0], table.rows[-1])
        inside = step_times.layer_seconds(table, rows=rows, batch_size=batch, context=seen)
        nearest = dataclasses.replace(
            each, rows=np.rint(rows * batch).astype(np.int64), batch_size=batch, context=seen,
            num_layers=table.num_layers,
        )  # fmt: skip
        seconds: Times = inside * (self.model.layer_seconds(each) / self._edge.layer_seconds(nearest))
        return seconds

    def _tile_seconds(self, rows: Rows) -> Times:
        axis = self._whole.head_rows
        edge = np.clip(rows, axis[0], axis[-1])
        inside = step_times.head_seconds(self._whole, tile_rows=edge)
        seconds: Times = inside * (self.model.tile_seconds(rows) / self._edge.tile_seconds(edge))
        return seconds


def step_timer(model: RooflineTimer, config_sha256: str, tables: Iterable[StepTimeTable]) -> StepTimer:
    """The measured tables of a model where there are any, in its precision or else in the nearest; else its roofline.

    Args:
        model: the roofline.
        config_sha256: of the model's config.
        tables: measured on the device that the roofline is of.
    """
    own = [table for table in tables if table.config_sha256 == config_sha256]
    precisions = {
        (table.dtype, table.kv_dtype): table for table in own if table.num_layers == model.arch.num_hidden_layers
    }
    if not precisions:
        return model
    best = max(sorted(precisions), key=lambda pair: (pair[0] == model.dtype, pair[1] == model.kv_dtype))
    return TableTimer({table.num_layers: table for table in own if (table.dtype, table.kv_dtype) == best}, model)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timers of a scenario.

    Attributes:
        target: of the verified model.
        draft: of the proposing model where it lives, None without one.
    """

    target: StepTimer
    draft: StepTimer | None


def modelled(scenario: Scenario) -> Timing:
    """The rooflines of a scenario's models."""
    workload, on_host = scenario.workload, scenario.speculation.draft_device == "host"
    target = RooflineTimer(scenario.target, scenario.device, workload.dtype, workload.kv_dtype)
    if scenario.draft is None:
        return Timing(target, None)
    device = scenario.host if on_host and scenario.host is not None else scenario.device
    return Timing(target, RooflineTimer(scenario.draft, device, workload.draft_dtype, workload.draft_kv_dtype))
