"""Bytes of drafters that ride on the target's hidden states, and of proposals that form a tree."""

from __future__ import annotations

import sympy

from specplan.formulas.functions import aligned, padding
from specplan.formulas.symbols import (
    B,
    H,
    H_k,
    I,
    K_h,
    R,
    T,
    V,
    V_d,
    d,
    e_o,
    gamma,
    h,
    k_t,
    m_r,
    n_f,
    n_r,
    n_t,
    s,
    s_h,
    w_t,
)
from specplan.formulas.weights import PARTS, part_bytes
from specplan.formulas.workspace import ROWS

_HEAD_ROWS = sympy.Max(B, 2, evaluate=False)


def medusa_weights() -> sympy.Expr:
    """Residual blocks with biases, and an output head each unless they share the target's."""
    return s * K_h * (n_r * (h * h + h) + (1 - s_h) * V * h)


def medusa_padding() -> sympy.Expr:
    """What alignment adds to the heads, tensor by tensor."""
    block = padding(h * h * s) + padding(h * s)
    return K_h * (n_r * block + (1 - s_h) * padding(V * h * s))


def eagle3_weights() -> sympy.Expr:
    """Fusion of three features; a layer whose attention reads embedding and feature; four norms; head; for every token
    that it proposes the target's id, int64.
    """
    attention = 2 * h * (H + 2 * H_k) * d + H * d * h
    return s * (3 * h * h + attention + 3 * I * h + 4 * h + V_d * h + e_o * V * h) + 8 * V_d


def eagle3_padding() -> sympy.Expr:
    """What alignment adds to them, tensor by tensor; the fusion is a matrix for each feature."""
    matrices = 3 * padding(h * h * s) + padding(2 * h * (H + 2 * H_k) * d * s) + padding(H * d * h * s)
    matrices += padding(2 * I * h * s) + padding(I * h * s) + padding(V_d * h * s) + e_o * padding(V * h * s)
    return matrices + 4 * padding(h * s) + padding(8 * V_d)


def mtp_weights() -> sympy.Expr:
    """One layer of the target's last kind, the projection of hidden state and embedding, three norms."""
    layer = sum((part_bytes(name) for name in PARTS if name != "table"), start=sympy.Integer(0))
    return layer + s * (2 * h * h + 3 * h)


def features() -> sympy.Expr:
    """Hidden states that the drafter reads: n_f rows of h for every row of a pass, from one step to the next."""
    return aligned(n_f * sympy.Max(T, 2, evaluate=False) * h * s)


def fused() -> sympy.Expr:
    """Features, fused: of a prefill pass, and of all rows of a verify pass until the next step has taken them in."""
    return aligned(ROWS * h * s) + aligned(sympy.Max(B * (gamma + 1), m_r, evaluate=False) * h * s)


def joined() -> sympy.Expr:
    """What the layer of a head reads: the embedding of a token beside a hidden state, for every row."""
    return aligned(2 * ROWS * h * s)


def scattered() -> sympy.Expr:
    """One distribution of the draft over all tokens of the target, float32."""
    return aligned(4 * V)


def candidates() -> sympy.Expr:
    """Proposed token ids, int64: the best k of each head, for every sequence."""
    return aligned(8 * B * K_h * k_t)


def tree() -> sympy.Expr:
    """Which rows of a step are no ancestors of which, a byte per pair."""
    return aligned((gamma + 1) * (gamma + 1))


def draft_tree() -> sympy.Expr:
    """The same for the rows that a drafting model takes in: the root and the nodes that have children."""
    return aligned(n_t * n_t)


def draft_candidates() -> sympy.Expr:
    """Proposed token ids, int64: the best k after each row of a drafting model's widest pass, for every sequence."""
    return aligned(8 * B * w_t * k_t)


def medusa_block() -> sympy.Expr:
    """A head's hidden state and its product, for every sequence."""
    return 2 * aligned(_HEAD_ROWS * h * s)


def medusa_head() -> sympy.Expr:
    """A tile of a head's logits and its arg-max."""
    return aligned(R * V * s) + aligned(8 * R)
