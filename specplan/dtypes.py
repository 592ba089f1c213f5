"""Element types by their torch names, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the matrices of a model are held in memory, and what its activations are.

    Attributes:
        name: what ``--dtype`` says.
        matrix_bytes: bytes per matrix element.
        scale_bytes: bytes of the scale that each output row carries (0 where there is none).
        compute_dtype: dtype of activations, norms, biases and the untied input embedding.
    """

    name: str
    matrix_bytes: int
    scale_bytes: int
    compute_dtype: str

    @property
    def quantized(self) -> bool:
        """Whether matrices are held in fewer bits than activations."""
        return self.scale_bytes > 0


FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

WEIGHT_FORMATS = {
    **{name: WeightFormat(name, size, 0, name) for name, size in FLOAT_BYTES.items()},
    "int8": WeightFormat("int8", 1, 2, "bfloat16"),
}

_SPELLINGS = {
    "fp32": "float32",
    "f32": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}


def canonical_dtype(name: str) -> str:
    """Map ``bf16`` and ``torch.bfloat16`` to ``bfloat16``; other names pass through in lower case."""
    bare = name.lower().removeprefix("torch.")
    return _SPELLINGS.get(bare, bare)


def weight_format(name: str) -> WeightFormat:
    """The weight format called ``name``.

    Raises:
        UnsupportedError: a dtype that the runtime has no kernel for.
    """
    try:
        return WEIGHT_FORMATS[canonical_dtype(name)]
    except KeyError:
        raise UnsupportedError(f"dtype {name!r} is not supported: one of {', '.join(WEIGHT_FORMATS)}") from None


def float_bytes(name: str) -> int:
    """Bytes per element of a floating dtype.

    Raises:
        UnsupportedError: not one of float32, bfloat16, float16.
    """
    try:
        return FLOAT_BYTES[canonical_dtype(name)]
    except KeyError:
        raise UnsupportedError(f"dtype {name!r} is not supported: one of {', '.join(FLOAT_BYTES)}") from None
