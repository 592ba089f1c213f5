"""``Exported``: a plan as an engine's command; ``TooLarge``: the other answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.export.command import Command
from specplan.export.limits import Limits
from specplan.export.request import Request

_CONTEXT = "CUDA context"


@dataclass(frozen=True, slots=True)
class Exported:
    """A deployment.

    Attributes:
        limits: the engine.
        version: of the engine that was read.
        image: of its container, None where no released one is known.
        command: how it is started.
        request: what the plan asks for, as the engine can do it.
        memory: what the engine makes of the device's memory, item by item, the largest first.
        needed_bytes: all of it.
        notes: what the engine cannot do with what it does instead, and what a reader should know besides.
    """

    limits: Limits
    version: str
    image: str | None
    command: Command
    request: Request
    memory: tuple[Part, ...]
    needed_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The engine needs more than the plan's budget.

    Attributes:
        limits: the engine.
        memory: item by item, the largest first.
        needed_bytes: all of it.
        budget_bytes: of the plan.
    """

    limits: Limits
    memory: tuple[Part, ...]
    needed_bytes: int
    budget_bytes: int


def memory_of(budget: EngineBudget, others: Sequence[Part], device: DeviceSpec) -> tuple[Part, ...]:
    """All items of an engine's memory: what it names, its KV, its verify pass, and the context that some leave out.

    Args:
        budget: of the engine.
        others: KV, and what the engine leaves out besides.
        device: where it runs.
    """
    parts = [*budget.static, *others]
    if not any(part.name == _CONTEXT for part in parts):
        parts.append(Part(_CONTEXT, device.context_bytes))
    if int(budget.verify.value):
        parts.append(Part("verify pass", budget.verify))
    return tuple(sorted(parts, key=lambda part: -part.bytes))
