"""A GGUF file's tensors as ``StoredWeights``: llama.cpp keeps each in the type that the file has it in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from specplan.arch import ModelArch
from specplan.matrices import matrix_shapes, num_vector_elements
from specplan.models.modules import linear_modules
from specplan.models.names import naming_of
from specplan.models.tensors import TensorEntry, expected_tensors
from specplan.quantized.formats import StoredFormat, stored_format
from specplan.quantized.stored import FormatCounts, KindCount, StoredWeights, matrix_format


def gguf_storage(arch: ModelArch, tensors: Mapping[str, TensorEntry], total_bytes: int) -> StoredWeights:
    """Counts of the file's matrices by type.

    Args:
        arch: of the file.
        tensors: by Hugging Face name, checked against it.
        total_bytes: of all tensors, those without such a name too.
    """
    names, shapes = naming_of(arch), matrix_shapes(arch)
    kinds = {f"{module.name}.weight": module.kind for module in linear_modules(arch)}
    kinds |= {f"{names.embedding}.weight": "embedding", f"{names.head}.weight": "head"}
    counts: dict[StoredFormat, Counter[str]] = {}
    for name, kind in kinds.items():
        if name in tensors:
            form = stored_format(f"ggml-{tensors[name].dtype.lower()}")
            counts.setdefault(form, Counter())[kind] += 1
    formats = tuple(
        FormatCounts(matrix_format(form), tuple(KindCount(kind, count) for kind, count in sorted(held.items())))
        for form, held in sorted(counts.items(), key=lambda pair: pair[0].name)
    )
    vectors = [tensors[name] for name, shape in expected_tensors(arch).items() if len(shape) == 1]
    vector_bytes = min(entry.num_bytes // entry.shape[0] for entry in vectors)
    elements, _ = num_vector_elements(arch)
    matrices = sum(e.count * held.format.matrix_bytes(*shapes[e.kind]) for held in formats for e in held.kinds)
    quantized = [held.format.name for held in formats if held.format.quantized]
    return StoredWeights(
        method="gguf",
        name=quantized[0] if len(quantized) == 1 else "mixed" if quantized else formats[0].format.name,
        compute_dtype="float16",
        vector_bytes=vector_bytes,
        other_bytes=total_bytes - matrices - elements * vector_bytes,
        formats=formats,
    )
