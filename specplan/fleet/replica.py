"""One replica on cards of one kind: its plan, and the time that a row of its batch gives to a request."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from specplan.errors import InputError
from specplan.fleet.demand import Cards, Demand, FleetQuestion, RequestClass
from specplan.fleet.queueing import Service
from specplan.plan import Plan
from specplan.planner.acceptance import acceptance_of
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.question import Question
from specplan.planner.space import step_and_prefill_seconds
from specplan.workload import Workload


@dataclass(frozen=True, slots=True)
class RequestTime:
    """Seconds of a request while all rows of its replica are busy.

    Attributes:
        prefill_s: of its own prompt.
        decode_s: of its answer, the prompts of other rows in between included.
    """

    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """That it holds a row."""
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class Replica:
    """A plan on a card or several, and what it does for the demand.

    Attributes:
        cards: it runs on these.
        num_cards: so many of them.
        plan: of the longest request, for as many rows as were found best.
        times: of each class of requests.
        service: of one row over all classes.
        least_tokens_per_s: of the slowest class while it is answered.
    """

    cards: Cards
    num_cards: int
    plan: Plan
    times: tuple[RequestTime, ...]
    service: Service
    least_tokens_per_s: float

    @property
    def num_rows(self) -> int:
        """Sequences that it decodes at once."""
        return self.plan.workload.batch_size

    @property
    def capacity_per_s(self) -> float:
        """Requests per second with all rows busy."""
        return self.num_rows / self.service.mean_s

    @property
    def card_capacity_per_s(self) -> float:
        """The same for each of its cards."""
        return self.capacity_per_s / self.num_cards


def best_replica(question: FleetQuestion, cards: Cards) -> Replica | None:
    """The batch and number of cards with the largest capacity per card that give every request its speed.

    Returns:
        None where none does.

    Raises:
        InputError: a deployment that makes no sense on the cards, however many.
    """
    best, refusals = None, []
    for num_cards in sorted(cards.per_replica):
        try:
            found = _best_of(question, cards, num_cards)
        except InputError as error:
            refusals.append(error)
            continue
        if found is not None and (best is None or found.card_capacity_per_s > best.card_capacity_per_s):
            best = found
    if len(refusals) == len(cards.per_replica):
        raise refusals[0]
    return best


def _best_of(question: FleetQuestion, cards: Cards, num_cards: int) -> Replica | None:
    best, least = None, question.demand.least_tokens_per_s
    for rows in _batches(question.max_batch):
        found = _replica(question, cards, num_cards, rows)
        if found is None:  # more rows need more bytes
            break
        if found.least_tokens_per_s >= least and (best is None or found.capacity_per_s > best.capacity_per_s):
            best = found
    return best


def _batches(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, …, and the most."""
    powers = [1 << power for power in range(most.bit_length())]
    return sorted({most, *(rows for power in powers for rows in (power, power * 3 // 2) if rows < most)})


def _replica(question: FleetQuestion, cards: Cards, num_cards: int, rows: int) -> Replica | None:
    demand = question.demand
    typical = _typical(demand)
    asked = ask(
        gpu=cards.gpu, context=demand.context, batch_size=rows, turns=1,
        prompt_tokens=demand.context - typical.new_tokens, num_gpus=num_cards, **question.deployment.options,
    )  # fmt: skip
    plan = analyze(asked)
    if not isinstance(plan, Plan):
        return None
    alone = [_alone(asked, plan, each) for each in demand.requests]
    times = _beside_others(demand, alone, rows)
    total = np.array([each.total_s for each in times])
    shares = np.array([each.share for each in demand.requests])
    mean = float(shares @ total)
    variance = float(shares @ (total - mean) ** 2)
    speeds = [each.new_tokens / time.decode_s for each, time in zip(demand.requests, times, strict=True)]
    return Replica(cards, num_cards, plan, tuple(times), Service(mean, variance / mean**2), min(speeds))


def _typical(demand: Demand) -> RequestClass:
    """The class whose answers take the most steps altogether: the search is done for it."""
    return max(demand.requests, key=lambda each: each.share * each.new_tokens)


def _alone(asked: Question, plan: Plan, request: RequestClass) -> RequestTime:
    """Prefill and decoding of one request, its steps shared with the other rows but no step spent on their prompts."""
    workload = dataclasses.replace(plan.workload, context=request.context, prompt_tokens=request.prompt_tokens)
    step_s, prefill_s = pass_times(asked, plan, workload)
    return RequestTime(prefill_s, request.new_tokens / plan.estimate.mean_accepted_length.value * step_s)


def pass_times(asked: Question, plan: Plan, workload: Workload) -> tuple[float, float]:
    """Seconds of a plan's step, and of the prefill of a prompt, with another workload.

    Args:
        asked: what the plan answers.
        plan: found.
        workload: lengths and rows.
    """
    scenario, speculation = dataclasses.replace(plan.whole, workload=workload), plan.speculation
    acceptance = acceptance_of(asked, speculation.drafter, speculation.num_exit_layers)
    parallelism = None if plan.spread is None else plan.spread.parallelism
    knobs = (speculation.num_draft_nodes, speculation.prefill_chunk, speculation.logits_rows)
    gamma, chunk, rows = (np.array([value]) for value in knobs)
    step, prefill = step_and_prefill_seconds(
        asked, parallelism, scenario, (gamma, chunk, rows), acceptance.draft_rates(gamma)
    )
    return float(step[0]), float(prefill[0])


def _beside_others(demand: Demand, alone: list[RequestTime], rows: int) -> list[RequestTime]:
    """Decoding stands still while another row's prompt is prefilled.

    With all rows busy, each of the other rows takes one new prompt in while a request is answered, in the mean: its
    decoding is longer by (rows - 1) mean prefills, shared out by the length of the answer.
    """
    pairs = list(zip(demand.requests, alone, strict=True))
    prefill = sum(each.share * time.prefill_s for each, time in pairs)
    decode = sum(each.share * time.decode_s for each, time in pairs)
    stretch = 1 + (rows - 1) * prefill / decode
    return [RequestTime(time.prefill_s, time.decode_s * stretch) for time in alone]
