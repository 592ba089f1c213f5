"""One replica on one kind of card: its plan, and the time that a row of its batch gives to a request."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from specplan.fleet.demand import Cards, Demand, FleetQuestion, RequestClass
from specplan.fleet.queueing import Service
from specplan.plan import Plan
from specplan.planner.acceptance import acceptance_of
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.question import Question
from specplan.planner.timing import timing_of
from specplan.speed.steps import prefill_seconds, step_seconds


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
    """A plan on a card, and what it does for the demand.

    Attributes:
        cards: it runs on one of these.
        plan: of the longest request, for as many rows as were found best.
        times: of each class of requests.
        service: of one row over all classes.
        least_tokens_per_s: of the slowest class while it is answered.
    """

    cards: Cards
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


def best_replica(question: FleetQuestion, cards: Cards) -> Replica | None:
    """The batch with the largest capacity on a card that gives every request its speed; None where none does.

    Raises:
        InputError: a deployment that makes no sense on the card.
    """
    best, least = None, question.demand.least_tokens_per_s or 0.0
    for rows in _batches(question.max_batch):
        found = _replica(question, cards, rows)
        if found is None:  # more rows need more bytes
            break
        if found.least_tokens_per_s >= least and (best is None or found.capacity_per_s > best.capacity_per_s):
            best = found
    return best


def _batches(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, …, and the most."""
    powers = [1 << power for power in range(most.bit_length())]
    return sorted({most, *(rows for power in powers for rows in (power, power * 3 // 2) if rows < most)})


def _replica(question: FleetQuestion, cards: Cards, rows: int) -> Replica | None:
    demand = question.demand
    typical = _typical(demand)
    asked = ask(
        gpu=cards.gpu, context=demand.context, batch_size=rows, turns=1,
        prompt_tokens=demand.context - typical.new_tokens, **question.deployment,
    )  # fmt: skip
    plan = analyze(asked)
    if not isinstance(plan, Plan):
        return None
    alone = [_alone(asked, plan, each) for each in demand.classes]
    times = _beside_others(demand, alone, rows)
    total = np.array([each.total_s for each in times])
    shares = np.array([each.share for each in demand.classes])
    mean = float(shares @ total)
    variance = float(shares @ (total - mean) ** 2)
    speeds = [each.new_tokens / time.decode_s for each, time in zip(demand.classes, times, strict=True)]
    return Replica(cards, plan, tuple(times), Service(mean, variance / mean**2), min(speeds))


def _typical(demand: Demand) -> RequestClass:
    """The class whose answers take the most steps altogether: the search is done for it."""
    return max(demand.classes, key=lambda each: each.share * each.new_tokens)


def _alone(asked: Question, plan: Plan, request: RequestClass) -> RequestTime:
    """Prefill and decoding of one request, its steps shared with the other rows but no step spent on their prompts."""
    workload = dataclasses.replace(plan.workload, context=request.context, prompt_tokens=request.prompt_tokens)
    scenario = dataclasses.replace(plan.scenario, workload=workload)
    speculation, timing = plan.speculation, timing_of(asked, scenario)
    accepted = acceptance_of(asked, speculation.drafter, speculation.num_exit_layers)
    one = np.array([1])
    step = step_seconds(
        scenario, one * speculation.num_draft_nodes, one * speculation.logits_rows, accepted.draft_rate, timing
    )
    prefill = prefill_seconds(scenario, one * speculation.prefill_chunk, timing)
    steps = request.new_tokens / plan.estimate.mean_accepted_length.value
    return RequestTime(float(prefill[0]), steps * float(step[0]))


def _beside_others(demand: Demand, alone: list[RequestTime], rows: int) -> list[RequestTime]:
    """Decoding stands still while another row's prompt is prefilled.

    With all rows busy, each of the other rows takes one new prompt in while a request is answered, in the mean: its
    decoding is longer by (rows - 1) mean prefills, shared out by the length of the answer.
    """
    pairs = list(zip(demand.classes, alone, strict=True))
    prefill = sum(each.share * time.prefill_s for each, time in pairs)
    decode = sum(each.share * time.decode_s for each, time in pairs)
    stretch = 1 + (rows - 1) * prefill / decode
    return [RequestTime(time.prefill_s, time.decode_s * stretch) for time in alone]
