"""A quantized checkpoint's headers against what its config implies, tensor by tensor and to the byte."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import InputError
from specplan.families import FAMILIES
from specplan.matrices import matrix_shapes, num_vector_elements
from specplan.models.modules import Module
from specplan.models.names import naming_of
from specplan.models.storage import quantized_modules
from specplan.models.tensors import Shape, TensorEntry, expected_tensors
from specplan.quantized.format_tensors import tensor_bytes, tensors
from specplan.quantized.quantization import Quantization

_LAYER = re.compile(r"\.layers\.(\d+)\.")
#: Scales of a quantized KV cache belong to the cache, rotary buffers to nothing.
_ENDINGS = ("rotary_emb.inv_freq", ".k_scale", ".v_scale", ".kv_scale")


@dataclass(frozen=True, slots=True)
class Expected:
    """A tensor that a file should have.

    Attributes:
        name: full.
        shape: axes of length one do not count.
        num_bytes: as stored.
        halved: in float32, and files may have 16-bit floats: libraries load both as float32.
    """

    name: str
    shape: Shape
    num_bytes: int
    halved: bool = False


def check_stored_tensors(
    arch: ModelArch, quantization: Quantization, found: Mapping[str, TensorEntry], where: str
) -> None:
    """Hold the headers of a quantized checkpoint against its config.

    Args:
        arch: from the config.
        quantization: from the config.
        found: the file's tensors by name.
        where: the file or folder, for error messages.

    Raises:
        InputError: the first tensor that is missing or holds other bytes, with both figures.
    """
    seen = set()
    for expected in _expected(arch, quantization):
        entry = found.get(expected.name)
        if entry is None:
            raise InputError(
                f"{where}: tensor {expected.name} is missing: its quantization_config implies {expected.num_bytes} "
                f"bytes {list(expected.shape)}"
            )
        if _squeezed(entry.shape) != _squeezed(expected.shape) or not _holds(entry, expected):
            raise InputError(
                f"{where}: tensor {expected.name} holds {entry.num_bytes} bytes ({entry.dtype} {list(entry.shape)}), "
                f"its quantization_config implies {expected.num_bytes} {list(expected.shape)}"
            )
        seen.add(expected.name)
    _check_rest(arch, quantization, {name: entry for name, entry in found.items() if name not in seen}, seen, where)


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _holds(entry: TensorEntry, expected: Expected) -> bool:
    return entry.num_bytes == expected.num_bytes or (expected.halved and entry.dtype in ("BF16", "F16"))


def _expected(arch: ModelArch, quantization: Quantization) -> Iterator[Expected]:
    """Embedding, matrices, and the vectors of families whose names are known."""
    assert arch.stored is not None
    plain = FLOAT_BYTES[arch.stored.compute_dtype]
    shapes = matrix_shapes(arch)
    yield Expected(f"{naming_of(arch).embedding}.weight", shapes["embedding"], plain * math.prod(shapes["embedding"]))
    for module, quantized, _ in quantized_modules(arch, quantization):
        for name in _names(module):
            shape = shapes[module.kind]
            stack: Shape = (module.count,) if module.stacked else ()
            if quantized:
                yield from _quantized(name, quantization, shape, stack)
            elif not stack:  # plain experts in one tensor are transposed in some families: their bytes count below
                yield Expected(f"{name}.weight", shape, plain * math.prod(shape))
    if FAMILIES[arch.model_type].runnable:
        for name, vector in expected_tensors(arch).items():
            if len(vector) == 1:
                yield Expected(name, vector, plain * vector[0])


def _names(module: Module) -> list[str]:
    if "{expert}" not in module.name:
        return [module.name]
    return [module.name.format(expert=expert) for expert in range(module.count)]


def _quantized(name: str, quantization: Quantization, shape: tuple[int, int], stack: Shape) -> Iterator[Expected]:
    form = quantization.form
    for tensor in tensors(form, *shape):
        suffix, dtype, dims = tensor
        if suffix not in form.only_in_memory:
            full = name + suffix if suffix.startswith("_") else f"{name}.{suffix}"
            halved = quantization.method == "fp8" and dtype == "F32"  # in Qwen's releases, not in DeepSeek's
            yield Expected(full, (*stack, *dims), math.prod(stack) * tensor_bytes(form, tensor), halved)


def _check_rest(
    arch: ModelArch, quantization: Quantization, rest: dict[str, TensorEntry], seen: set[str], where: str
) -> None:
    """What no matrix is: in sum the bytes of norms, biases, routers and convolutions."""
    assert arch.stored is not None
    vectors, floats = num_vector_elements(arch)
    named, plain = 0, FLOAT_BYTES[arch.stored.compute_dtype]
    if FAMILIES[arch.model_type].runnable:
        named = sum(shape[0] for name, shape in expected_tensors(arch).items() if len(shape) == 1 and name in seen)
    stacked = sum(
        module.count * math.prod(matrix_shapes(arch)[module.kind])
        for module, quantized, _ in quantized_modules(arch, quantization)
        if module.stacked and not quantized
    )
    expected = plain * (vectors - named + stacked) + 4 * floats
    counted = {name: entry for name, entry in rest.items() if not _is_ignored(name, arch, quantization)}
    holds = sum(entry.num_bytes for entry in counted.values())
    if holds != expected:
        first = next(iter(counted), "none")
        raise InputError(
            f"{where}: tensors besides the matrices hold {holds} bytes, its config implies {expected}: "
            f"the first of {len(counted)} is {first}"
        )


def _is_ignored(name: str, arch: ModelArch, quantization: Quantization) -> bool:
    """Buffers, tied copies of the head, layers beyond the last (multi-token prediction), notes of the library."""
    head = naming_of(arch).head
    layer = _LAYER.search(name)
    return (
        name.endswith((*_ENDINGS, *quantization.form.only_in_file, *naming_of(arch).ignored))
        or (arch.tie_word_embeddings and name.startswith(f"{head}."))
        or (layer is not None and int(layer[1]) >= arch.num_hidden_layers)
        or name.startswith("mtp.")
    )
