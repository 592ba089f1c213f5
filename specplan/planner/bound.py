"""``Bound``: the largest value of a knob at which a scenario fits, and the next one, which does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from specplan.heads import MedusaHeads
from specplan.knob import Knob
from specplan.ledger import MemoryLedger
from specplan.parallelism import Parallelism
from specplan.planner.room import Room
from specplan.scenario import Scenario
from specplan.speculation import Drafter

#: How fast the search grows before it bisects: no value that is tried needs much more than the budget.
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the budget ends for one drafter.

    Attributes:
        scenario: at ``value``, or at the least value when even that does not fit; of whole models.
        value: the largest that fits; 0 when none does.
        fitting: ledger at ``value``; None when none fits.
        beyond: ledger at the next value, which does not fit; None when ``value`` is the most that specplan plans.
        budget_bytes: what there is.
        parallelism: how models are spread to reach ``value``; None on one device.
        rank: whose ledgers and budget these are: the one on which the next value fits least.
    """

    scenario: Scenario
    value: int
    fitting: MemoryLedger | None
    beyond: MemoryLedger | None
    budget_bytes: int
    parallelism: Parallelism | None = None
    rank: int = 0

    @property
    def drafter(self) -> Drafter:
        """Who proposes."""
        return self.scenario.speculation.drafter

    @property
    def left_bytes(self) -> int | None:
        """What the budget has left at ``value``."""
        return None if self.fitting is None else self.budget_bytes - self.fitting.peak_bytes

    @property
    def shortfall_bytes(self) -> int | None:
        """What is missing for one more; None when no bound was found."""
        return None if self.beyond is None else self.beyond.peak_bytes - self.budget_bytes

    def growth(self) -> tuple[tuple[str, int], ...]:
        """What one more adds to the peak: (item, bytes), largest first, the system's last; they sum to its growth."""
        if self.fitting is None or self.beyond is None:
            return ()
        before, after = self.fitting, self.beyond
        same = before.binding_phase == after.binding_phase
        phases = ("resident", after.binding_phase) if same else ("resident",)
        known = before.by_name()
        found = [(item, item.bytes - known[item.name].bytes) for item in after.items if item.phase in phases]
        found.sort(key=lambda entry: (entry[0].owner == "system", -entry[1]))
        growth = [(item.name, num_bytes) for item, num_bytes in found if num_bytes]
        if not same:
            more = after.workspace_bytes - before.workspace_bytes
            growth.append((f"{after.binding_phase} instead of {before.binding_phase}", more))
        return tuple(growth)


def widest_bound(scenario: Scenario, knob: Knob, rooms: list[Room], limit: int) -> Bound:
    """The largest value in any room, the first that has it; where none has any, the room that lacks least."""
    value, widest = 0, rooms[0]
    for room in rooms:
        least = max(knob.least, value + 1, _least_batch(room) if knob.name == "batch_size" else 0)

        def fits(tried: int, room: Room = room) -> bool:
            return room.holds(put(scenario, knob, tried))

        found = largest(fits, least, limit) if least <= limit else 0
        if found > value:
            value, widest = found, room
    if not value:
        none = [room for room in rooms if knob.name != "batch_size" or _least_batch(room) <= knob.least]
        widest = max(none, key=lambda room: room.spare(put(scenario, knob, knob.least)))
    return _bound(scenario, knob, value, widest, limit)


def _least_batch(room: Room) -> int:
    """Sequences that its micro-batches need."""
    return 1 if room.parallelism is None else room.parallelism.num_micro_batches


def _bound(scenario: Scenario, knob: Knob, value: int, room: Room, limit: int) -> Bound:
    at = put(scenario, knob, max(value, knob.least))
    beyond = put(scenario, knob, max(value + 1, knob.least)) if value < limit else None
    tightest = room.tightest(beyond or at)
    return Bound(
        scenario=at,
        value=value,
        fitting=room.ledger(at, tightest.rank) if value else None,
        beyond=None if beyond is None else room.ledger(beyond, tightest.rank),
        budget_bytes=tightest.budget_bytes,
        parallelism=room.parallelism,
        rank=tightest.rank,
    )


def largest(fits: Callable[[int], bool], least: int, limit: int) -> int:
    """The largest number from ``least`` (at least 1) to ``limit`` that fits; 0 when none does.

    ``fits`` must not turn true again once it is false.
    """
    if not fits(least):
        return 0
    low, high = least, least  # low fits; once they differ, high does not
    while low == high:
        if high == limit:
            return limit
        high = min(high * _GROWTH, limit)
        if fits(high):
            low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def put(scenario: Scenario, knob: Knob, value: int) -> Scenario:
    """The scenario with another value of the knob; a chain has a Medusa head for every token."""
    changed = knob.put(scenario, value)
    if knob.name == "num_speculative_tokens" and isinstance(changed.heads, MedusaHeads):
        return dataclasses.replace(changed, heads=dataclasses.replace(changed.heads, num_heads=value))
    return changed
