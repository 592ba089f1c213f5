"""Divisions and minima as functions of their own: they read as what they are and stay in integers."""

from __future__ import annotations

import math

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.pycode import PythonCodePrinter
from sympy.printing.str import StrPrinter

from specplan.formulas.functions import IntegerFunction


class CeilDiv(IntegerFunction):
    """``CeilDiv(x, m)``: blocks of m that hold x things, in exact integers."""

    @classmethod
    def eval(cls, x: sympy.Expr, divisor: sympy.Expr) -> sympy.Expr | None:
        """Evaluate numbers and blocks of one; cancel a common factor."""
        if x.is_Integer and divisor.is_Integer:
            return sympy.Integer(-(-int(x) // int(divisor)))
        if divisor == 1 or x.is_zero:
            return x
        coefficient, rest = x.as_coeff_Mul()
        if coefficient.is_Integer and divisor.is_Integer:
            common = math.gcd(int(coefficient), int(divisor))
            return None if common == 1 else cls(coefficient // common * rest, divisor // common)
        return None

    def _eval_is_nonnegative(self) -> bool | None:
        result: bool | None = self.args[0].is_nonnegative
        return result

    def _eval_is_positive(self) -> bool | None:
        result: bool | None = self.args[0].is_positive
        return result

    def _latex(self, printer: LatexPrinter) -> str:
        x, divisor = self.printed(printer)
        return rf"\left\lceil \frac{{{x}}}{{{divisor}}} \right\rceil"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"⌈{_quotient(self, printer)}⌉"

    def _pythoncode(self, printer: PythonCodePrinter) -> str:
        x, divisor = self.printed(printer)
        return f"(-(-({x}) // ({divisor})))"


class Least(IntegerFunction):
    """``Least(x, y)``: the smaller of two, which compiles for arrays as well."""

    @classmethod
    def eval(cls, x: sympy.Expr, y: sympy.Expr) -> sympy.Expr | None:
        """Evaluate numbers."""
        return sympy.Min(x, y) if x.is_Integer and y.is_Integer else None

    def _latex(self, printer: LatexPrinter) -> str:
        x, y = self.printed(printer)
        return rf"\min\left({x}, {y}\right)"

    def _sympystr(self, printer: StrPrinter) -> str:
        x, y = self.printed(printer)
        return f"min({x}, {y})"

    def _pythoncode(self, printer: PythonCodePrinter) -> str:
        x, y = self.printed(printer)
        return f"(-maximum(-({x}), -({y})))"  # ``maximum`` is what formulas.bind compiles with


class FloorDiv(IntegerFunction):
    """``FloorDiv(x, m)``: what each of m gets of x whole things."""

    @classmethod
    def eval(cls, x: sympy.Expr, divisor: sympy.Expr) -> sympy.Expr | None:
        """Evaluate numbers and division by one."""
        if x.is_Integer and divisor.is_Integer:
            return sympy.Integer(int(x) // int(divisor))
        return x if divisor == 1 else None

    def _latex(self, printer: LatexPrinter) -> str:
        x, divisor = self.printed(printer)
        return rf"\left\lfloor \frac{{{x}}}{{{divisor}}} \right\rfloor"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"⌊{_quotient(self, printer)}⌋"

    def _pythoncode(self, printer: PythonCodePrinter) -> str:
        x, divisor = self.printed(printer)
        return f"(({x}) // ({divisor}))"


def _quotient(expr: sympy.Function, printer: StrPrinter) -> str:
    x, divisor = expr.args
    return (
        f"{printer.parenthesize(x, PRECEDENCE['Mul'], strict=True)}/{printer.parenthesize(divisor, PRECEDENCE['Pow'])}"
    )
