"""Workspace of one pass over T rows: what the runtime's decoder places in its arena, stage by stage.

In float32, buffers that feed a matrix product have at least two rows: a product with one row would take the slow
matrix-vector path of libraries. On a CPU they have four: products with packed matrices are slower below that. Stages of
a layer share one scratch region, so it counts once, at its maximum.
"""

from __future__ import annotations

import sympy

from specplan.formulas.functions import Exceeds, aligned
from specplan.formulas.symbols import (
    B,
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
    L_l,
    L_m,
    L_s,
    R,
    S,
    S_w,
    S_x,
    T,
    V,
    V_p,
    b,
    d,
    d_n,
    d_o,
    d_r,
    d_v,
    e_s,
    f_h,
    f_k,
    f_o,
    f_q,
    f_r,
    f_s,
    g_m,
    gamma,
    h,
    k_e,
    k_l,
    k_s,
    m_2,
    m_b,
    m_r,
    n_b,
    n_o,
    n_s,
    q_f,
    q_h,
    r_k,
    r_q,
    s,
    t_p,
    v_l,
    x_a,
    x_d,
    x_e,
    x_f,
    x_h,
    x_p,
    x_s,
    x_w,
)
from specplan.formulas.weights import QKV

ROWS = sympy.Max(T, m_r, evaluate=False)
#: Kernels of packed matrices read rows that are contiguous, which the gate of a fused product is not.
_PACKED = f_o * f_r


def tokens() -> sympy.Expr:
    """Token ids and positions, int64; with several sequences also each row's sequence, its place among its rows,
    and its slot in caches of all slots and of windows.
    """
    return (2 + Exceeds(b, 1) * (2 + x_f + x_w)) * aligned(8 * ROWS)


def mask() -> sympy.Expr:
    """A byte per row and slot: what a row must not see; for windowed layers also the slots' positions and a spare."""
    return x_f * aligned(T * S) + x_w * (aligned(8 * b * S_w) + 2 * aligned(T * S_w))


def rope() -> sympy.Expr:
    """Rotary angles in float32, twice for half precision; cosines and sines for each set of frequencies."""
    return (1 + f_h) * aligned(2 * d_o * ROWS) + 2 * n_o * aligned(ROWS * d_o * s / 2)


def hidden() -> sympy.Expr:
    """The residual stream."""
    return aligned(ROWS * h * s)


def normed() -> sympy.Expr:
    """Normalized hidden states, then the heads' outputs in token order."""
    return aligned(ROWS * sympy.Max(h, H * d, H * d_v, evaluate=False) * s)


def projected() -> sympy.Expr:
    """Outputs of the attention and MLP blocks before they join the residual stream."""
    return (1 - f_o * (1 - x_e)) * aligned(ROWS * h * s)


def norm() -> sympy.Expr:
    """Root mean squares, means in layer norms, and a float32 copy of the rows where activations are half precision."""
    return (1 + n_b) * aligned(4 * ROWS) + f_h * aligned(4 * ROWS * h)


def attention() -> sympy.Expr:
    """Fused qkv, rotary temporary, packed queries, scores; a converted KV layer; float32 for norms of heads; scales of
    the keys, then the values, that are quantized to integers, and a float32 copy of both in half precision.
    """
    heads = H + H_k
    head_norm = q_h * aligned(4 * ROWS * H) + q_f * aligned(4 * ROWS)
    head_norm += (q_h + q_f) * f_h * aligned(4 * ROWS * H * d)
    scores = aligned(T * H * d * s) + aligned(T * H * S_x * s)
    rotary = aligned(ROWS * heads * d_o * s / 2)
    cast = f_k * aligned(b * H_k * d * S_x * s)
    quantizing = aligned(T * H_k * k_s) + x_s * f_h * (aligned(4 * T * H_k) + aligned(4 * T * H_k * d))
    qkv = (1 - f_o) * aligned(ROWS * QKV * s)
    return x_a * (qkv + rotary + scores + cast + quantizing + head_norm)


def latent() -> sympy.Expr:
    """Latent attention over the compressed rows themselves, as decoders absorb it: the products that compress, queries,
    rotary temporary; queries projected onto the compressed rows, whose outputs replace them; scores; a converted cache
    layer; scales of quantized rows.

    Keys and values are never expanded: for all slots of a sequence they would take H·(d_n + d_v) elements each.
    """
    compressed = (1 - f_o) * aligned(ROWS * (f_q * r_q + r_k + d_r) * s)
    queries = (1 - f_o) * aligned(ROWS * H * (d_n + d_r) * s)
    rotary = aligned(ROWS * (H + 1) * d_r * s / 2)
    scores = aligned(T * H * (r_k + d_r) * s) + aligned(T * H * S_x * s)
    cast = f_k * aligned(b * (r_k + d_r) * S_x * s)
    quantizing = aligned(T * k_s) + x_s * f_h * (aligned(4 * T) + aligned(4 * T * (r_k + d_r)))
    return Exceeds(L_m, 0) * (compressed + queries + rotary + scores + cast + quantizing)


def recurrent() -> sympy.Expr:
    """Projections of a recurrent layer, the convolution's output, which the layer's own replaces, and rates or step
    sizes in float32: what a fused scan takes beside its states.
    """
    keys, values = K_l * k_l, H_l * v_l
    linear = (2 * keys + 2 * values + 2 * H_l, 2 * keys + values, 2 * H_l)
    state_space = (2 * e_s + m_2 * (2 * G_s * n_s + H_s), e_s + m_2 * 2 * G_s * n_s, e_s)
    (linear_bytes, state_space_bytes) = (
        aligned(ROWS * projected * s) + aligned(ROWS * mixed * s) + aligned(4 * ROWS * rates)
        for projected, mixed, rates in (linear, state_space)
    )
    return sympy.Max(Exceeds(L_l, 0) * linear_bytes, Exceeds(L_s, 0) * state_space_bytes, evaluate=False)


def mlp() -> sympy.Expr:
    """Gate and up side by side, whose product replaces the gate; their product alone where matrices are packed."""
    return x_d * ((1 - f_o) * aligned((1 + g_m) * ROWS * I * s) + _PACKED * aligned(g_m * ROWS * I * s))


def experts() -> sympy.Expr:
    """Router scores and choices; one expert's rows, gate and up, and output; the shared expert's gate and up."""
    router = aligned(ROWS * E * s) + aligned(4 * ROWS * E) + aligned(4 * ROWS * k_e) + aligned(8 * ROWS * k_e)
    expert = aligned(ROWS * h * s) + (1 - f_o) * (aligned(2 * ROWS * I_e * s) + aligned(ROWS * h * s))
    expert += _PACKED * (aligned(ROWS * I_e * s) + f_s * aligned(ROWS * I_s * s))
    return x_e * (router + aligned(4 * ROWS) + expert + f_s * (1 - f_o) * aligned(2 * ROWS * I_s * s))


def head() -> sympy.Expr:
    """A tile of logits and its arg-max; where it is decided, one row of probabilities of the whole vocabulary with its
    running sum and mask for sampling.
    """
    logits = (1 - f_o) * aligned(R * V * s) + aligned(8 * R)
    return x_h * logits + x_p * (2 * aligned(4 * V_p) + aligned(V_p))


def gathered() -> sympy.Expr:
    """The vocabulary is spread over t_p devices: the best token of each row with its logit, both in float32, of this
    device and of all; where it is decided, one row of all logits, for sampling.

    Sums over devices (all-reduces) replace what they add up, and need no buffer.
    """
    return x_h * (aligned(8 * R) + aligned(8 * t_p * R) + x_p * aligned(t_p * V * s))


def in_flight() -> sympy.Expr:
    """In a pipeline, but for its last stage, a second residual stream: one is sent while the next is computed."""
    return (m_b - 1) * aligned(ROWS * h * s)


def sampling() -> sympy.Expr:
    """One row of probabilities, its running sum and a mask, each its own allocation; draws and arg-max."""
    return 2 * aligned(4 * V) + aligned(V) + aligned(8 * R)


def scratch() -> sympy.Expr:
    """The stages follow one another, so their scratch is the largest of them."""
    # comparing them symbolically takes 0.2 s
    return sympy.Max(attention(), latent(), recurrent(), mlp(), experts(), head(), evaluate=False)


def kernel_output() -> sympy.Expr:
    """The most that kernels hold outside the arena at one time which cannot write into a given tensor."""
    dense = x_d * ((1 + g_m) * I + h)
    expert = x_e * (2 * sympy.Max(I_e, I_s, evaluate=False) + h)
    queries = Exceeds(L_m, 0) * H * (d_n + d_r)
    widest = sympy.Max(dense, expert, x_a * QKV, queries, evaluate=False)
    return f_o * s * sympy.Max(ROWS * widest, x_h * R * V, evaluate=False)


def draft_probs() -> sympy.Expr:
    """The draft's distribution at every drafted position, float32: what lossless rejection needs."""
    return aligned(4 * B * gamma * V)
