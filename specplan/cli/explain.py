"""``specplan explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specplan.errors import InputError

if TYPE_CHECKING:
    from specplan.plan import Plan
    from specplan.scenario import Scenario


@click.command(context_settings={"show_default": True})
@click.argument("item", required=False)
@click.option("--plan", type=click.Path(path_type=Path, dir_okay=False), help="Put the numbers of this plan in.")
@click.option(
    "--rank", type=int, metavar="N", help="Of a plan over several devices, this rank. [default: the one that binds]"
)
@click.option("--peak", is_flag=True, help="Show what decides the plan's peak, and what each knob has to do with it.")
@click.option("--sensitivity", is_flag=True, help="Show what one more and one less of each knob cost.")
@click.option("--latex", is_flag=True, help="Print LaTeX instead of text.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Format of the answer on stdout.",
)
def explain(
    item: str | None,
    plan: Path | None,
    rank: int | None,
    peak: bool,
    sensitivity: bool,
    latex: bool,
    output_format: str,
) -> None:
    """Show the formula behind a ledger ITEM, such as target.kv_cache or verify.scratch.

    Without --plan, ITEM is a formula's name; without ITEM, all are shown. --peak and --sensitivity are about a whole
    plan.
    """
    from specplan import planfile
    from specplan.formulas.explain import scenario_of_plan

    flags = [flag for flag, given in (("--peak", peak), ("--sensitivity", sensitivity)) if given]
    _check_combination(flags, item, plan, latex, output_format)
    loaded = None if plan is None else planfile.load(plan)
    if rank is not None:
        loaded = _of_rank(loaded, rank)
    scenario = None if loaded is None else scenario_of_plan(loaded)
    if flags and loaded is not None:
        text = _whole(loaded, peak, sensitivity, output_format)
    else:
        text = _items(scenario, item, "latex" if latex else output_format)
    click.echo(text, nl=False)


def _of_rank(plan: Plan | None, rank: int) -> Plan:
    """The plan as one of its ranks sees it."""
    if plan is None or plan.spread is None:
        raise InputError("--rank needs --plan with a plan over several devices")
    if not 0 <= rank < plan.spread.parallelism.num_ranks:
        raise InputError(f"--rank {rank}: the plan has ranks 0 to {plan.spread.parallelism.num_ranks - 1}")
    return plan.seen_from(rank)


def _check_combination(flags: list[str], item: str | None, plan: Path | None, latex: bool, output_format: str) -> None:
    """Refuse options that contradict one another, by name."""
    if latex and output_format == "json":
        raise InputError("--latex and --format json exclude one another: JSON has the LaTeX of every formula")
    for flag in flags:
        if plan is None:
            raise InputError(f"{flag} needs --plan with the plan that it is about")
        if item is not None:
            raise InputError(f"{flag} is about a whole plan: leave out {item!r}")
        if latex:
            raise InputError(f"{flag} has no LaTeX: leave out --latex, which is for formulas")


def _whole(plan: Plan, peak: bool, sensitivity: bool, output_format: str) -> str:
    """The answers about a whole plan."""
    from specplan.formulas.peak import explain_peak
    from specplan.formulas.sensitivity import sensitivities
    from specplan.output import peak as peak_output
    from specplan.output import sensitivity as sensitivity_output

    data: dict[str, object] = {}
    texts = []
    if peak:
        answer = explain_peak(plan.scenario)
        data["peak"] = peak_output.to_data(answer)
        texts.append(peak_output.to_text(answer))
    if sensitivity:
        rows = sensitivities(plan.scenario)
        data["sensitivity"] = sensitivity_output.to_data(rows)
        texts.append(sensitivity_output.to_text(rows, plan.ledger))
    return _json(data) if output_format == "json" else "\n".join(texts)


def _items(scenario: Scenario | None, item: str | None, form: str) -> str:
    """The formulas behind items."""
    from specplan.formulas.catalogue import FORMULAS
    from specplan.formulas.explain import FOOTNOTE, explain_formula, explain_items, to_data, to_latex, to_text

    if scenario is not None:
        found = explain_items(scenario, item)
    else:
        names = list(FORMULAS) if item is None else [item.split(".")[-1]]
        found = [explain_formula(name) for name in names]
    if form == "json":
        return _json({"items": [to_data(explanation) for explanation in found]})
    if form == "latex":
        return "\n".join(to_latex(explanation) for explanation in found)
    return "\n".join(to_text(explanation) for explanation in found) + "\n" + FOOTNOTE


def _json(data: dict[str, object]) -> str:
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
