"""From a quantization to ``StoredWeights``: every module looked up by name, then counted by kind and format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from specplan.arch import ModelArch
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import InputError, UnsupportedError
from specplan.matrices import matrix_shapes
from specplan.models.modules import Module, linear_modules
from specplan.quantized.format_tensors import tensors
from specplan.quantized.formats import STORED_FORMATS, StoredFormat
from specplan.quantized.quantization import Quantization
from specplan.quantized.stored import FormatCounts, KindCount, StoredWeights, matrix_format

_FLOAT16_METHODS = ("gptq", "awq")
_EXPERT_NUMBER = re.compile(r"experts?\b.*(\d|\\d|\[)")


def stored_weights(arch: ModelArch, quantization: Quantization) -> StoredWeights:
    """What a checkpoint of this architecture holds.

    Args:
        arch: the model; its dtype is that of what is not quantized, where the config states one.
        quantization: as its config says.

    Raises:
        InputError: a matrix whose shape the format cannot hold.
        UnsupportedError: a pattern that specplan cannot evaluate, or no module is quantized.
    """
    default = "float16" if quantization.method in _FLOAT16_METHODS else "bfloat16"
    compute = arch.dtype if arch.dtype in FLOAT_BYTES else default
    return _storage(arch, quantization, compute)


def _storage(arch: ModelArch, quantization: Quantization, compute: str) -> StoredWeights:
    plain, shapes = STORED_FORMATS[compute], matrix_shapes(arch)
    counts: dict[StoredFormat, Counter[str]] = {quantization.form: Counter(), plain: Counter({"embedding": 1})}
    for module, quantized, count in quantized_modules(arch, quantization):
        if quantized and module.kind not in counts[quantization.form]:
            _check_shape(quantization, module, shapes[module.kind])
        counts[quantization.form if quantized else plain][module.kind] += count
    if not counts[quantization.form]:
        raise UnsupportedError(f"{quantization.where}: {quantization.method} quantizes no module of this model")
    return StoredWeights(
        method=quantization.method,
        name=quantization.form.name,
        compute_dtype=compute,
        vector_bytes=FLOAT_BYTES[compute],
        other_bytes=0,
        formats=tuple(
            FormatCounts(matrix_format(form), tuple(KindCount(kind, count) for kind, count in sorted(kinds.items())))
            for form, kinds in counts.items()
        ),
    )


def named_storage(arch: ModelArch, name: str, where: str) -> StoredWeights:
    """What the library of a format makes of a model: every matrix of the layers; head and embedding stay.

    Args:
        arch: the model.
        name: one of ``specplan.dtypes.LIBRARY_FORMATS``.
        where: the option, for error messages.

    Raises:
        InputError: a matrix whose shape the format cannot hold.
        UnsupportedError: a format of experts for a model without any.
    """
    method = "awq" if name.startswith("awq") else "gptq" if name.startswith("gptq") else name
    if name == "mxfp4" and arch.moe is None:
        raise UnsupportedError(f"{where} mxfp4: is for experts, which this model has none of: mxfp4-packed is for all")
    parts = ("experts",) if name == "mxfp4" else ()
    quantization = Quantization(method, STORED_FORMATS[name], parts=parts, where=f"{where} {name}")
    default = "float16" if method in _FLOAT16_METHODS else "bfloat16"
    compute = arch.dtype if arch.dtype in ("float16", "bfloat16") else default
    return _storage(arch, quantization, compute)


def quantized_modules(arch: ModelArch, quantization: Quantization) -> Iterator[tuple[Module, bool, int]]:
    """Every module, whether it is quantized, and how many matrices it stands for.

    Experts of a layer are told apart only where a pattern has numbers of experts in it.
    """
    patterns = (*quantization.targets, *quantization.ignored, *quantization.parts)
    one_by_one = any(_EXPERT_NUMBER.search(pattern) for pattern in patterns)
    for module in linear_modules(arch):
        if "{expert}" not in module.name or not one_by_one:
            name = module.name.format(expert=0)
            yield module, quantization.quantizes(name, arch.tie_word_embeddings), module.count
            continue
        for expert in range(module.count):
            name = module.name.format(expert=expert)
            single = Module(module.kind, name)
            yield single, quantization.quantizes(name, arch.tie_word_embeddings), 1


def _check_shape(quantization: Quantization, module: Module, shape: tuple[int, int]) -> None:
    """Refuse what the library would refuse, by module."""
    try:
        tensors(quantization.form, *shape)
    except InputError as error:
        raise InputError(f"{quantization.where}: {module.name.format(expert=0)}: {error}") from None
