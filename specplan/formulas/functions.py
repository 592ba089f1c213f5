"""Integer functions that sympy does not have, and how they print."""

from __future__ import annotations

from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.pycode import PythonCodePrinter
from sympy.printing.str import StrPrinter

#: Every tensor in the arena starts at a multiple of this many bytes (a sector, and a cache line pair).
ALIGNMENT = 256
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class IntegerFunction(sympy.Function):  # type: ignore[misc]
    """A function of two integers that is one itself."""

    nargs = 2

    def _eval_is_integer(self) -> bool:
        return True

    def printed(self, printer: Any) -> tuple[str, str]:
        """Both arguments as a printer writes them."""
        first, second = (printer.doprint(arg) for arg in self.args)
        return first, second


class RoundUp(IntegerFunction):
    """``RoundUp(x, m)``: the least multiple of m that is not below x, in exact integers."""

    @classmethod
    def eval(cls, x: sympy.Expr, multiple: sympy.Expr) -> sympy.Expr | None:
        """Evaluate when both arguments are numbers."""
        if x.is_Integer and multiple.is_Integer:
            return sympy.Integer(-(-int(x) // int(multiple)) * int(multiple))
        return None

    def _eval_is_nonnegative(self) -> bool | None:
        result: bool | None = self.args[0].is_nonnegative
        return result

    def _latex(self, printer: LatexPrinter) -> str:
        x, multiple = self.printed(printer)
        return rf"\left\lceil {x} \right\rceil_{{{multiple}}}"

    def _sympystr(self, printer: StrPrinter) -> str:
        x, multiple = self.printed(printer)
        return f"⌈{x}⌉{multiple.translate(_SUBSCRIPTS)}"

    def _pythoncode(self, printer: PythonCodePrinter) -> str:
        x, multiple = self.printed(printer)
        return f"(-(-({x}) // ({multiple})) * ({multiple}))"


class Exceeds(IntegerFunction):
    """``Exceeds(x, bound)``: 1 when x > bound, else 0 (an Iverson bracket), for integers."""

    @classmethod
    def eval(cls, x: sympy.Expr, bound: sympy.Expr) -> sympy.Expr | None:
        """Evaluate when both arguments are numbers."""
        if x.is_Integer and bound.is_Integer:
            return sympy.Integer(int(x) > int(bound))
        return None

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _latex(self, printer: LatexPrinter) -> str:
        x, bound = self.printed(printer)
        return rf"\left[ {x} > {bound} \right]"

    def _sympystr(self, printer: StrPrinter) -> str:
        x, bound = self.printed(printer)
        return f"[{x} > {bound}]"

    def _pythoncode(self, printer: PythonCodePrinter) -> str:
        x, bound = self.printed(printer)
        return f"(1 * (({x}) > ({bound})))"  # the product turns bool and arrays of bool into integers


def aligned(x: Any) -> sympy.Expr:
    """Bytes that a tensor of x bytes takes in the arena."""
    return RoundUp(x, ALIGNMENT)


def padding(x: Any) -> sympy.Expr:
    """Bytes lost to alignment behind a tensor of x bytes."""
    return aligned(x) - x


class IntegerPrinter(PythonCodePrinter):  # type: ignore[misc]
    """Python code that stays in integers and takes numpy arrays as well as plain ints."""

    def _print_Max(self, expr: sympy.Max) -> str:
        first, *rest = (self._print(arg) for arg in expr.args)
        for argument in rest:
            first = f"maximum({first}, {argument})"
        return str(first)

    def _print_Mul(self, expr: sympy.Mul) -> str:
        coefficient, rest = expr.as_coeff_Mul()
        if coefficient.is_Rational and coefficient.q != 1:  # the whole product is an integer by construction
            return f"(({self._print(coefficient.p * rest)}) // {coefficient.q})"
        return str(super()._print_Mul(expr))
