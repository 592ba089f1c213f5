"""The queue of ``analyze --fleet`` beside a simulation of it, step by step.

    python -m bench.fleet_simulation [--fleet FILE] [--requests 20000]

Requests arrive at random; a free row of any replica takes the next one, prefills it while its replica's other rows
stand still, and then gains the mean accepted length with every step of its batch. Two clocks: steps as long as those
of a full batch, which is what the formula takes, and steps of the rows that are really busy, which is what happens.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from specplan.fleet.demand import Demand, FleetQuestion, RequestClass
from specplan.fleet.read import fleet_of, read_fleet
from specplan.fleet.replica import Replica, best_replica, pass_times
from specplan.fleet.sizing import fleet_from
from specplan.planner.ask import ask

_DEFAULT = {
    "deployment": {"model": "vicuna-7b-v1.3", "drafter": "medusa"},
    "demand": {
        "rate_per_s": 1.0,
        "requests": [
            {"share": 0.7, "prompt_tokens": 400, "new_tokens": 200},
            {"share": 0.3, "prompt_tokens": 1500, "new_tokens": 500},
        ],
    },
    "cards": [{"gpu": "rtx-4090", "count": 3}],
}
_SEED = 1
_LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Speeds:
    """Seconds of a replica: of a step by busy rows (entry 0 is not used), of a prefill by class."""

    step_s: list[float]
    prefill_s: list[float]
    accepted: float


@dataclass
class Machine:
    """A replica at work: what is left of the tokens of each busy row."""

    rows: int
    speeds: Speeds
    left: list[float] = field(default_factory=list)
    busy: bool = False


def speeds_of(question: FleetQuestion, replica: Replica, full: bool) -> Speeds:
    """Times of a replica's passes, weighted by the tokens of each class, from the speed model."""
    demand, plan, rows = question.demand, replica.plan, replica.num_rows
    asked = ask(
        gpu=replica.cards.gpu, num_gpus=replica.num_cards, context=demand.context, batch_size=rows,
        **question.deployment.options,
    )  # fmt: skip

    def passes(each: RequestClass, busy: int) -> tuple[float, float]:
        workload = dataclasses.replace(
            plan.workload, context=each.context, prompt_tokens=each.prompt_tokens, batch_size=busy
        )
        return pass_times(asked, plan, workload)

    def step(busy: int) -> float:
        tokens = ((each, each.share * each.new_tokens) for each in demand.requests)
        return sum(weight * passes(each, busy)[0] for each, weight in tokens) / demand.mean_new_tokens

    last = step(rows)
    steps = [last if full else step(busy) for busy in range(1, rows + 1)]
    prefills = [passes(each, rows)[1] for each in demand.requests]
    return Speeds([0.0, *steps], prefills, plan.estimate.mean_accepted_length.value)


def simulate(demand: Demand, machines: Sequence[Machine], num_requests: int) -> list[float]:
    """Seconds that each request waited for a row."""
    draw = random.Random(_SEED)
    clock, arrivals = 0.0, deque[tuple[float, int]]()
    for _ in range(num_requests):
        clock += draw.expovariate(demand.rate_per_s)
        arrivals.append((clock, draw.choices(range(len(demand.requests)), [c.share for c in demand.requests])[0]))
    line: deque[tuple[float, int]] = deque()
    waits: list[float] = []
    number = itertools.count()
    events: list[tuple[float, int, Machine | None]] = [(arrivals[0][0], next(number), None)]
    while events:
        now, _, machine = heapq.heappop(events)
        if machine is None:
            line.append(arrivals.popleft())
            if arrivals:
                heapq.heappush(events, (arrivals[0][0], next(number), None))
            idle = [each for each in machines if not each.busy]
            todo = [min(idle, key=lambda each: len(each.left))] if idle else []
        else:
            machine.busy = False
            todo = [machine]
        for each in todo:
            seconds = advance(each, line, demand, now, waits)
            if seconds is not None:
                each.busy = True
                heapq.heappush(events, (now + seconds, next(number), each))
    return waits


def advance(
    machine: Machine, line: deque[tuple[float, int]], demand: Demand, now: float, waits: list[float]
) -> float | None:
    """Seconds of a replica's next pass: a prompt where a row is free and somebody waits, else a step; None for none."""
    if line and len(machine.left) < machine.rows:
        arrived, kind = line.popleft()
        waits.append(now - arrived)
        machine.left.append(float(demand.requests[kind].new_tokens))
        return machine.speeds.prefill_s[kind]
    if not machine.left:
        return None
    seconds = machine.speeds.step_s[len(machine.left)]
    machine.left = [left - machine.speeds.accepted for left in machine.left if left > machine.speeds.accepted]
    return seconds


def main() -> None:
    """Print waits by the formula beside those of both simulations, load by load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    question = fleet_of(_DEFAULT, "the built-in fleet") if options.fleet is None else read_fleet(options.fleet)
    replicas = [found for cards in question.cards if (found := best_replica(question, cards)) is not None]
    whole = [(replica, replica.cards.count // replica.num_cards) for replica in replicas]
    capacity = sum(count * replica.capacity_per_s for replica, count in whole)
    rows = []
    for load in _LOADS:
        demand = dataclasses.replace(question.demand, rate_per_s=load * capacity)
        fleet = fleet_from(demand, whole)
        row = [f"{load:.2f}", f"{demand.rate_per_s:.3f}", f"{fleet.queue.mean_wait_s:.3f}", f"{fleet.wait_s:.3f}"]
        for full in (True, False):
            machines = [
                Machine(replica.num_rows, speeds_of(question, replica, full))
                for replica, count in whole for _ in range(count)
            ]  # fmt: skip
            waits = sorted(simulate(demand, machines, options.requests))
            row += [f"{statistics.mean(waits):.3f}", f"{waits[int(demand.wait_share * (len(waits) - 1))]:.3f}"]
        rows.append(row)
    share = f"{100 * question.demand.wait_share:g} %"
    headers = ["load", "requests/s", "mean wait", share, "full steps: mean", share, "real steps: mean", share]
    print(
        f"{sum(count for _, count in whole)} cards, {capacity:.3f} requests/s; waits in seconds: formula, simulations"
    )
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    main()
