"""Bytes of weights: parts of a model, each a list of matrices and vectors that its layers hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy

from specplan.formulas.functions import padding
from specplan.formulas.symbols import (
    E,
    G_s,
    H,
    H_k,
    H_l,
    H_s,
    I,
    I_e,
    I_s,
    K_l,
    L,
    L_a,
    L_d,
    L_e,
    L_l,
    L_m,
    L_s,
    V,
    a_s,
    b_c,
    b_e,
    b_m,
    b_o,
    b_p,
    b_q,
    b_r,
    c_r,
    d,
    d_n,
    d_r,
    d_v,
    e_s,
    f_q,
    f_s,
    g_m,
    g_q,
    g_s,
    h,
    k_l,
    k_o,
    k_w,
    m_1,
    m_2,
    n_b,
    n_i,
    n_n,
    n_s,
    q_f,
    q_h,
    r_k,
    r_q,
    r_s,
    s,
    s_c,
    s_o,
    t,
    v_l,
    w_l,
    w_s,
    x_h,
    x_i,
)

QKV = (H * (1 + g_q) + 2 * H_k) * d


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that some layers hold alike: those of one of them.

    Attributes:
        matrices: (how many, rows, columns), held in the weight format.
        vectors: (how many, elements), held in the compute dtype.
        floats: (how many, elements), held in float32 whatever the rest is.
        bits: per element of the matrices.
        scale_bytes: of each of their rows.
    """

    matrices: tuple[tuple[sympy.Expr, sympy.Expr, sympy.Expr], ...]
    vectors: tuple[tuple[sympy.Expr, sympy.Expr], ...]
    floats: tuple[tuple[sympy.Expr, sympy.Expr], ...] = ()
    bits: sympy.Expr = k_w
    scale_bytes: sympy.Expr = s_c

    def bytes(self) -> sympy.Expr:
        """Without alignment."""
        matrices = sum(
            count * (self._elements(rows, columns) + rows * self.scale_bytes) for count, rows, columns in self.matrices
        )
        return matrices + self.rest(s)

    def _elements(self, rows: sympy.Expr, columns: sympy.Expr) -> sympy.Expr:
        """Bytes of a matrix's elements; whole ones, since matrices with groups have whole groups."""
        return rows * columns * self.bits / 8

    def rest(self, element_bytes: sympy.Expr) -> sympy.Expr:
        """What is no matrix, with so many bytes per element."""
        vectors = element_bytes * sum(count * elements for count, elements in self.vectors)
        return vectors + 4 * sum(count * elements for count, elements in self.floats)

    def padding(self) -> sympy.Expr:
        """What alignment adds, tensor by tensor."""
        matrices = sum(
            count * (padding(self._elements(rows, columns)) + padding(rows * self.scale_bytes))
            for count, rows, columns in self.matrices
        )
        vectors = sum(count * padding(elements * s) for count, elements in self.vectors)
        floats = sum(count * padding(elements * 4) for count, elements in self.floats)
        return matrices + vectors + floats


def table() -> Part:
    """The head or tied table in its own weight format, an input embedding of its own, the final norm.

    Of a model spread over devices the first stage has the embedding, the last one head and norm, both a tied table.
    """
    matrices = ((x_h + (1 - x_h) * t * x_i, V, h),)
    vectors = ((x_i * (1 - t), V * h), (x_h * (1 + n_b), h))
    return Part(matrices, vectors, bits=k_o, scale_bytes=s_o)


def attention() -> Part:
    """Fused query, key and value matrix, output matrix, biases, norms of queries and keys, sinks."""
    vectors = ((b_q, QKV), (b_o, h), (2 * q_h, d), (q_f, H * d), (q_f, H_k * d), (a_s, H))
    return Part(((1, QKV, h), (1, h, H * d)), vectors)


def latent_attention() -> Part:
    """Queries, compressed or not; the compressed row of keys and values, and what expands it; output matrix.

    Biases are those of the matrices that compress, and of the output.
    """
    width = H * (d_n + d_r)
    matrices = (
        (f_q, r_q, h),
        (f_q, width, r_q),
        (1 - f_q, width, h),
        (1, r_k + d_r, h),
        (1, H * (d_n + d_v), r_k),
        (1, h, H * d_v),
    )
    biases = ((b_q * f_q, r_q), (b_q, r_k + d_r), (b_o, h))
    return Part(matrices, ((f_q, r_q), (1, r_k), *biases))


def linear_attention() -> Part:
    """Projections of queries, keys, values, gates and rates; convolution; decay; gated norm; output matrix."""
    keys, values = K_l * k_l, H_l * v_l
    matrices = ((1, 2 * keys + 2 * values, h), (1, 2 * H_l, h), (1, h, values))
    return Part(matrices, ((1, (2 * keys + values) * w_l), (2, H_l), (1, v_l)))


def mamba() -> Part:
    """Input and output projections, convolution, step sizes, decay, skip, norms of its own."""
    conv = e_s + m_2 * 2 * G_s * n_s
    incoming = 2 * e_s + m_2 * (2 * G_s * n_s + H_s)
    matrices = ((1, incoming, h), (1, h, e_s), (m_1, r_s + 2 * n_s, e_s), (m_1, e_s, r_s))
    vectors = (
        (1, conv * w_s),
        (b_c, conv),
        (b_p, incoming),
        (b_p, h),
        (m_1, e_s),
        (m_1, e_s * n_s),
        (m_1, e_s),
        (m_1 * n_i, r_s),
        (2 * m_1 * n_i, n_s),
        (3 * m_2, H_s),
        (m_2 * n_i, e_s),
    )
    return Part(matrices, vectors)


def mlp() -> Part:
    """Gate and up fused, down, biases."""
    inner = (1 + g_m) * I
    return Part(((1, inner, h), (1, h, I)), ((b_m, inner), (b_m, h)))


def experts() -> Part:
    """Router, kept in the compute dtype; each expert's matrices; the shared expert."""
    matrices = ((E, 2 * I_e, h), (E, h, I_e), (f_s, 2 * I_s, h), (f_s, h, I_s))
    vectors = ((1, E * h), (b_r, E), (b_e * E, 2 * I_e), (b_e * E, h), (g_s, h))
    return Part(matrices, vectors, floats=((c_r, E),))


def norms() -> Part:
    """Norms over the hidden size."""
    return Part((), ((n_n * (1 + n_b), h),))


#: By name: how many layers hold a part, and what it is.
PARTS: dict[str, tuple[sympy.Expr, Callable[[], Part]]] = {
    "table": (sympy.Integer(1), table),
    "attention": (L_a, attention),
    "latent_attention": (L_m, latent_attention),
    "linear_attention": (L_l, linear_attention),
    "mamba": (L_s, mamba),
    "mlp": (L_d, mlp),
    "experts": (L_e, experts),
    "norms": (L, norms),
}


@cache
def part_bytes(name: str) -> sympy.Expr:
    """A part in all its layers, without alignment."""
    layers, build = PARTS[name]
    return layers * build().bytes()


@cache
def part_padding(name: str) -> sympy.Expr:
    """What alignment adds to a part in all its layers."""
    layers, build = PARTS[name]
    return layers * build().padding()


#: The symbol of a part's layers by name, None where there is a fixed number of them: printing symbols takes time.
_LAYER_SYMBOLS = {name: None if layers.is_Integer else str(layers) for name, (layers, _) in PARTS.items()}


def present_parts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that a model has: those of other families need not be built nor compiled."""
    return tuple(name for name, symbol in _LAYER_SYMBOLS.items() if symbol is None or values[symbol])


def weights() -> sympy.Expr:
    """Matrices in the weight format with their scales, everything else in the compute dtype."""
    return sum(map(part_bytes, PARTS), start=sympy.Integer(0))


def weight_padding() -> sympy.Expr:
    """What alignment adds to the weights, tensor by tensor. The 4-bit values of a matrix fill whole places, so with
    them it is what their scales and zero points add.
    """
    return sum(map(part_padding, PARTS), start=sympy.Integer(0))
