"""What decides the peak of a scenario: phases, the items of the one that binds, and what halving a knob would give."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from specplan.formulas.bind import evaluate
from specplan.formulas.catalogue import STAGES
from specplan.formulas.memory import MemoryModel
from specplan.knob import knobs_of
from specplan.ledger import PHASES, MemoryItem, MemoryLedger, Phase
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation


@dataclass(frozen=True, slots=True)
class Step:
    """One knob changed, everything else as it is.

    Attributes:
        knob: its name, or ``drafter``.
        value: as it is.
        instead: what it was changed to.
        peak_bytes: after the change.
        binding_phase: after the change.
    """

    knob: str
    value: str
    instead: str
    peak_bytes: int
    binding_phase: Phase


@dataclass(frozen=True, slots=True)
class Peak:
    """The peak of a scenario, taken apart.

    Attributes:
        ledger: every item.
        stages: of the binding phase's ``scratch``, the bytes of each stage: they share one region.
        steps: each knob halved, and speculation left out, most saved first.
    """

    ledger: MemoryLedger
    stages: dict[str, int]
    steps: tuple[Step, ...]

    @property
    def phases(self) -> tuple[tuple[Phase, int], ...]:
        """Phases that need workspace with their bytes, the binding one first."""
        found = [(phase, self.ledger.phase_bytes(phase)) for phase in PHASES[1:]]
        return tuple(sorted((entry for entry in found if entry[1]), key=lambda entry: -entry[1]))

    @property
    def second_phase(self) -> Phase | None:
        """The phase with the second largest workspace, None when only one needs any."""
        return self.phases[1][0] if len(self.phases) > 1 else None

    @property
    def slack_bytes(self) -> int:
        """What the second phase may grow by before it binds."""
        second = self.phases[1][1] if len(self.phases) > 1 else 0
        return self.ledger.workspace_bytes - second

    def items(self, phase: Phase) -> tuple[MemoryItem, ...]:
        """Items of a phase, the largest first, those of no bytes left out."""
        found = (item for item in self.ledger.items if item.phase == phase and item.bytes)
        return tuple(sorted(found, key=lambda item: -item.bytes))


def explain_peak(scenario: Scenario) -> Peak:
    """Take the peak of a scenario apart."""
    model = MemoryModel(scenario)
    ledger = model.ledger()
    scratch = [term for term in model.terms if term.formula_id == "scratch" and term.phase == ledger.binding_phase]
    stages = {stage: int(evaluate(stage, term.values)) for term in scratch for stage in STAGES}
    steps = sorted([*_halved(scenario), *_without_drafter(scenario)], key=lambda step: step.peak_bytes)
    return Peak(ledger, stages, tuple(steps))


def _halved(scenario: Scenario) -> list[Step]:
    """Every knob that can be halved, one at a time."""
    steps = []
    for knob in knobs_of(scenario):
        value = knob.read(scenario)
        half = max(knob.least, value // 2)
        if half < value:
            steps.append(_step(knob.name, str(value), str(half), knob.put(scenario, half)))
    return steps


def _without_drafter(scenario: Scenario) -> list[Step]:
    before = scenario.speculation
    if before.drafter == "none":
        return []
    plain = Speculation("none", Chain(0), 0, before.prefill_chunk, before.logits_rows)
    changed = dataclasses.replace(scenario, draft=None, speculation=plain)
    return [_step("drafter", before.drafter, "none", changed)]


def _step(knob: str, value: str, instead: str, changed: Scenario) -> Step:
    ledger = MemoryModel(changed).ledger()
    return Step(knob, value, instead, ledger.peak_bytes, ledger.binding_phase)
