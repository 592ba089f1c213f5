"""Configurations of Vicuna-7B with Medusa heads on a Titan RTX, with their generation memory and modelled speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from bench.medusa_reference import Footprint
from specplan.acceptance_profiles import ALL, AcceptanceProfile, bundled_acceptance
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Knobs
from specplan.heads import MedusaHeads
from specplan.ledger import PHASES, RUNTIME_OWNERS
from specplan.planner.ask import ask
from specplan.planner.choose import Choice
from specplan.planner.question import Question
from specplan.planner.space import Candidates, all_candidates
from specplan.scenario import Scenario
from specplan.speculation import Speculation, Tree
from specplan.speed.acceptance import Acceptance
from specplan.speed.steps import prefill_seconds, step_seconds

TARGET, DEVICE, PROFILE = "vicuna-7b-v1.3", "titan-rtx", "vicuna-7b-v1.3-medusa"
#: A query of the paper: a prompt and its answer, taken to be of equal lengths.
QUERY_TOKENS = 128
#: Ranks that Medusa's code takes from every head; its published accuracies end at five.
_MOST_RANKS = 10

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Speed:
    """Modelled speed of one sequence.

    Attributes:
        accepted_length: τ.
        tokens_per_s: while decoding.
        throughput: prefill included.
    """

    accepted_length: float
    tokens_per_s: float
    throughput: float


@cache
def accuracies(extended: bool) -> AcceptanceProfile:
    """Published accuracies of Vicuna-7B's heads.

    Args:
        extended: ranks six to ten, which are not published, are as often right as the fifth. That is the most they can
            be; otherwise they count nothing, which is the least.
    """
    profile = bundled_acceptance(PROFILE)
    if not extended:
        return profile
    rates = profile.category(ALL)
    levels = tuple(level + (level[-1],) * (_MOST_RANKS - len(level)) for level in rates.rank_rates)
    return dataclasses.replace(profile, categories={ALL: dataclasses.replace(rates, rank_rates=levels)})


def question(queries: int, *, extended: bool, share_head: bool = False, tree: str | None = None) -> Question:
    """A conversation of so many queries; ``tree`` by name instead of the best one of every size."""
    asked = ask(
        model=TARGET, gpu=DEVICE, drafter="medusa", tree=tree, share_head=share_head,
        context=queries * QUERY_TOKENS, turns=queries, turn_tokens=QUERY_TOKENS,
    )  # fmt: skip
    return dataclasses.replace(asked, profiles=(accuracies(extended),))


def speed(asked: Question, tree: Tree, num_heads: int) -> Speed:
    """Speed of a tree with so many heads of their own, its prompts taken in at once: as Medusa's code does."""
    heads = MedusaHeads(num_heads, 1, shares_head=False, topk=max(_MOST_RANKS, tree.topk))
    rows = tree.num_verify_tokens
    speculation = Speculation("medusa", tree, 0, QUERY_TOKENS, rows)
    scenario = Scenario(asked.inputs.target.arch, None, asked.inputs.device, asked.workload, speculation, heads)
    step_s = float(step_seconds(scenario, np.array([rows - 1]), np.array([rows]))[0])
    prefill_s = float(prefill_seconds(scenario, np.array([QUERY_TOKENS]))[0])
    accepted = float(Acceptance.from_profile(asked.profiles[0]).tree_accepted_lengths(tree)[-1])
    new_tokens = asked.workload.new_tokens
    return Speed(accepted, accepted / step_s, new_tokens / (prefill_s + new_tokens * step_s / accepted))


def generation_bytes(scenario: Scenario, knobs: Knobs) -> Ints:
    """What the runtime allocates beyond the target's weights and the keys and values of the context, for many knobs."""
    totals: dict[str, Ints] = {phase: np.zeros(1, dtype=np.int64) for phase in PHASES}
    model = MemoryModel(scenario, knobs)
    for term in model.terms:
        if term.owner not in RUNTIME_OWNERS or term.name == "target.weights":
            continue
        beyond = np.asarray(term.bytes, dtype=np.int64)
        if term.name == "target.kv_cache":
            beyond = beyond - _committed(beyond, scenario.workload.context, np.asarray(model.bindings.target_slots))
        totals[term.phase] = totals[term.phase] + beyond
    workspaces = np.broadcast_arrays(*(totals[phase] for phase in PHASES[1:]))
    result: Ints = totals["resident"] + np.max(workspaces, axis=0)
    return result


def _committed(cache_bytes: Ints, context: int, slots: Ints) -> Ints:
    """Keys and values of the context itself; all layers of the target see all of it."""
    committed: Ints = cache_bytes // slots * context
    return committed


def footprint(scenario: Scenario) -> Footprint:
    """The same of one configuration, by kind."""
    model = MemoryModel(scenario)
    ledger = model.ledger()
    items = [item for item in ledger.owned_items() if item.name != "target.weights"]
    resident = {item.name: item.bytes for item in items if item.phase == "resident"}
    cache_bytes = np.array(resident.pop("target.kv_cache"))
    slots = np.asarray(model.bindings.target_slots)
    heads = resident.pop("drafter.weights", 0)
    workspaces = {phase: sum(i.bytes for i in items if i.phase == phase) for phase in PHASES[1:]}
    binding = max(workspaces, key=lambda phase: workspaces[phase])
    rows = {term.phase: int(term.values["R"]) for term in model.terms if "R" in term.values}[binding]
    logits = rows * scenario.target.vocab_size * 2
    kv_slots = int(cache_bytes - _committed(cache_bytes, scenario.workload.context, slots))
    return Footprint(heads, kv_slots, sum(resident.values()), logits, workspaces[binding] - logits)


@cache
def evaluated(queries: int, extended: bool, share_head: bool) -> tuple[tuple[Candidates, Ints], ...]:
    """The planner's space of trees and chunks, by heads, with the generation memory of every configuration."""
    return _with_bytes(question(queries, extended=extended, share_head=share_head))


@cache
def with_tree(queries: int, extended: bool, share_head: bool, tree: str) -> tuple[tuple[Candidates, Ints], ...]:
    """The same for one tree, drafted as a whole."""
    return _with_bytes(question(queries, extended=extended, share_head=share_head, tree=tree))


def _with_bytes(asked: Question) -> tuple[tuple[Candidates, Ints], ...]:
    groups = [group for group in all_candidates(asked) if group.drafter == "medusa"]
    knobs = (Knobs(group.gamma, group.prefill_chunk, group.logits_rows) for group in groups)
    return tuple((group, generation_bytes(group.scenario, each)) for group, each in zip(groups, knobs, strict=True))


def smallest(groups: Sequence[tuple[Candidates, Ints]], at_least: float) -> Choice | None:
    """The configuration of the least generation memory among those with that throughput; None when none is as fast."""
    found: tuple[int, Choice] | None = None
    for group, num_bytes in groups:
        fast = np.flatnonzero(group.throughput >= at_least)
        if len(fast):
            index = int(fast[np.argmin(num_bytes[fast])])
            if found is None or num_bytes[index] < found[0]:
                found = int(num_bytes[index]), Choice(group, index)
    return None if found is None else found[1]
