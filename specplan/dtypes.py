"""Element types by their torch names, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.errors import InputError, UnsupportedError
from specplan.quantized.formats import STORED_FORMATS
from specplan.quantized.stored import StoredWeights


@dataclass(frozen=True, slots=True)
class Matrices:
    """What matrices take in our own runtime.

    Attributes:
        bits: per element, scales and zero points of groups included.
        scale_bytes: of the scale that each output row carries, else 0.
    """

    bits: int
    scale_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the matrices of a model are held in memory, and what its activations are.

    Attributes:
        name: what ``--dtype`` says.
        layers: the matrices of layers in our own runtime; what is not quantized where a library stores them.
        head: the output head, and an embedding that is tied to it.
        compute_dtype: dtype of activations, norms, biases and the untied input embedding.
        stored: how a library stores the weights; None for the formats that our own runtime runs.
    """

    name: str
    layers: Matrices
    head: Matrices
    compute_dtype: str
    stored: StoredWeights | None = None

    @property
    def quantized(self) -> bool:
        """Whether our own runtime holds matrices in fewer bits than activations."""
        return self.layers.bits < 16

    def allocates_outputs(self, on_cpu: bool) -> bool:
        """Whether matrix kernels of our own runtime allocate their outputs: those of quantized matrices, and of packed
        float32 on a CPU.
        """
        return self.quantized or (on_cpu and self.stored is None and self.compute_dtype == "float32")

    def reads_contiguous(self, on_cpu: bool) -> bool:
        """Whether kernels that allocate take contiguous rows only: int4 ones, and packed float32."""
        return self.allocates_outputs(on_cpu) and self.layers != _INT8

    def least_rows(self, on_cpu: bool) -> int:
        """Rows that a product is fed at least: with fewer float32 ones are slower."""
        if self.compute_dtype != "float32":
            return 1
        return 4 if on_cpu and self.stored is None else 2


FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: Values along a row of an int4 matrix that share a scale and a zero point: the blocks of Q4_0 and Q4_1 in GGUF files,
#: whose values are then kept; the hidden sizes of small models are no multiples of more.
INT4_GROUP = 32
#: Rows of an int4 matrix come in multiples of so many: what PyTorch packs.
INT4_ROWS = 16

_INT8 = Matrices(8, 2)
#: 4 bits, and of each group a scale and a zero point in bfloat16.
_INT4 = Matrices(4 + 32 // INT4_GROUP)

#: What our own runtime has kernels for.
RUNTIME_FORMATS = {
    **{name: WeightFormat(name, Matrices(8 * size), Matrices(8 * size), name) for name, size in FLOAT_BYTES.items()},
    "int8": WeightFormat("int8", _INT8, _INT8, "bfloat16"),
    "int4": WeightFormat("int4", _INT4, _INT8, "bfloat16"),
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
    plain = Matrices(8 * float_bytes(stored.compute_dtype))
    return WeightFormat(dtype, plain, plain, stored.compute_dtype, stored)


def float_bytes(name: str) -> int:
    """Bytes per element of a floating dtype.

    Raises:
        UnsupportedError: not one of float32, bfloat16, float16.
    """
    try:
        return FLOAT_BYTES[canonical_dtype(name)]
    except KeyError:
        raise UnsupportedError(f"dtype {name!r} is not supported: one of {', '.join(FLOAT_BYTES)}") from None
