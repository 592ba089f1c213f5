"""From evaluated configurations to the best within a budget, the marks, and the reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.formulas.memory import MemoryModel
from specplan.plan import Mark, Marks, Neighbour
from specplan.planner.question import Question
from specplan.planner.space import Candidates, scenario_of
from specplan.speculation import Speculation

#: A prefill this much slower than the fastest is not worth more memory.
_PREFILL_SLACK = 1.05


@dataclass(frozen=True, slots=True)
class Choice:
    """One configuration of one drafter."""

    group: Candidates
    index: int

    @property
    def peak_bytes(self) -> int:
        """What it needs."""
        return int(self.group.peak_bytes[self.index])

    @property
    def tokens_per_s(self) -> float:
        """Modelled speed."""
        return float(self.group.tokens_per_s[self.index])

    @property
    def speculation(self) -> Speculation:
        """The configuration itself."""
        return self.group.speculation(self.index)


def best_within(groups: Sequence[Candidates], budget_bytes: int) -> Choice | None:
    """The fastest configuration that fits; among equals the quicker prefill, then fewer bytes."""
    best: Choice | None = None
    for group in groups:
        fits = np.flatnonzero(group.peak_bytes <= budget_bytes)
        if not len(fits):
            continue
        speed = group.tokens_per_s[fits]
        fastest = fits[speed >= speed.max() * (1 - 1e-12)]
        prefill = group.prefill_s[fastest]
        quick = fastest[prefill <= prefill.min() * _PREFILL_SLACK]
        choice = Choice(group, int(quick[np.argmin(group.peak_bytes[quick])]))
        if best is None or choice.tokens_per_s > best.tokens_per_s:
            best = choice
    return best


def least(groups: Sequence[Candidates]) -> Choice:
    """The configuration with the smallest peak; the fastest of several."""

    def key(choice: Choice) -> tuple[int, float]:
        return choice.peak_bytes, -choice.tokens_per_s

    choices = []
    for group in groups:
        smallest = np.flatnonzero(group.peak_bytes == group.peak_bytes.min())
        choices.append(Choice(group, int(smallest[np.argmax(group.tokens_per_s[smallest])])))
    return min(choices, key=key)


def find_marks(question: Question, groups: Sequence[Candidates]) -> Marks:
    """The four marks and each drafter's least budget, over all budgets."""
    plain = [group for group in groups if group.drafter == "none"]
    speculative = [group for group in groups if group.drafter != "none"]
    allowed = speculative if question.must_speculate else list(groups)
    top = max(float(group.tokens_per_s.max()) for group in allowed)
    return Marks(
        decodes=_mark(question, least(plain)),
        speculates=_speculates(question, plain, speculative),
        keeps=_mark(question, least(_at_least(allowed, top * question.inputs.keep))),
        fastest=_mark(question, least(_at_least(allowed, top * (1 - 1e-12)))),
        drafters={group.drafter: _mark(question, least([group])) for group in groups},
    )


def _speculates(question: Question, plain: Sequence[Candidates], speculative: Sequence[Candidates]) -> Mark | None:
    """The least budget at which a speculative configuration beats every plain one that fits it too."""
    plain_bytes = np.concatenate([group.peak_bytes for group in plain])
    plain_speed = np.concatenate([group.tokens_per_s for group in plain])
    winners = []
    for group in speculative:
        rival = np.where(plain_bytes <= group.peak_bytes[:, None], plain_speed, 0.0).max(axis=1)
        wins = np.flatnonzero(group.tokens_per_s > rival * (1 + 1e-9))
        if len(wins):
            winners.append(_subset(group, wins))
    return _mark(question, least(winners)) if winners else None


def _at_least(groups: Sequence[Candidates], tokens_per_s: float) -> list[Candidates]:
    found = ((group, np.flatnonzero(group.tokens_per_s >= tokens_per_s)) for group in groups)
    return [_subset(group, indices) for group, indices in found if len(indices)]


def _subset(group: Candidates, indices: npt.NDArray[np.intp]) -> Candidates:
    return dataclasses.replace(
        group,
        gamma=group.gamma[indices],
        prefill_chunk=group.prefill_chunk[indices],
        logits_rows=group.logits_rows[indices],
        accepted_lengths=group.accepted_lengths[indices],
        peak_bytes=group.peak_bytes[indices],
        tokens_per_s=group.tokens_per_s[indices],
        prefill_s=group.prefill_s[indices],
    )


def _mark(question: Question, choice: Choice) -> Mark:
    ledger = MemoryModel(scenario_of(question, choice.speculation)).ledger()
    binding = f"{ledger.binding_phase}: {ledger.binding_item.formula_id}"
    return Mark(choice.peak_bytes, choice.speculation, choice.tokens_per_s, binding)


def neighbours(choice: Choice, groups: Sequence[Candidates], budget_bytes: int) -> tuple[Neighbour, ...]:
    """The next values of γ, and the best of every other drafter, each with why it loses."""
    found = []
    group, chosen = choice.group, choice.speculation
    for gamma in (chosen.num_draft_nodes - 1, chosen.num_draft_nodes + 1):
        same = np.flatnonzero((group.gamma == gamma) & (group.prefill_chunk == chosen.prefill_chunk))
        if len(same):
            rival = Choice(group, int(same[np.argmax(group.tokens_per_s[same])]))
            found.append(_neighbour(chosen.drafted_name, str(gamma), rival, choice, budget_bytes))
    for other in groups:
        if other.drafter != chosen.drafter:
            rival = best_within([other], budget_bytes) or least([other])
            found.append(_neighbour("drafter", rival.speculation.describe(), rival, choice, budget_bytes))
    return tuple(found)


def _neighbour(knob: str, value: str, rival: Choice, choice: Choice, budget_bytes: int) -> Neighbour:
    over = rival.peak_bytes - budget_bytes
    if over > 0:
        reason = f"{over} bytes over the budget"
    else:
        slower = 1 - rival.tokens_per_s / choice.tokens_per_s
        reason = (
            f"{100 * slower:.1f} % slower" if slower > 0 else "excluded by request" if slower < 0 else "equally fast"
        )
    return Neighbour(knob, value, rival.peak_bytes, rival.tokens_per_s, reason)
