"""A formula for people: what it means, its symbols, and with a scenario the numbers put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from sympy.printing.str import StrPrinter

from specplan.errors import InputError
from specplan.formulas.bind import Value, evaluate_expression
from specplan.formulas.catalogue import FORMULAS, MEANINGS, STAGES, Formula, expression
from specplan.formulas.current import changed_item
from specplan.formulas.functions import ALIGNMENT, aligned
from specplan.formulas.memory import MemoryModel
from specplan.formulas.term import Term
from specplan.plan import Plan
from specplan.scenario import Scenario
from specplan.units import format_exact_bytes

_PHASE_ROWS = {
    "prefill_target": "P, one sequence at a time",
    "prefill_draft": "P, one sequence at a time",
    "draft": "2·B: one or two tokens per sequence",
    "verify": "B·(γ + 1)",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One item or formula, ready to print.

    Attributes:
        name: of the item, or id of the formula.
        formula: the catalogue's entry.
        text: the expression as text.
        latex: the expression as LaTeX.
        symbols: (symbol, meaning, value or None).
        substituted: the expression with numbers in it, None without a scenario.
        bytes: the result, None without a scenario.
        source: of the item, None without a scenario.
        stages: of ``scratch``, and the parts of weights: (stage or part, bytes or None, text).
    """

    name: str
    formula: Formula
    text: str
    latex: str
    symbols: tuple[tuple[str, str, int | None], ...]
    substituted: str | None
    bytes: int | None
    source: str | None
    stages: tuple[tuple[str, int | None, str], ...]


def explain_formula(formula_id: str) -> Explanation:
    """A formula without numbers.

    Raises:
        InputError: no such formula; the message lists those there are.
    """
    if formula_id not in FORMULAS:
        raise InputError(f"no item or formula called {formula_id!r}: one of {', '.join(FORMULAS)}")
    return _explanation(formula_id, FORMULAS[formula_id], None)


def explain_items(scenario: Scenario, name: str | None) -> list[Explanation]:
    """Items of a scenario with their numbers: one by name, all of a formula, or all there are.

    Raises:
        InputError: no such item or formula in this scenario.
    """
    terms = [term for term in MemoryModel(scenario).terms if name is None or name in (term.name, term.formula_id)]
    if not terms:
        known = ", ".join(term.name for term in MemoryModel(scenario).terms)
        raise InputError(f"no item called {name!r} in this plan: one of {known}")
    return [_explanation(term.name, FORMULAS[term.formula_id], term) for term in terms]


def scenario_of_plan(plan: Plan) -> Scenario:
    """The scenario of a plan, whose ledger must be what these formulas give.

    Raises:
        InputError: the plan is from a version with other formulas; the message names the first item that differs.
    """
    name = changed_item(plan)
    if name is not None:
        made_by = f"other code of specplan ({plan.tool_version})"
        raise InputError(f"the plan was made by {made_by}, whose {name} was another: analyze again")
    return plan.scenario


def _explanation(name: str, formula: Formula, term: Term | None) -> Explanation:
    expr = expression(formula.id) if term is None else term.expression
    values = None if term is None else term.values
    stages = [(stage, expression(stage)) for stage in (STAGES if formula.id == "scratch" else ())]
    if term is not None and term.parts:
        expr, stages = _without_absent(expr, term), [(name, _without_absent(e, term)) for name, e in term.parts]
    return Explanation(
        name=name,
        formula=formula,
        text=str(expr),
        latex=sympy.latex(expr),
        symbols=tuple(_symbols(expr, values)),
        substituted=None if values is None else _substituted(expr, values),
        bytes=None if term is None else int(term.bytes),
        source=None if term is None else term.source,
        stages=tuple(_stage(*stage, values) for stage in stages),
    )


def _without_absent(expr: sympy.Expr, term: Term) -> sympy.Expr:
    """The expression without what the model does not have: symbols that are 0."""
    absent = [symbol for symbol in expr.free_symbols if not int(term.values[str(symbol)])]
    result: sympy.Expr = expr.xreplace(dict.fromkeys(absent, sympy.Integer(0)))
    return result


def _symbols(expr: sympy.Expr, values: Mapping[str, Value] | None) -> Sequence[tuple[str, str, int | None]]:
    ordered = sorted(expr.free_symbols, key=str)
    return [
        (
            str(symbol),
            MEANINGS.get(symbol, "a figure of the device profile"),
            None if values is None else int(values[str(symbol)]),
        )
        for symbol in ordered
    ]


def _substituted(expr: sympy.Expr, values: Mapping[str, Value]) -> str:
    """The expression with numbers for symbols, not evaluated: the same terms in the same order."""
    return str(_NumberPrinter(values).doprint(expr))


class _NumberPrinter(StrPrinter):  # type: ignore[misc]
    """Writes a symbol as its number: equal numbers do not merge, as they would if they were put in."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__()
        self._values = values

    def _print_Symbol(self, symbol: sympy.Symbol) -> str:
        return str(int(self._values[symbol.name]))


def _stage(stage: str, expr: sympy.Expr, values: Mapping[str, Value] | None) -> tuple[str, int | None, str]:
    return stage, None if values is None else int(evaluate_expression(expr, values)), str(expr)


def to_text(explanation: Explanation) -> str:
    """For a terminal."""
    e = explanation
    lines = [f"{e.name}: {e.formula.title}", f"  {e.formula.meaning}", f"  bytes = {e.text}"]
    if e.substituted is not None:
        lines.append(f"        = {e.substituted}")
        lines.append(f"        = {format_exact_bytes(e.bytes or 0)}   [{e.source}]")
    phase = e.name.split(".")[0]
    for symbol, meaning, value in e.symbols:
        rows = f" = {_PHASE_ROWS[phase]}" if symbol == "T" and phase in _PHASE_ROWS else ""
        number = "" if value is None else f" = {value}"
        lines.append(f"    {symbol}{number}: {meaning}{rows}")
    for stage, num_bytes, text in e.stages:
        number = "" if num_bytes is None else f" = {format_exact_bytes(num_bytes)}"
        lines.append(f"    {'stage' if e.formula.id == 'scratch' else 'part'} {stage}{number}: {text}")
    lines.append(f"  from: {e.formula.reference}")
    return "\n".join(lines) + "\n"


def to_latex(explanation: Explanation) -> str:
    """One display equation."""
    name = explanation.name.replace("_", r"\_")
    return rf"\text{{{name}}} = {explanation.latex}" + "\n"


def to_data(explanation: Explanation) -> dict[str, Any]:
    """For JSON."""
    e = explanation
    return {
        "name": e.name,
        "formula_id": e.formula.id,
        "title": e.formula.title,
        "meaning": e.formula.meaning,
        "reference": e.formula.reference,
        "expression": e.text,
        "latex": e.latex,
        "substituted": e.substituted,
        "bytes": e.bytes,
        "source": e.source,
        "symbols": [{"symbol": symbol, "meaning": text, "value": value} for symbol, text, value in e.symbols],
        "stages": [{"stage": stage, "bytes": num, "expression": text} for stage, num, text in e.stages],
    }


#: Printed once below texts.
FOOTNOTE = (
    f"⌈x⌉ rounds up to a whole number, {aligned(sympy.Symbol('x'))} to {ALIGNMENT} bytes: the arena's alignment.\n"
)
