"""The answer of ``analyze --fleet``: how many cards of which kind, as a table or as JSON."""

from __future__ import annotations

import json
from typing import Any

from specplan.fleet.demand import Demand
from specplan.fleet.replica import Replica
from specplan.fleet.sizing import Fleet, Option, Sizing
from specplan.output.tables import GITHUB, PLAIN, Style
from specplan.strict import encode
from specplan.units import format_bytes, format_rate

_HEADERS = ["GPU", "there", "used", "a replica", "rows", "with", "peak", "request", "tokens/s each", "requests/s"]
_ALIGN = ["left", "right", "right", "left", "right", "left", "right", "right", "right", "right"]
_WIDTHS = (None, None, None, 24, None, 34, None, None, None, None)


def to_json(sizing: Sizing) -> str:
    """Every kind of card with its plan's figures, and the fleet; seconds and bytes."""
    data = {
        "fits": sizing.fleet is not None,
        "source": "modelled",
        "options": [_entry(sizing, option) for option in sizing.options],
        "fleet": _fleet(sizing.question.demand, sizing.fleet),
        "all_cards": _fleet(sizing.question.demand, sizing.whole),
    }
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(sizing: Sizing, option: Option) -> dict[str, Any]:
    entry: dict[str, Any] = {**encode(option.cards), "refused": option.refused, "used": _used(sizing, option)}
    replica = option.replica
    if replica is not None:
        entry |= {
            "cards_per_replica": replica.num_cards,
            "parallelism": None if replica.plan.spread is None else encode(replica.plan.spread.parallelism),
            "batch_size": replica.num_rows,
            "speculation": encode(replica.plan.speculation),
            "peak_bytes": replica.plan.peak_bytes,
            "request_s": replica.service.mean_s,
            "least_tokens_per_s": replica.least_tokens_per_s,
            "capacity_per_s": replica.capacity_per_s,
        }
    return entry


def _fleet(demand: Demand, fleet: Fleet | None) -> dict[str, Any] | None:
    if fleet is None:
        return None
    waits = fleet.queue.utilization < 1
    return {
        "num_cards": fleet.num_cards,
        "num_rows": fleet.queue.num_servers,
        "utilization": fleet.queue.utilization,
        "wait_share": demand.wait_share,
        "wait_s": fleet.wait_s if waits else None,
        "mean_wait_s": fleet.queue.mean_wait_s if waits else None,
    }


def to_table(sizing: Sizing) -> str:
    """Aligned plain text."""
    return _render(sizing, PLAIN)


def to_markdown(sizing: Sizing) -> str:
    """A GitHub-flavored table."""
    return _render(sizing, GITHUB)


FORMATTERS = {"json": to_json, "table": to_table, "markdown": to_markdown}


def _render(sizing: Sizing, style: Style) -> str:
    rows = [_row(sizing, option) for option in sizing.options]
    demand = sizing.question.demand
    sections = [style.heading(_headline(sizing)), style.draw(rows, _HEADERS, _ALIGN, _WIDTHS)]
    shown = sizing.fleet or sizing.whole
    if shown is not None:
        sections.append(style.paragraph(_queue(demand, shown)))
    refused = [style.paragraph(f"{o.cards.gpu}: {o.refused}") for o in sizing.options if o.refused]
    notes = (
        "all figures are modelled; a row's time is that of a full batch, so a fleet with free rows is faster",
        "requests are taken to arrive independently of each other, and a free row of any card to take the next one",
    )
    return "\n\n".join([*sections, *refused, *style.notes(notes)]) + "\n"


def _headline(sizing: Sizing) -> str:
    demand, fleet = sizing.question.demand, sizing.fleet
    rate = f"{demand.rate_per_s:g} requests/s of up to {demand.context} tokens"
    if fleet is None:
        return f"Not enough cards for {rate}."
    kinds = ", ".join(f"{count * replica.num_cards} {replica.cards.gpu}" for replica, count in fleet.counts)
    return f"{rate}: {kinds} {'is' if fleet.num_cards == 1 else 'are'} enough."


def _row(sizing: Sizing, option: Option) -> list[str]:
    start = [option.cards.gpu, str(option.cards.count), str(_used(sizing, option))]
    replica = option.replica
    if replica is None:
        why = "not asked" if option.refused else "does not fit, or is too slow"
        return [*start, "", "", why, "", "", "", ""]
    return [*start, *_figures(replica)]


def _figures(replica: Replica) -> list[str]:
    spread = replica.plan.spread
    return [
        "1 card" if spread is None else f"{replica.num_cards} cards, {spread.parallelism.describe()}",
        str(replica.num_rows),
        replica.plan.speculation.describe(),
        format_bytes(replica.plan.peak_bytes),
        f"{replica.service.mean_s:.2f} s",
        format_rate(replica.least_tokens_per_s, "").strip(),
        f"{replica.capacity_per_s:.3g}",
    ]


def _used(sizing: Sizing, option: Option) -> int:
    counts = sizing.fleet.counts if sizing.fleet is not None else ()
    return next((count * replica.num_cards for replica, count in counts if replica is option.replica), 0)


def _queue(demand: Demand, fleet: Fleet) -> str:
    busy = f"{100 * fleet.queue.utilization:.0f} % of {fleet.queue.num_servers} rows"
    if fleet.queue.utilization >= 1:
        return f"All {fleet.num_cards} cards together would have to be busy to {busy}: requests pile up."
    share = f"{100 * demand.wait_share:g} % of the requests wait"
    speed = f"{demand.rate_per_s * demand.mean_new_tokens:.0f} tokens/s in all"
    return (
        f"Busy: {busy}. {share} at most {fleet.wait_s:.2f} s for a row ({demand.wait_s:g} s are allowed), "
        f"{fleet.queue.mean_wait_s:.2f} s in the mean; {speed}."
    )
