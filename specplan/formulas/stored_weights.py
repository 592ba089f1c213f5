"""Bytes of weights that stay as a library stores them: a sum over formats and kinds of matrices."""

from __future__ import annotations

from functools import lru_cache

import sympy

from specplan.formulas.quantized import format_matrix_bytes, matrix_bytes, w_f
from specplan.formulas.symbols import (
    G_s,
    H,
    H_k,
    H_l,
    H_s,
    I,
    I_e,
    I_s,
    K_l,
    V,
    d,
    d_n,
    d_r,
    d_v,
    e_s,
    g_q,
    h,
    k_l,
    m_2,
    n_b,
    n_q,
    n_s,
    r_k,
    r_q,
    r_s,
    s_v,
    v_l,
)
from specplan.formulas.weights import PARTS, QKV
from specplan.quantized.stored import StoredWeights

_KEYS, _VALUES = K_l * k_l, H_l * v_l


def _gated(part: str, inner: sympy.Expr) -> dict[str, tuple[sympy.Expr, sympy.Expr]]:
    return {
        f"{part}.gate": (inner, h),
        f"{part}.up": (inner, h),
        f"{part}.gate_up": (2 * inner, h),
        f"{part}.down": (h, inner),
    }


#: Rows and columns by kind, as ``specplan.matrices`` has them in numbers.
SHAPES: dict[str, tuple[sympy.Expr, sympy.Expr]] = {
    "embedding": (V, h),
    "head": (V, h),
    "attention.q": (H * (1 + g_q) * d, h),
    "attention.k": (H_k * d, h),
    "attention.v": (H_k * d, h),
    "attention.qkv": (QKV, h),
    "attention.o": (h, H * d),
    "latent.q": (H * (d_n + d_r), h),
    "latent.q_a": (r_q, h),
    "latent.q_b": (H * (d_n + d_r), r_q),
    "latent.kv_a": (r_k + d_r, h),
    "latent.kv_b": (H * (d_n + d_v), r_k),
    "latent.o": (h, H * d_v),
    "linear.qkvz": (2 * _KEYS + 2 * _VALUES, h),
    "linear.ba": (2 * H_l, h),
    "linear.out": (h, _VALUES),
    "mamba.in": (2 * e_s + m_2 * (2 * G_s * n_s + H_s), h),
    "mamba.x": (r_s + 2 * n_s, e_s),
    "mamba.dt": (e_s, r_s),
    "mamba.out": (h, e_s),
    **_gated("mlp", I),
    **_gated("experts", I_e),
    **_gated("shared", I_s),
}


def stored_weights() -> sympy.Expr:
    """Matrices as stored, the first terms summed over every shape and format; the rest in the dtype it is stored in.

    Items of a plan show the sum with each format's numbers put in, part by part.
    """
    return n_q * matrix_bytes(flat=w_f) + rest()


def stored_mtp_weights() -> sympy.Expr:
    """Matrices of the layer as stored, its vectors; the projection of hidden state and embedding and their two norms.

    The projection is not quantized, and the norm before the head is counted with the layer's. Embedding and head are
    the target's.
    """
    return n_q * matrix_bytes(flat=w_f) + rest() + _projection()


def _projection() -> sympy.Expr:
    return s_v * (2 * h * h + 2 * h)


def rest() -> sympy.Expr:
    """Norms, biases, routers, convolutions: what no method quantizes."""
    final_norm = s_v * (1 + n_b) * h
    return sum(
        (layers * build().rest(s_v) for name, (layers, build) in PARTS.items() if name != "table"), start=final_norm
    )


@lru_cache(maxsize=64)
def stored_parts(stored: StoredWeights) -> tuple[tuple[str, sympy.Expr], ...]:
    """(part and format, bytes as an expression), those of no bytes left out; their sum is the item."""
    parts: dict[str, sympy.Expr] = {}
    for form, kind, count in stored.counts():
        name = f"{kind.split('.')[0]} in {form.name}"
        parts[name] = parts.get(name, sympy.Integer(0)) + count * format_matrix_bytes(form, *SHAPES[kind])
    parts["norms, biases, routers"] = rest()
    if stored.other_bytes:
        parts["other tensors"] = sympy.Integer(stored.other_bytes)
    return tuple(parts.items())


@lru_cache(maxsize=64)
def stored_expression(stored: StoredWeights) -> sympy.Expr:
    """The sum of the parts."""
    return sympy.Add(*(expr for _, expr in stored_parts(stored)))


@lru_cache(maxsize=64)
def stored_mtp_parts(stored: StoredWeights) -> tuple[tuple[str, sympy.Expr], ...]:
    """The same for a multi-token-prediction layer."""
    return (*stored_parts(stored), ("projection", _projection()))
