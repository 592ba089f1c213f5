"""Names of GGUF files that say what is in them: a bundled model, every matrix in one float format."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import PurePath

from specplan.dtypes import FLOAT_BYTES, canonical_dtype
from specplan.families import FAMILIES
from specplan.models.gguf_storage import gguf_storage
from specplan.models.resolve import profile_input
from specplan.models.tensors import Shape, TensorEntry, expected_tensors
from specplan.plan import ModelInput
from specplan.profiles import find_profile

_SUFFIXES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAME = re.compile(r"(?i)(.+)[.\-_](F32|F16|BF16)\.gguf")


def gguf_file_name(model: str, dtype: str) -> str:
    """The file that a converted model is put in: ``Llama-3.1-8B-Instruct-F16.gguf``.

    Args:
        model: hub id or folder.
        dtype: of its matrices.
    """
    return f"{PurePath(model).name}-{_SUFFIXES[dtype]}.gguf"


def gguf_by_name(name: str) -> ModelInput | None:
    """The model in a file that is not here, where its name says all that sizes it; None for other names.

    llama.cpp's converter keeps vectors in float32 and puts every matrix in the format of the name.
    """
    match = _NAME.fullmatch(PurePath(name).name)
    profile = find_profile("models", match.group(1)) if match is not None else None
    if match is None or profile is None:
        return None
    return converted(profile_input(profile), canonical_dtype(match.group(2)))


def converted(model: ModelInput, dtype: str) -> ModelInput | None:
    """A model as llama.cpp's converter stores it; None for families whose tensors have no names here.

    Args:
        model: with plain weights.
        dtype: of matrices.
    """
    if model.arch.stored is not None or not FAMILIES[model.arch.model_type].runnable:
        return None
    tensors = {
        name: _entry(shape, "float32" if len(shape) == 1 else dtype)
        for name, shape in expected_tensors(model.arch).items()
    }
    stored = gguf_storage(model.arch, tensors, sum(entry.num_bytes for entry in tensors.values()))
    return dataclasses.replace(model, arch=dataclasses.replace(model.arch, stored=stored))


def _entry(shape: Shape, dtype: str) -> TensorEntry:
    return TensorEntry(_SUFFIXES[dtype], shape, 0, 0, math.prod(shape) * FLOAT_BYTES[dtype])
