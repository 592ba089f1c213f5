"""Element types by their torch names, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.errors import InputError, UnsupportedError
from specplan.quantized.formats import STORED_FORMATS
from specplan.quantized.stored import StoredWeights


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the matrices of a model are held in memory, and what its activations are.

    Attributes:
        name: what ``--dtype`` says.
        matrix_bytes: bytes per matrix element in our own runtime; of what is not quantized where a library stores it.
        scale_bytes: bytes of the scale that each output row carries in our own runtime, else 0.
        compute_dtype: dtype of activations, norms, biases and the untied input embedding.
        stored: how a library stores the weights; None for the formats that our own runtime runs.
    """

    name: str
    matrix_bytes: int
    scale_bytes: int
    compute_dtype: str
    stored: StoredWeights | None = None

    @property
    def quantized(self) -> bool:
        """Whether our own runtime holds matrices in fewer bits than activations."""
        return self.scale_bytes > 0

    def allocates_outputs(self, on_cpu: bool) -> bool:
        """Whether matrix kernels of our own runtime allocate their outputs: int8 ones, and packed float32 on a CPU."""
        return self.quantized or (on_cpu and self.stored is None and self.compute_dtype == "float32")

    def least_rows(self, on_cpu: bool) -> int:
        """Rows that a product is fed at least: with fewer float32 ones are slower."""
        if self.compute_dtype != "float32":
            return 1
        return 4 if on_cpu and self.stored is None else 2


FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: What our own runtime has kernels for.
RUNTIME_FORMATS = {
    **{name: WeightFormat(name, size, 0, name) for name, size in FLOAT_BYTES.items()},
    "int8": WeightFormat("int8", 1, 2, "bfloat16"),
}
#: As the file has them.
STORED = "stored"
#: What a quantization library makes of a model.
LIBRARY_FORMATS = tuple(
    name for name in STORED_FORMATS if name not in RUNTIME_FORMATS and not name.startswith("ggml-")
)  # fmt: skip
#: Every name of a weight dtype.
WEIGHT_DTYPES = (*RUNTIME_FORMATS, STORED, *LIBRARY_FORMATS)

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


def weight_dtype(name: str) -> str:
    """The canonical name of a weight dtype.

    Raises:
        UnsupportedError: no such dtype; the message lists those there are.
    """
    canonical = canonical_dtype(name)
    if canonical not in WEIGHT_DTYPES:
        raise UnsupportedError(f"dtype {name!r} is not supported: one of {', '.join(WEIGHT_DTYPES)}")
    return canonical


def weight_format(name: str, stored: StoredWeights | None = None) -> WeightFormat:
    """The weight format called ``name``.

    Args:
        name: one of ``WEIGHT_DTYPES``.
        stored: of the model, for formats that our own runtime does not run.

    Raises:
        UnsupportedError: no such dtype.
        InputError: a library's format for a model that does not say how it is stored.
    """
    dtype = weight_dtype(name)
    if dtype in RUNTIME_FORMATS:
        return RUNTIME_FORMATS[dtype]
    if stored is None or dtype not in (STORED, stored.name):
        raise InputError(f"dtype {dtype!r} contradicts how the model is stored ({stored.name if stored else 'plain'})")
    return WeightFormat(dtype, float_bytes(stored.compute_dtype), 0, stored.compute_dtype, stored)


def float_bytes(name: str) -> int:
    """Bytes per element of a floating dtype.

    Raises:
        UnsupportedError: not one of float32, bfloat16, float16.
    """
    try:
        return FLOAT_BYTES[canonical_dtype(name)]
    except KeyError:
        raise UnsupportedError(f"dtype {name!r} is not supported: one of {', '.join(FLOAT_BYTES)}") from None
