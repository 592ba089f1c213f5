"""How a process takes part in a plan of several ranks: it joins, leads or follows, and says what it measured."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from specplan.errors import InputError, SpecplanError
from specplan.plan import Plan
from specplan.planfile import plan_sha256
from specplan_runtime import budget
from specplan_runtime.build import assemble_own
from specplan_runtime.distributed.commands import Stop, capacity
from specplan_runtime.distributed.environment import RENDEZVOUS
from specplan_runtime.distributed.follower import obey
from specplan_runtime.distributed.launch import end_with_parent
from specplan_runtime.distributed.ranks import RankLost, Ranks
from specplan_runtime.engine import Engine
from specplan_runtime.report import MeasuredItem, RankReport, measure_assembly, process_peak_bytes

_UNKNOWN = -1


@dataclass(slots=True)
class Others:
    """What all ranks measured, when they are done."""

    measured: tuple[RankReport, ...] = ()


@contextmanager
def joined(plan: Plan, timeout_s: float, patient: bool) -> Iterator[Ranks]:
    """This process among the ranks of a plan, all of which have the same one.

    Raises:
        InputError: another number of processes than the plan has ranks, or another plan somewhere.
        SystemExit: another rank ended; whoever started the ranks says which.
    """
    assert plan.spread is not None
    launched = RENDEZVOUS in os.environ
    if launched:
        end_with_parent()
    kinds = {kind.device.kind for kind in plan.spread.kinds}
    ranks: Ranks | None = None
    try:
        ranks = Ranks(plan.spread.parallelism, kinds != {"cpu"}, timeout_s, patient)
        chunk = min(plan.speculation.prefill_chunk, plan.workload.context)
        batch = plan.workload.batch_size
        most = max(chunk, batch * max(2, plan.speculation.shape.num_verify_tokens))
        ranks.reserve(capacity(batch, most))
        _compare(plan, ranks)
        yield ranks
    except RankLost as error:
        if launched or (ranks is not None and not ranks.decides):
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        if ranks is not None:
            with contextlib.suppress(RuntimeError):
                ranks.close()


def follow(plan: Plan, ranks: Ranks) -> None:
    """Run this rank's share of every pass until the deciding rank is done, which also hears Ctrl-C for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ranks.together():
        pass  # the deciding rank reads the prompts
    process_bytes = budget.process_bytes("VmRSS")
    own = plan.seen_from(ranks.rank)
    assembly = assemble_own(own, lambda _: None, ranks=ranks)
    budget.cap_process(own, assembly.device)
    with budget.refusing_growth():
        obey(assembly, ranks)
    _exchange(plan, ranks, measure_assembly(own, assembly, process_bytes), process_peak_bytes(assembly.device))


@contextmanager
def leading(engine: Engine, ranks: Ranks, process_bytes: int | None) -> Iterator[Others]:
    """Let the other ranks end with this one, whether it is done or refuses to go on."""
    others = Others()
    with ranks.interrupts.handled():
        try:
            yield others
        except RankLost:
            raise
        except (SpecplanError, KeyboardInterrupt):
            if not ranks.busy:  # else they notice that this one is gone
                with contextlib.suppress(RankLost):
                    _finish(engine, ranks, process_bytes)
            raise
        others.measured = _finish(engine, ranks, process_bytes)


def _finish(engine: Engine, ranks: Ranks, process_bytes: int | None) -> tuple[RankReport, ...]:
    with ranks.interrupts.held():
        ranks.tell(Stop())
        own = measure_assembly(engine.plan, engine.assembly, process_bytes)
        return _exchange(engine.plan, ranks, own, process_peak_bytes(engine.device))


def _compare(plan: Plan, ranks: Ranks) -> None:
    digest = bytes.fromhex(plan_sha256(plan))
    own = [int.from_bytes(digest[start : start + 4], "big") for start in range(0, len(digest), 4)]
    found = ranks.exchange(own)
    with ranks.together():
        different = [str(rank) for rank, other in enumerate(found) if other != found[0]]
        if different:
            raise InputError(f"rank {', '.join(different)} was given another plan than rank 0")


def _exchange(plan: Plan, ranks: Ranks, own: Sequence[MeasuredItem], peak_bytes: int | None) -> tuple[RankReport, ...]:
    """What every rank measured."""
    assert plan.spread is not None
    most = max(len(kind.ledger.items) for kind in plan.spread.kinds)
    numbers = [peak_bytes, *(item.measured_bytes for item in own), *[None] * (most - len(own))]
    everyone = ranks.exchange([_UNKNOWN if number is None else number for number in numbers])
    found = []
    for rank, (peak, *measured) in enumerate(everyone):
        kind = plan.spread.kind_of(rank)
        items = (MeasuredItem(*pair) for pair in zip(kind.ledger.items, map(_known, measured), strict=False))
        found.append(RankReport(rank, kind, tuple(items), _known(peak)))
    return tuple(found)


def _known(number: int) -> int | None:
    return None if number == _UNKNOWN else number
