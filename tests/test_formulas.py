"""Compiled formulas against sympy's own exact arithmetic, and the catalogue's documentation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from specplan.formulas.bind import compiled, evaluate, evaluate_expression
from specplan.formulas.catalogue import FORMULAS, MEANINGS, STAGES, expression
from specplan.formulas.functions import ALIGNMENT, RoundUp, aligned, padding

ALL = (*FORMULAS, *STAGES)
FIGURES = {"context_bytes", "workspace_bytes", "process_bytes"}

_CHOICES = {
    "n_n": (2, 4),
    "s": (2, 4),
    "k_w": (8, 16, 32),
    "k_o": (8, 16, 32),
    "s_c": (0, 2),
    "s_o": (0, 2),
    "k_b": (4, 8, 16, 32),
    "k_s": (0, 2, 4),
    "f_h": (0, 1),
    "f_k": (0, 1),
    "f_o": (0, 1),
    "f_r": (0, 1),
    "w_f": (0, 1),
    "s_v": (2, 4),
}
_LARGEST = {
    "V": 260_000,
    "h": 8192,
    "I": 30_000,
    "S": 4096,
    "S_w": 4096,
    "S_x": 4096,
    "T": 4096,
    "N": 1 << 40,
    "G": 1 << 20,
}


@cache
def values_of(*formula_ids: str) -> st.SearchStrategy[dict[str, int]]:
    """A value for every symbol of some formulas; flags are flags, head_dim is even as rotary embeddings need it."""
    symbols = {symbol for formula_id in formula_ids for symbol in expression(formula_id).free_symbols}
    drawn = st.fixed_dictionaries({str(symbol): _value_of(symbol) for symbol in sorted(symbols, key=str)})
    # some of the layers with attention are windowed, not more
    return drawn.map(lambda values: values | {"L_w": min(values["L_w"], values["L_a"])} if "L_w" in values else values)


def _value_of(symbol: sympy.Symbol) -> st.SearchStrategy[int]:
    name = str(symbol)
    if name in FIGURES:
        return st.integers(0, 1 << 40)
    if name in _CHOICES:
        return st.sampled_from(_CHOICES[name])
    if name in ("d", "d_o"):
        return st.integers(1, 128).map(lambda half: 2 * half)
    if MEANINGS[symbol].startswith("1 "):
        return st.integers(0, 1)
    return st.integers(1 if symbol.is_positive else 0, _LARGEST.get(name, 64))


def _by_sympy(expr: sympy.Expr, values: dict[str, int]) -> sympy.Expr:
    return expr.xreplace({symbol: sympy.Integer(values[str(symbol)]) for symbol in expr.free_symbols}).doit()


@pytest.mark.parametrize("formula_id", ALL)
@settings(max_examples=10)
@given(data=st.data())
def test_compiled_equals_sympy(formula_id: str, data: st.DataObject) -> None:
    values = data.draw(values_of(formula_id))
    exact = _by_sympy(expression(formula_id), values)
    assert exact.is_Integer, exact
    found = evaluate(formula_id, values)
    assert type(found) is int
    assert found == int(exact)
    assert found >= 0


@pytest.mark.parametrize("formula_id", ALL)
@settings(max_examples=15)
@given(data=st.data())
def test_arrays_equal_scalars(formula_id: str, data: st.DataObject) -> None:
    columns = data.draw(st.lists(values_of(formula_id), min_size=1, max_size=4))
    names, _ = compiled(expression(formula_id))
    arrays = {name: np.array([values[name] for values in columns], dtype=np.int64) for name in names}
    found = evaluate(formula_id, arrays)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int64
    assert found.tolist() == [evaluate(formula_id, values) for values in columns]


@pytest.mark.parametrize("formula_id", sorted({"kv_cache", "mask", "scratch", "weights", "kernel_output"}))
@settings(max_examples=15)
@given(data=st.data())
def test_arrays_mix_with_scalars(formula_id: str, data: st.DataObject) -> None:
    columns = data.draw(st.lists(values_of(formula_id), min_size=2, max_size=4))
    names, _ = compiled(expression(formula_id))
    varied = data.draw(st.sampled_from(names))
    array = np.array([values[varied] for values in columns], dtype=np.int64)
    found = evaluate(formula_id, columns[0] | {varied: array})
    singles = [evaluate(formula_id, columns[0] | {varied: values[varied]}) for values in columns]
    assert isinstance(found, np.ndarray)
    assert found.tolist() == singles


@given(values_of("kv_cache"), st.integers(1, 4096), st.integers(1, 4096))
def test_exact_beyond_64_bits(values: dict[str, int], context: int, batch: int) -> None:
    huge = values | {"S": context << 30, "B": batch << 20, "L_a": 4096}
    exact = _by_sympy(expression("kv_cache"), huge)
    assert evaluate("kv_cache", huge) == int(exact)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="H_k"):
        evaluate("kv_cache", {"B": 1, "L": 1, "S": 1, "d": 2, "k_b": 16, "k_s": 0})


@pytest.mark.parametrize("formula_id", ["nothing", ""])
def test_an_unknown_formula_is_an_error(formula_id: str) -> None:
    with pytest.raises(KeyError):
        expression(formula_id)


@given(st.integers(0, 1 << 70), st.integers(1, 1 << 30))
def test_round_up(x: int, multiple: int) -> None:
    up = int(RoundUp(sympy.Integer(x), sympy.Integer(multiple)))
    assert up % multiple == 0
    assert 0 <= up - x < multiple


@given(st.integers(0, 1 << 70))
def test_alignment(x: int) -> None:
    assert int(aligned(sympy.Integer(x))) == -(-x // ALIGNMENT) * ALIGNMENT
    assert int(padding(sympy.Integer(x))) == -x % ALIGNMENT


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_maximum_of_three_stays_an_integer(first: int, second: int, third: int) -> None:
    symbols = sympy.symbols("x y z", integer=True, nonnegative=True)
    found = evaluate_expression(sympy.Max(*symbols), {"x": first, "y": second, "z": third})
    assert type(found) is int
    assert found == max(first, second, third)


@pytest.mark.parametrize("formula_id", ALL)
def test_every_symbol_has_a_meaning(formula_id: str) -> None:
    for symbol in expression(formula_id).free_symbols:
        if str(symbol) not in FIGURES:
            assert MEANINGS[symbol]


def test_symbols_are_told_apart_by_name() -> None:
    names = [str(symbol) for symbol in MEANINGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("formula_id", ALL)
def test_every_formula_prints(formula_id: str) -> None:
    expr = expression(formula_id)
    for text in (sympy.latex(expr), str(expr)):
        assert text
        assert "RoundUp" not in text


@pytest.mark.parametrize("formula_id", sorted(FORMULAS))
def test_every_formula_documents_itself(formula_id: str) -> None:
    formula = FORMULAS[formula_id]
    assert formula.id == formula_id
    assert formula.meaning.endswith(".")
    assert "\n" not in formula.meaning
    assert formula.title
    assert formula.reference


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_documents_itself(stage: str) -> None:
    assert (STAGES[stage].__doc__ or "").strip().endswith(".")


@settings(max_examples=15)
@given(values_of("scratch"))
def test_scratch_is_its_largest_stage(values: dict[str, int]) -> None:
    stages = [evaluate(stage, values) for stage in STAGES]
    assert evaluate("scratch", values) == max(int(stage) for stage in stages)
