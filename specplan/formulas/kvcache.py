"""Bytes of what a sequence leaves behind: keys and values, compressed rows, states."""

from __future__ import annotations

from typing import Any

import sympy

from specplan.formulas.functions import aligned, padding
from specplan.formulas.integer import CeilDiv
from specplan.formulas.symbols import (
    B,
    G_s,
    H_k,
    H_l,
    K_l,
    L_a,
    L_l,
    L_m,
    L_s,
    L_w,
    S,
    S_w,
    S_x,
    d,
    d_o,
    d_r,
    e_s,
    f_t,
    gamma,
    k_b,
    k_l,
    k_s,
    m_2,
    n_o,
    n_s,
    r_k,
    s,
    v_l,
    w_l,
    w_s,
)

#: Rows of elements that have one scale: a token's key, or value, in a KV head; a token's compressed row.
FULL = (L_a - L_w) * B * H_k * S
WINDOWED = L_w * B * H_k * S_w
LATENT = L_m * B * S


def packed(elements: Any) -> sympy.Expr:
    """Bytes of a row's elements: two elements of 4 bits share a byte."""
    return CeilDiv(elements * k_b, 8)


def kv_cache() -> sympy.Expr:
    """Keys and values for S slots of B sequences, S_w in windowed layers, each with its scale where it is quantized to
    integers; one compressed row in latent attention.
    """
    return 2 * (FULL + WINDOWED) * (packed(d) + k_s) + LATENT * (packed(r_k + d_r) + k_s)


def kv_padding() -> sympy.Expr:
    """What alignment adds to the tensors of keys, values and compressed rows, and to those of their scales."""
    heads = (padding(rows * packed(d)) + padding(rows * k_s) for rows in (FULL, WINDOWED))
    return 2 * sum(heads, start=sympy.Integer(0)) + padding(LATENT * packed(r_k + d_r)) + padding(LATENT * k_s)


def recurrent_state() -> sympy.Expr:
    """States of linear attention and state spaces, and of their convolutions, one per verify row to fall back to."""
    linear = (2 * K_l * k_l + H_l * v_l) * w_l * s + 4 * H_l * k_l * v_l
    state_space = (e_s + m_2 * 2 * G_s * n_s) * w_s * s + 4 * e_s * n_s
    return B * (gamma + 1) * (L_l * linear + L_s * state_space)


def constants() -> sympy.Expr:
    """Column numbers that masks are compared with (int64), and the rotary frequencies (float32)."""
    return aligned(8 * S_x) + n_o * aligned(2 * d_o)


def rope_buffers() -> sympy.Expr:
    """Rotary frequencies, float32, which transformers keeps twice, and the factor of embeddings."""
    return 4 * n_o * d_o + f_t * s
