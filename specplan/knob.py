"""``Knob``: one whole number of a scenario that decides bytes, and how it is read and set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specplan.scenario import Scenario
from specplan.speculation import MAX_NODES, Chain, Tree


@dataclass(frozen=True, slots=True)
class Knob:
    """One entry of ``KNOBS``.

    Attributes:
        name: as in the dataclass that holds it; the option is spelled from it.
        unit: what one step of it is, singular.
        units: the same, plural.
        least: smallest value that makes sense.
        limit: largest value that specplan plans.
        read: its value in a scenario.
        put: the scenario with another value; the peak never falls when the value rises.
    """

    name: str
    unit: str
    units: str
    least: int
    limit: int
    read: Callable[[Scenario], int]
    put: Callable[[Scenario, int], Scenario]

    @property
    def option(self) -> str:
        """The option of the command line that fixes it."""
        return f"--{self.name.replace('_', '-')}"


def _workload(scenario: Scenario, **changes: Any) -> Scenario:
    return dataclasses.replace(scenario, workload=dataclasses.replace(scenario.workload, **changes))


def _speculation(scenario: Scenario, **changes: Any) -> Scenario:
    return dataclasses.replace(scenario, speculation=dataclasses.replace(scenario.speculation, **changes))


def _pruned(scenario: Scenario, num_draft_nodes: int) -> Scenario:
    """The tree's first nodes; a chain has no nodes to leave out."""
    shape = scenario.speculation.shape
    return _speculation(scenario, shape=shape.pruned(num_draft_nodes)) if isinstance(shape, Tree) else scenario


_MOST_TOKENS = 1 << 24

_ENTRIES = (
    Knob(
        "context", "token", "tokens", 1, _MOST_TOKENS,
        lambda s: s.workload.context, lambda s, value: _workload(s, context=value),
    ),
    Knob(
        "batch_size", "sequence", "sequences", 1, 4096,
        lambda s: s.workload.batch_size, lambda s, value: _workload(s, batch_size=value),
    ),
    Knob(
        "num_speculative_tokens", "token per step", "tokens per step", 1, 64,
        lambda s: s.speculation.num_draft_nodes, lambda s, value: _speculation(s, shape=Chain(value)),
    ),
    Knob(
        "num_draft_nodes", "node", "nodes", 1, MAX_NODES,
        lambda s: s.speculation.num_draft_nodes, _pruned,
    ),
    Knob(
        "prefill_chunk", "row", "rows", 1, _MOST_TOKENS,
        lambda s: s.speculation.prefill_chunk, lambda s, value: _speculation(s, prefill_chunk=value),
    ),
    Knob(
        "logits_rows", "row", "rows", 2, _MOST_TOKENS,
        lambda s: s.speculation.logits_rows, lambda s, value: _speculation(s, logits_rows=value),
    ),
)  # fmt: skip

#: Every knob by name, in the order in which people meet them.
KNOBS = {knob.name: knob for knob in _ENTRIES}

#: Those that ``specplan solve --for`` answers.
SOLVABLE = ("context", "batch_size", "num_speculative_tokens", "num_draft_nodes")


def knobs_of(scenario: Scenario) -> tuple[Knob, ...]:
    """The knobs that this scenario has: plain decoding drafts nothing."""
    speculation = scenario.speculation
    absent = {"num_draft_nodes"} if isinstance(speculation.shape, Chain) else {"num_speculative_tokens"}
    if speculation.drafter == "none":
        absent.add("num_speculative_tokens")
    return tuple(knob for knob in _ENTRIES if knob.name not in absent)
