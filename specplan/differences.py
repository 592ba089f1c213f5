"""What changed between two plans: settings, bytes by item, estimates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from specplan.ledger import MemoryLedger, Phase
from specplan.plan import Plan
from specplan.strict import encode

#: Parts of a plan that were asked for or chosen.
_SETTINGS = ("inputs", "workload", "speculation", "forward")
#: Parts that follow from the others; that they differ is said, not how.
_OTHERS = ("spread", "marks", "certificate", "frontier", "notes", "schema_version", "tool_version", "code_sha256")


@dataclass(frozen=True, slots=True)
class Change:
    """A value that is another one.

    Attributes:
        name: the path of its key.
        before: as JSON, None where the first plan has no such key.
        after: the same for the second plan.
    """

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class ItemChange:
    """An item of the ledger whose bytes changed.

    Attributes:
        name: of the item.
        phase: that it belongs to.
        before: bytes in the first plan, None where it was added.
        after: bytes in the second plan, None where it was removed.
    """

    name: str
    phase: Phase
    before: int | None
    after: int | None

    @property
    def added_bytes(self) -> int:
        """Of the second plan beyond the first."""
        return (self.after or 0) - (self.before or 0)


@dataclass(frozen=True, slots=True)
class Peak:
    """What decides a plan's bytes.

    Attributes:
        bytes: the peak.
        phase: that binds.
        item: the largest of that phase.
    """

    bytes: int
    phase: Phase
    item: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two plans.

    Attributes:
        settings: of models, devices, workload and speculation.
        items: of the ledger: added, removed or of other bytes, the largest change first.
        before, after: what decides the bytes of each.
        estimates: modelled speed, and bytes and speed of the marks.
        others: parts that differ besides, by name.
    """

    settings: tuple[Change, ...]
    items: tuple[ItemChange, ...]
    before: Peak
    after: Peak
    estimates: tuple[Change, ...]
    others: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """The plans are equal."""
        changed = self.settings or self.items or self.estimates or self.others
        return not changed and self.before == self.after


def difference(before: Plan, after: Plan) -> Difference:
    """What changed from one plan to the other."""
    first, second = encode(before), encode(after)
    changed = [_changes(_part(first, name), _part(second, name)) for name in _SETTINGS]
    changed.append(_changes(_devices(first), _devices(second)))
    estimates = _changes(_estimates(first), _estimates(second))
    return Difference(
        tuple(change for changes in changed for change in changes),
        _items(before.ledger, after.ledger),
        _peak(before.ledger),
        _peak(after.ledger),
        tuple(estimates),
        tuple(name for name in _OTHERS if first[name] != second[name]),
    )


def _part(data: dict[str, Any], name: str) -> dict[str, str]:
    return dict(_leaves(data[name], name))


def _devices(data: dict[str, Any]) -> dict[str, str]:
    """How the models are spread over several devices, and which those are; one device is named in the inputs."""
    spread = data["spread"]
    if spread is None:
        return {"parallelism": "null"}
    named = {rank: kind["device"]["name"] for kind in spread["kinds"] for rank in kind["ranks"]}
    return _part(spread, "parallelism") | {"devices": json.dumps([named[rank] for rank in sorted(named)])}


def _estimates(data: dict[str, Any]) -> dict[str, str]:
    """Figures of the estimate with their sources, and the bytes and speed of every mark."""
    marks = dict(_leaves(data["marks"], "marks"))
    shown = {
        name: value for name, value in marks.items() if name.endswith((".bytes", ".throughput")) or value == "null"
    }
    return dict(_leaves(data["estimate"], "estimate")) | shown


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Values by the paths of their keys; a list is one value."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _leaves(entry, f"{path}.{key}")
    else:
        yield path, json.dumps(value, sort_keys=True, ensure_ascii=False)


def _changes(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    names = list(dict.fromkeys([*before, *after]))
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _items(before: MemoryLedger, after: MemoryLedger) -> tuple[ItemChange, ...]:
    first, second = before.by_name(), after.by_name()
    changes = []
    for name in dict.fromkeys([*first, *second]):
        old, new = first.get(name), second.get(name)
        if old != new:
            phase = (new or first[name]).phase
            changes.append(
                ItemChange(name, phase, None if old is None else old.bytes, None if new is None else new.bytes)
            )
    return tuple(sorted(changes, key=lambda change: (-abs(change.added_bytes), change.name)))


def _peak(ledger: MemoryLedger) -> Peak:
    return Peak(ledger.peak_bytes, ledger.binding_phase, ledger.binding_item.name)
