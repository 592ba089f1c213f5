"""Workspace of one pass of transformers' own forward, for plans with ``forward: transformers``.

Requested bytes that PyTorch's operators hold at the peak of a pass on a GPU, its inputs included, with an explicit
4-D boolean mask and the memory-efficient attention kernel. A stage is a moment of the pass at which the most can be
alive; the peak is the largest stage. Moments that never hold the most, such as computing the rotary tables, are not
listed. Source: transformers 5.17 to 5.23, models/llama and integrations/sdpa_attention, and torch 2.11 to 2.13,
transformers/attention.cpp and cuda/attention.cu; tests compare with a trace of transformers' code byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import sympy

from specplan.errors import UnsupportedError
from specplan.formulas.functions import RoundUp
from specplan.formulas.symbols import TABLE, H, H_k, I, R, S, T, V, b, d, d_o, f_h, h, s

n_m = TABLE.count("n_m", "attention masks: one per kind of layer, full or windowed")
f_l = TABLE.natural("f_l", "1 when there is more than one layer")
f_g = TABLE.natural("f_g", "1 when attention repeats keys and values for grouped queries")
f_u = TABLE.natural("f_u", "1 when one-row queries go to attention packed by KV head instead")
f_a = TABLE.natural("f_a", "1 when attention gathers half-precision outputs in float32 (head_dim > 128)")
f_p = TABLE.natural("f_p", "1 when masks are padded (the number of KV slots is no multiple of 8)")
f_c = TABLE.natural("f_c", "1 when the rows whose logits are computed are copied first")

#: The first supported version of transformers, and the one that stopped repeating keys for one-row grouped queries.
OLDEST = (5, 17)
QUERIES_PACKED_FROM = (5, 23)
#: The first version that was read in which latent attention caches its compressed rows.
LATENT_ROWS_FROM = (5, 23)

#: The residual stream, the queries, and the keys of a pass.
HIDDEN = T * h * s
QUERIES = T * H * d * s
KEYS = T * H_k * d * s


class LlamaForward:
    """The stages of Llama's forward; families that differ override theirs."""

    STAGES: ClassVar[tuple[str, ...]] = (
        "query_rotary",
        "key_rotary",
        "mask",
        "kernel",
        "norm",
        "mlp",
        "down",
        "logits",
    )

    def inputs(self) -> sympy.Expr:
        """Token ids, positions and cache slots of all rows, int64, and one byte per mask, row and slot."""
        return 24 * T + n_m * T * S

    def angles(self) -> sympy.Expr:
        """Cosines and sines for all layers."""
        return 2 * T * d_o * s

    def layer(self) -> sympy.Expr:
        """What a layer finds: inputs, angles, token embeddings, and from the second layer on its own input."""
        return self.inputs() + self.angles() + (1 + f_l) * HIDDEN

    def attention(self) -> sympy.Expr:
        """What attention holds throughout: what the layer found, and its norm."""
        return self.layer() + HIDDEN

    def normalizing(self, vectors: sympy.Expr, size: sympy.Expr) -> sympy.Expr:
        """What an RMS norm of vectors holds beside its input: float32 copies, statistics, its output."""
        return 8 * vectors * size + 4 * vectors * (1 + f_h)

    def repeated(self) -> sympy.Expr:
        """Keys and values of all slots, repeated for every query head."""
        return f_g * 2 * b * H * S * d * s

    def query_rotary(self) -> sympy.Expr:
        """Queries, keys and values, and the queries times cosines, rotated times sines, and their sum."""
        return self.attention() + 4 * QUERIES + 2 * KEYS

    def key_rotary(self) -> sympy.Expr:
        """The same for the keys, with the queries of before and after."""
        return self.attention() + 2 * QUERIES + 5 * KEYS

    def mask(self) -> sympy.Expr:
        """The mask as numbers, and its padded copy; the kernel's output does not exist yet."""
        return self.attention() + QUERIES + self.repeated() + f_p * T * S * s + T * RoundUp(S, 8) * s

    def kernel(self) -> sympy.Expr:
        """The kernel's mask, output and accumulator."""
        return self.attention() + 2 * QUERIES + self.repeated() + T * RoundUp(S, 8) * s + f_a * 4 * T * H * d

    def norm(self) -> sympy.Expr:
        """The norm between attention and MLP, with the residual."""
        return self.layer() + HIDDEN + self.normalizing(T, h)

    def mlp(self) -> sympy.Expr:
        """Activated gate, up, and their product, with the residual and its norm."""
        return self.layer() + 2 * HIDDEN + 3 * T * I * s

    def down(self) -> sympy.Expr:
        """That product and its projection: the most only where intermediate_size is below half of hidden_size."""
        return self.layer() + 3 * HIDDEN + T * I * s

    def logits(self) -> sympy.Expr:
        """Normalized rows, a copy of those that need logits if they do not lie together, and a tile of logits."""
        return HIDDEN + f_c * R * h * s + R * V * s

    def stages(self) -> dict[str, Callable[[], sympy.Expr]]:
        """The stages by name."""
        return {name: getattr(self, name) for name in self.STAGES}

    def workspace(self) -> sympy.Expr:
        """The most that a pass holds, its inputs included."""
        return sympy.Max(*(stage() for stage in self.stages().values()), evaluate=False)


def forward_flags(version: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of this file from the other symbols of a pass.

    Args:
        version: of transformers, as ``transformers.__version__`` has it.
        values: L, H, H_k, d, s, T, b and S by name. T, b and S may be integer arrays.

    Returns:
        Flags by name, 0 or 1, or arrays of them.

    Raises:
        UnsupportedError: a version before 5.17.
    """
    release = release_of(version)
    L, H, H_k, d, s, T, b, S = (values[name] for name in ("L", "H", "H_k", "d", "s", "T", "b", "S"))
    grouped = int(H > H_k > 1)
    packed = (b == T) * grouped * int(release >= QUERIES_PACKED_FROM)
    return {
        "f_l": int(L > 1),
        "f_g": grouped - packed,
        "f_u": packed,
        "f_a": int(d > 128 and s < 4),
        "f_p": (S % 8 != 0) * 1,
    }


def check_head_dim(d: int, s: int) -> None:
    """Refuse heads that the attention kernel of GPUs does not take.

    Raises:
        UnsupportedError: names the size.
    """
    if d * s % 16:
        raise UnsupportedError(f"head_dim {d}: the memory-efficient attention kernel takes multiples of {16 // s}")


def release_of(version: str) -> tuple[int, int]:
    """Major and minor number of a version of transformers.

    Raises:
        UnsupportedError: not a version, or one before 5.17.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        raise UnsupportedError(f"transformers {version!r} is not a version") from None
    if (major, minor) < OLDEST:
        raise UnsupportedError(f"transformers {version} is not supported: {OLDEST[0]}.{OLDEST[1]} or later")
    return major, minor
