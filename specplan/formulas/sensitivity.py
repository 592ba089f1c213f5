"""What one step of each knob costs: exact differences of the peak, and derivatives for reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import sympy

from specplan.formulas.bind import evaluate_expression
from specplan.formulas.functions import Exceeds, RoundUp
from specplan.formulas.integer import CeilDiv
from specplan.formulas.memory import MemoryModel
from specplan.formulas.symbols import MEANINGS
from specplan.formulas.term import Term
from specplan.knob import Knob, knobs_of
from specplan.ledger import MemoryLedger, Phase
from specplan.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Change:
    """The peak after one step.

    Attributes:
        value: of the knob after it.
        bytes: what it adds to the peak; exact.
        binding_phase: after it.
    """

    value: int
    bytes: int
    binding_phase: Phase


@dataclass(frozen=True, slots=True)
class Slope:
    """How one item of the peak grows with a knob, roundings left out.

    Attributes:
        item: of the ledger.
        bytes: per unit of the knob.
        derivative: the expression behind it: the sum over the formula's symbols of its partial derivative times what
            the symbol gains per unit of the knob, spelled Δ where that is not 1. None where the step crosses a kink
            of a maximum: then ``bytes`` is the item's exact difference.
        gains: symbol -> what it gains, of the Δ in ``derivative``.
    """

    item: str
    bytes: Fraction
    derivative: str | None
    gains: dict[str, int]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One row.

    Attributes:
        knob: which.
        value: as it is.
        more: one step up; None at the limit.
        less: one step down; None at the least value.
        slopes: of the items of the peak that grow, the steepest first; None where one step up changes the binding
            phase, because the peak then has a kink.
    """

    knob: Knob
    value: int
    more: Change | None
    less: Change | None
    slopes: tuple[Slope, ...] | None

    @property
    def slope_bytes(self) -> Fraction | None:
        """Bytes of the peak per unit of the knob, roundings left out."""
        return None if self.slopes is None else sum((slope.bytes for slope in self.slopes), start=Fraction(0))


def sensitivities(scenario: Scenario) -> tuple[Sensitivity, ...]:
    """One row per knob of the scenario."""
    here = MemoryModel(scenario)
    return tuple(_sensitivity(scenario, here, knob) for knob in knobs_of(scenario))


def _sensitivity(scenario: Scenario, here: MemoryModel, knob: Knob) -> Sensitivity:
    value, ledger = knob.read(scenario), here.ledger()
    above = MemoryModel(knob.put(scenario, value + 1)) if value < knob.limit else None
    below = MemoryModel(knob.put(scenario, value - 1)) if value > knob.least else None
    more = None if above is None else _change(ledger, above.ledger(), value + 1)
    less = None if below is None else _change(ledger, below.ledger(), value - 1)
    slopes = None
    if above is not None and more is not None and more.binding_phase == ledger.binding_phase:
        slopes = _slopes(here, above, ("resident", ledger.binding_phase))
    return Sensitivity(knob, value, more, less, slopes)


def _change(here: MemoryLedger, there: MemoryLedger, value: int) -> Change:
    return Change(value, there.peak_bytes - here.peak_bytes, there.binding_phase)


def _slopes(here: MemoryModel, above: MemoryModel, phases: tuple[Phase, Phase]) -> tuple[Slope, ...]:
    stepped = {term.name: term for term in above.terms}
    found = [_slope(term, stepped[term.name]) for term in here.terms if term.phase in phases]
    return tuple(sorted((slope for slope in found if slope.bytes), key=lambda slope: -slope.bytes))


def _slope(term: Term, stepped: Term) -> Slope:
    """Chain rule: the formula's partial derivatives times what its symbols gain by the step."""
    start, end = _integers(term), _integers(stepped)
    gains = {name: end[name] - start[name] for name in start if end[name] != start[name]}
    whole = _computes(term) and _computes(stepped)
    expr = _without_kinks(term.expression, start, end) if whole else None
    if expr is None:
        return Slope(term.name, Fraction(int(stepped.bytes) - int(term.bytes)), None, {})
    partial = {name: sympy.diff(expr, symbol) for symbol in expr.free_symbols if (name := str(symbol)) in gains}
    total = sympy.Add(*(partial[name] * gains[name] for name in sorted(partial)))
    shown = sympy.Add(*(partial[name] * _delta(name, gains) for name in sorted(partial)))
    used = {name: gains[name] for name in sorted(partial) if gains[name] != 1}
    return Slope(term.name, _number(total, start), _spelled(shown, start), used)


def _integers(term: Term) -> dict[str, int]:
    return {name: int(value) for name, value in term.values.items()}


def _computes(term: Term) -> bool:
    """Whether the term's bytes are its formula at its values: some are the largest over several passes."""
    return int(evaluate_expression(term.expression, term.values)) == int(term.bytes)


def _without_kinks(expr: sympy.Expr, start: Mapping[str, int], end: Mapping[str, int]) -> sympy.Expr | None:
    """Roundings dropped, maxima replaced by the argument that is largest at both ends; None when none is.

    A bracket that is the same at both ends counts as a number.
    """
    if isinstance(expr, RoundUp):
        return _without_kinks(expr.args[0], start, end)
    if isinstance(expr, CeilDiv):
        inside = _without_kinks(expr.args[0], start, end)
        return None if inside is None else inside / expr.args[1]
    if isinstance(expr, sympy.Max | sympy.Min):
        chosen = [arg for arg in expr.args if all(_number(arg, at) == _number(expr, at) for at in (start, end))]
        return _without_kinks(chosen[0], start, end) if chosen else None
    if isinstance(expr, Exceeds):
        inside = _number(expr, start)
        return sympy.Integer(int(inside)) if inside == _number(expr, end) else None
    if isinstance(expr, sympy.Function):
        return None
    arguments = [_without_kinks(arg, start, end) for arg in expr.args]
    if None in arguments:
        return None
    return expr.func(*arguments) if arguments else expr


def _number(expr: sympy.Expr, values: Mapping[str, int]) -> Fraction:
    number = sympy.Rational(expr.xreplace({symbol: sympy.Integer(values[str(symbol)]) for symbol in expr.free_symbols}))
    return Fraction(int(number.p), int(number.q))


def _delta(name: str, gains: Mapping[str, int]) -> sympy.Expr:
    return sympy.Integer(1) if gains[name] == 1 else sympy.Symbol(f"Δ{name}")


def _spelled(expr: sympy.Expr, values: Mapping[str, int]) -> str:
    """As text, with the symbols that switch a part on or off put in."""
    switches = [symbol for symbol in expr.free_symbols if MEANINGS.get(symbol, "").startswith("1 when")]
    return str(expr.xreplace({symbol: sympy.Integer(values[str(symbol)]) for symbol in switches}))
