"""A bound on transformers' forward for families whose exact form is not known: their plans call it modelled.

Every stage adds up what its operators may hold at once, in the order of transformers 5.23 (models/gemma2, gpt_neox,
mixtral, qwen3_moe, gpt_oss, deepseek_v2, deepseek_v3), an expert taken to be given all rows. Tests hold it against what
operators allocate while these models run: it is never below.
"""

from __future__ import annotations

from typing import ClassVar

import sympy

from specplan.formulas.functions import Exceeds, RoundUp
from specplan.formulas.symbols import (
    TABLE,
    E,
    H,
    I,
    I_e,
    I_s,
    L_m,
    S,
    T,
    b,
    d,
    d_n,
    d_r,
    d_v,
    g_m,
    h,
    k_e,
    q_f,
    q_h,
    r_k,
    r_q,
    s,
    x_d,
    x_e,
)
from specplan.formulas.transformers_forward import HIDDEN, KEYS, LlamaForward, f_p, n_m

f_e = TABLE.natural("f_e", "1 when attention computes the scores of all heads at once")

_LATENT = Exceeds(L_m, 0)
#: Elements of a query, and of a value: in latent attention head_dim is the rotated part of a query alone.
_QUERY = d + _LATENT * d_n
_VALUE = d + _LATENT * (d_v - d)
_QUERIES = T * H * _QUERY * s


class GeneralForward(LlamaForward):
    """Attention of any kind over a cache that keeps every token, and MLPs or experts."""

    STAGES: ClassVar[tuple[str, ...]] = ("rotary", "kernel", "norm", "mlp", "experts", "logits")

    def inputs(self) -> sympy.Expr:
        """Masks that are added to scores have their dtype."""
        return 24 * T + n_m * T * S * (1 + f_e * (s - 1))

    def rotary(self) -> sympy.Expr:
        """Projections, also fused or compressed, normalized and rotated."""
        compressed = _LATENT * T * (r_q + 2 * r_k + 2 * d_r) * s
        normalized = (q_h + q_f) * 12 * T * H * d
        return self.attention() + 7 * _QUERIES + 5 * KEYS + compressed + normalized

    def repeated(self) -> sympy.Expr:
        """Also the keys and values that latent attention makes of its compressed rows."""
        expanded = _LATENT * b * S * H * (2 * d_n + d_v + d_r) * s
        return super().repeated() + expanded + f_e * b * H * S * (_QUERY + _VALUE) * s

    def kernel(self) -> sympy.Expr:
        """Queries and outputs, what is repeated, and the kernel's mask or the scores with their softmax."""
        bias = (1 - f_e) * (f_p * T * S * s + T * RoundUp(S, 8) * s + 4 * T * H * _VALUE)
        scores = f_e * T * H * (S + 1) * sympy.Max(s + 8, 5 * s, evaluate=False)
        return self.attention() + 3 * _QUERIES + 2 * T * H * _VALUE * s + self.repeated() + bias + scores

    def norm(self) -> sympy.Expr:
        """Any norm, in float32, with the block's output beside the residual."""
        return self.layer() + 3 * HIDDEN + 8 * T * h + 4 * (T + h)

    def mlp(self) -> sympy.Expr:
        """A dense MLP, its activation taken apart where it has no gate."""
        return x_d * (self.layer() + 4 * HIDDEN + (5 - g_m) * T * I * s)

    def experts(self) -> sympy.Expr:
        """Router, choices, one expert on all rows, and the shared expert."""
        router = T * E * (4 * s + 12) + 4 * E * h + 4 * T * h
        choices = 8 * T * k_e * (E + 6) + 16 * T
        expert = 4 * HIDDEN + 10 * T * I_e * s
        return x_e * (self.layer() + 4 * HIDDEN + router + choices + expert + 3 * T * I_s * s)


#: Families whose plans are modelled.
GENERAL = GeneralForward()
