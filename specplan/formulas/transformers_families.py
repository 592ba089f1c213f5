"""Where other families' forwards differ from Llama's, and which form a family has."""

from __future__ import annotations

from typing import ClassVar

import sympy

from specplan.errors import UnsupportedError
from specplan.formulas.symbols import H, H_k, I, T, d, d_o, f_h, h, n_o, s
from specplan.formulas.transformers_forward import HIDDEN, KEYS, QUERIES, LlamaForward, f_u
from specplan.formulas.transformers_general import GENERAL


class Qwen3Forward(LlamaForward):
    """Queries and keys are normalized per head, each right after its projection."""

    STAGES: ClassVar[tuple[str, ...]] = ("query_norm", *LlamaForward.STAGES)

    def query_norm(self) -> sympy.Expr:
        """Norm of the queries, with the queries of before."""
        return self.attention() + QUERIES + self.normalizing(T * H, d)


class GemmaForward(LlamaForward):
    """Norms multiply with 1 + weight in float32."""

    def normalizing(self, vectors: sympy.Expr, size: sympy.Expr) -> sympy.Expr:
        """Two float32 copies, and the statistics (half precision only) or the shifted weight."""
        return 8 * vectors * size + 4 * sympy.Max(f_h * vectors, size, evaluate=False)


class Gemma3Forward(GemmaForward):
    """Norms on both sides of a block, heads normalized after all projections, angles per kind of layer."""

    STAGES: ClassVar[tuple[str, ...]] = (
        "query_norm",
        *(stage for stage in LlamaForward.STAGES if stage != "down"),
    )

    def angles(self) -> sympy.Expr:
        """Cosines and sines for each kind of layer."""
        return n_o * 2 * T * d_o * s

    def query_norm(self) -> sympy.Expr:
        """Norm of the queries, with all projections."""
        return self.attention() + QUERIES + 2 * KEYS + self.normalizing(T * H, d)

    def norm(self) -> sympy.Expr:
        """Norm of the MLP's output, with that output and the residual."""
        return self.layer() + 2 * HIDDEN + self.normalizing(T, h)


class GraniteForward(LlamaForward):
    """Block outputs and logits are multiplied by constants."""

    STAGES: ClassVar[tuple[str, ...]] = (*(stage for stage in LlamaForward.STAGES if stage != "down"), "residual")

    def residual(self) -> sympy.Expr:
        """The residual, a block's output, its multiple, and their sum."""
        return self.layer() + 4 * HIDDEN


class Phi3Forward(LlamaForward):
    """Queries, keys and values are slices of one product that lives as long as attention; so are gate and up."""

    STAGES: ClassVar[tuple[str, ...]] = (*LlamaForward.STAGES, "unpack", "output")

    def attention(self) -> sympy.Expr:
        """The product stays."""
        return super().attention() + QUERIES + 2 * KEYS

    def query_rotary(self) -> sympy.Expr:
        """The rotated part as in Llama, then its sum joined with the rest of the head."""
        rotated = T * H * d_o * s
        return self.attention() + rotated + sympy.Max(2 * rotated, QUERIES, evaluate=False)

    def key_rotary(self) -> sympy.Expr:
        """The same for keys, with the rotated queries."""
        rotated = T * H_k * d_o * s
        return self.attention() + QUERIES + rotated + sympy.Max(2 * rotated, KEYS, evaluate=False)

    def unpack(self) -> sympy.Expr:
        """Outputs of packed queries, copied into the order of heads, with the queries."""
        return self.attention() + (2 + f_u) * QUERIES

    def output(self) -> sympy.Expr:
        """The output projection, with the heads' outputs and the queries."""
        return self.attention() + 2 * QUERIES + HIDDEN

    def mlp(self) -> sympy.Expr:
        """Gate and up, the activated gate, and the product."""
        return super().mlp() + T * I * s

    def down(self) -> sympy.Expr:
        """Gate and up are still there."""
        return super().down() + 2 * T * I * s


class Olmo2Forward(LlamaForward):
    """Blocks read the residual itself and normalize their outputs; angles, and what they touch, are float32."""

    STAGES: ClassVar[tuple[str, ...]] = tuple(stage for stage in LlamaForward.STAGES if stage != "down")

    def angles(self) -> sympy.Expr:
        """Cosines and sines in float32."""
        return 8 * T * d_o

    def attention(self) -> sympy.Expr:
        """No norm of the input."""
        return self.layer()

    def normalizing(self, vectors: sympy.Expr, size: sympy.Expr) -> sympy.Expr:
        """Two float32 copies, and the output beside them."""
        return 8 * vectors * size + f_h * 2 * vectors * size + 4 * vectors

    def query_rotary(self) -> sympy.Expr:
        """Queries, keys and values, and three float32 copies of the queries."""
        return self.attention() + QUERIES + 2 * KEYS + 12 * T * H * d

    def key_rotary(self) -> sympy.Expr:
        """Three float32 copies of the keys, with the rotated queries, still float32."""
        return self.attention() + QUERIES + 2 * KEYS + 4 * T * H * d + 12 * T * H_k * d

    def norm(self) -> sympy.Expr:
        """Norm of the MLP's output, with that output and the residual."""
        return self.layer() + 2 * HIDDEN + self.normalizing(T, h)

    def mlp(self) -> sympy.Expr:
        """No norm of the input."""
        return self.layer() + HIDDEN + 3 * T * I * s


#: By model_type: families whose traced pass equals its form byte by byte.
FORWARDS: dict[str, LlamaForward] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "ministral", "ministral3"), LlamaForward()),
    **dict.fromkeys(("arcee", "cwm", "internlm3", "seed_oss", "smollm3"), LlamaForward()),
    "qwen3": Qwen3Forward(),
    "gemma": GemmaForward(),
    "gemma3_text": Gemma3Forward(),
    "granite": GraniteForward(),
    "phi3": Phi3Forward(),
    **dict.fromkeys(("olmo2", "olmo3"), Olmo2Forward()),
}


#: By model_type: families whose pass is bounded by a form that is not theirs.
MODELLED: dict[str, LlamaForward] = dict.fromkeys(
    ("gemma2", "gpt_neox", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3"), GENERAL
)


def forward_id(model_type: str) -> str:
    """The catalogue's id of a family's forward.

    Raises:
        UnsupportedError: neither a form nor a bound is known for it.
    """
    form = type(forward_of(model_type)).__name__.removesuffix("Forward")
    return f"forward_{form.lower()}"


def forward_of(model_type: str) -> LlamaForward:
    """The stages of a family's forward.

    Raises:
        UnsupportedError: neither a form nor a bound is known for it.
    """
    known = FORWARDS | MODELLED
    try:
        return known[model_type]
    except KeyError:
        raise UnsupportedError(
            f"the workspace of transformers' forward is not known for {model_type!r}: one of {', '.join(known)}"
        ) from None
