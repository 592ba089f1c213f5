"""The configurations of one variant as arrays: bytes, speed, prefill time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specplan.formulas.term import Knobs
from specplan.parallel.ranks import rank_scenarios
from specplan.parallelism import Parallelism
from specplan.planner.acceptance import acceptance_of, draft_agreement, weakened
from specplan.planner.question import Question
from specplan.planner.ranks import Share, peak_bytes, shares_of
from specplan.planner.timing import timing_of
from specplan.planner.variants import Variant, scenario_of, variants
from specplan.scenario import Scenario
from specplan.speculation import Drafter, Speculation
from specplan.speed.acceptance import Acceptance
from specplan.speed.parallel import SpreadTimer
from specplan.speed.roofline import Times
from specplan.speed.steps import Rate, prefill_seconds, step_seconds

Ints = npt.NDArray[np.int64]

_CHUNKS = (16, 32, 64, 128, 256, 512, 1024)
_LEAST_LOGITS_ROWS, _MAX_LOGITS_ROWS = 2, 64


@dataclass(frozen=True, slots=True)
class Candidates:
    """Configurations of one variant; all arrays have one entry per configuration.

    Attributes:
        variant: what they share.
        scenario: the same with models and device; its own γ, chunk and rows mean nothing.
        shares: what the ranks have of it.
        acceptance: what the target accepts.
        gamma: num_speculative_tokens of a chain, num_draft_nodes of a tree.
        prefill_chunk: prompt tokens per pass.
        logits_rows: rows of logits at one time.
        accepted_lengths: τ of each.
        peak_bytes: what each needs; on several devices what the smallest budget must be.
        tokens_per_s: modelled decoding speed, all sequences together.
        prefill_s: modelled time to prefill the prompts of one sequence.
        throughput: modelled tokens/s, prefill included, all sequences together.
    """

    variant: Variant
    scenario: Scenario
    shares: tuple[Share, ...]
    acceptance: Acceptance
    gamma: Ints
    prefill_chunk: Ints
    logits_rows: Ints
    accepted_lengths: Times
    peak_bytes: Ints
    tokens_per_s: Times
    prefill_s: Times
    throughput: Times

    def __len__(self) -> int:
        return len(self.gamma)

    @property
    def drafter(self) -> Drafter:
        """Who proposes."""
        return self.variant.drafter

    def speculation(self, index: int) -> Speculation:
        """The configuration at ``index``."""
        return self.variant.speculation(
            int(self.gamma[index]), int(self.prefill_chunk[index]), int(self.logits_rows[index])
        )

    def scenario_at(self, index: int) -> Scenario:
        """The scenario of the configuration at ``index``."""
        return dataclasses.replace(self.scenario, speculation=self.speculation(index))


def candidates(question: Question, variant: Variant) -> Candidates:
    """Evaluate every configuration of a variant."""
    gamma, chunk, rows = _grid(question, variant)
    scenario = scenario_of(question, variant)
    budget = question.inputs.budget_bytes
    shares = shares_of(scenario, variant.parallelism, question.cards, budget)
    acceptance = acceptance_of(question, variant.drafter, variant.num_exit_layers)
    tree, workload = variant.tree, variant.workload
    if variant.drafter == "draft_model":
        agreement = draft_agreement(variant.draft_context, workload.context, workload.draft_kv_dtype)
        acceptance = weakened(acceptance, agreement)
    peak = peak_bytes(shares, Knobs(gamma, chunk, rows), budget)
    step_s, prefill_s = step_and_prefill_seconds(
        question, variant.parallelism, scenario, (gamma, chunk, rows), acceptance.draft_rates(gamma)
    )
    accepted = acceptance.accepted_lengths(gamma) if tree is None else acceptance.tree_accepted_lengths(tree)[gamma]
    decode_s = workload.new_tokens * step_s / accepted
    return Candidates(
        variant=variant,
        scenario=scenario,
        shares=shares,
        acceptance=acceptance,
        gamma=gamma,
        prefill_chunk=chunk,
        logits_rows=rows,
        accepted_lengths=accepted,
        peak_bytes=np.broadcast_to(peak, gamma.shape),
        tokens_per_s=workload.batch_size * accepted / step_s,
        prefill_s=prefill_s,
        # sequences of a batch are prefilled one after the other and decoded together
        throughput=workload.batch_size * workload.new_tokens / (workload.batch_size * prefill_s + decode_s),
    )


def step_and_prefill_seconds(
    question: Question,
    parallelism: Parallelism | None,
    scenario: Scenario,
    knobs: tuple[Ints, Ints, Ints],
    draft_rate: Rate,
) -> tuple[Times, Times]:
    """Seconds of a step, and of the prefill of a sequence's prompts, one of each for every configuration.

    Args:
        question: whose devices and measured times count.
        parallelism: how the models are spread, None on one device.
        scenario: with whole models; its γ, chunk and rows are not used.
        knobs: γ, prefill chunk, logits rows.
        draft_rate: share of steps in which anything is drafted; one, or one for each configuration.
    """
    gamma, chunk, rows = knobs
    if parallelism is None:
        timing = timing_of(question, scenario)
        return step_seconds(scenario, gamma, rows, draft_rate, timing), prefill_seconds(scenario, chunk, timing)
    ranks = rank_scenarios(scenario, parallelism, [card.device for card in question.cards])
    timer = SpreadTimer(scenario, parallelism, ranks)
    return timer.step_seconds(gamma, rows, draft_rate), timer.prefill_seconds(chunk)


def all_candidates(question: Question) -> tuple[Candidates, ...]:
    """The whole declared space, drafter by drafter."""
    return tuple(candidates(question, each) for drafter in question.drafters for each in variants(question, drafter))


def least_scenario(question: Question, drafter: Drafter) -> Scenario:
    """The point of a drafter's plainest variant that takes least memory: every number at its smallest, γ where fixed.

    A draft model keeps its whole cache in the format that was given.
    """
    variant = variants(question, drafter)[0]
    least = variant.speculation(min(_drafted(question, variant)), _CHUNKS[0], _LEAST_LOGITS_ROWS)
    return scenario_of(question, variant, least)


def _drafted(question: Question, variant: Variant) -> list[int]:
    """Numbers of drafted tokens to try."""
    if variant.drafter == "none":
        return [0]
    if variant.tree is not None:
        whole = variant.tree.num_draft_nodes
        fixed = question.tree is not None or question.num_draft_nodes is not None
        return [whole] if fixed else list(range(1, whole + 1))
    if question.num_speculative_tokens is not None:
        return [question.num_speculative_tokens]
    return list(range(1, question.longest_chain(variant.drafter) + 1))


def _grid(question: Question, variant: Variant) -> tuple[Ints, Ints, Ints]:
    gammas, workload = _drafted(question, variant), variant.workload
    chunks = sorted({min(chunk, workload.context) for chunk in _CHUNKS})
    most_rows = min(_MAX_LOGITS_ROWS, max(2, workload.batch_size * (max(gammas) + 1)))
    rows = sorted({min(1 << power, most_rows) for power in range(1, 7)})
    axes = np.meshgrid(np.array(gammas), np.array(chunks), np.array(rows), indexing="ij")
    gamma, chunk, row = (axis.reshape(-1).astype(np.int64) for axis in axes)
    return gamma, chunk, row
