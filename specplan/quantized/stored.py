"""``StoredWeights``: in which formats a model's matrices are, counted kind by kind. Small enough for a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from specplan.errors import InputError
from specplan.quantized.format_tensors import tensor_bytes
from specplan.quantized.formats import StoredFormat

_MAX_COUNT = 1 << 40
_MAX_NUMBER = 1 << 20


@dataclass(frozen=True, slots=True)
class MatrixFormat:
    """The numbers of a ``StoredFormat`` that decide how many bytes a matrix has; fields are named as there.

    Attributes:
        name: of the format.
        pack: values that are packed together.
        pack_bytes: their bytes.
        group: values along a row that share a scale, 0 for all of them.
        group_rows: rows that share a scale.
        scale_bytes: of a scale.
        zero_bits: of a zero point.
        index_bytes: per column.
        nested_group: scales that share a scale of their own, 0 for none.
        constant_bytes: what every matrix has once.
        flat: packed and grouped across rows.
    """

    name: str
    pack: int
    pack_bytes: int
    group: int = 0
    group_rows: int = 1
    scale_bytes: int = 0
    zero_bits: int = 0
    index_bytes: int = 0
    nested_group: int = 0
    constant_bytes: int = 0
    flat: bool = False

    @property
    def nested_bytes(self) -> int:
        """Bytes of one scale of scales."""
        return 4 if self.nested_group else 0

    @property
    def quantized(self) -> bool:
        """Whether values are in fewer bits than a 16-bit float."""
        return 8 * self.pack_bytes < 16 * self.pack

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix [rows, columns] with everything that belongs to it."""
        if self.flat:
            rows, columns = 1, rows * columns
        groups = -(-columns // self.group) if self.group else 1
        scales = -(-rows // self.group_rows) * groups
        values = self.pack_bytes * rows * -(-columns // self.pack)
        zeros = 4 * groups * -(-rows * self.zero_bits // 32)
        nested = self.nested_bytes * -(-scales // (self.nested_group or 1))
        return values + self.scale_bytes * scales + zeros + self.index_bytes * columns + nested + self.constant_bytes


def matrix_format(form: StoredFormat) -> MatrixFormat:
    """The numbers of a storage format."""
    return MatrixFormat(
        name=form.name,
        pack=form.pack,
        pack_bytes=form.pack_bytes,
        group=form.group,
        group_rows=form.group_rows,
        scale_bytes=form.scale_bytes,
        zero_bits=form.zero_bits,
        index_bytes=form.index_bytes,
        nested_group=form.nested_group,
        constant_bytes=sum(tensor_bytes(form, constant) for constant in form.constants),
        flat=form.flat,
    )


@dataclass(frozen=True, slots=True)
class KindCount:
    """Matrices of one kind that a format holds.

    Attributes:
        kind: as in ``specplan.matrices``, for example ``attention.q``.
        count: over all layers and experts.
    """

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class FormatCounts:
    """Everything that one format holds."""

    format: MatrixFormat
    kinds: tuple[KindCount, ...]


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """How the weights of a model are stored, and stay in memory.

    Attributes:
        method: of quantization, as config.json names it, or ``gguf``.
        name: of the format that ``--dtype`` would ask for; ``mixed`` where several are quantized.
        compute_dtype: of activations, and of what is not quantized.
        vector_bytes: per element of norms, biases, routers and convolutions.
        other_bytes: of tensors besides.
        formats: the matrices, embedding and head among them.
    """

    method: str
    name: str
    compute_dtype: str
    vector_bytes: int
    other_bytes: int
    formats: tuple[FormatCounts, ...]

    def counts(self) -> Iterator[tuple[MatrixFormat, str, int]]:
        """(format, kind, how many)."""
        for held in self.formats:
            for entry in held.kinds:
                yield held.format, entry.kind, entry.count


def check_stored(stored: StoredWeights, kinds: frozenset[str], where: str) -> None:
    """Refuse numbers that no format has.

    Raises:
        InputError: names the field.
    """
    for name, value, least in (("vector_bytes", stored.vector_bytes, 1), ("other_bytes", stored.other_bytes, 0)):
        if not least <= value <= _MAX_COUNT:
            raise InputError(f"{where}.{name} is {value}, expected at least {least}")
    for form, kind, count in stored.counts():
        if kind not in kinds:
            raise InputError(f"{where}: {kind!r} is not a kind of matrix of this model")
        if not 1 <= count <= _MAX_COUNT:
            raise InputError(f"{where}: {count} matrices of {kind}, expected at least 1")
        for name in MatrixFormat.__slots__:
            value = getattr(form, name)
            least = 1 if name in ("pack", "pack_bytes", "group_rows") else 0
            if isinstance(value, int) and not least <= value <= _MAX_NUMBER:
                raise InputError(f"{where}: {form.name}.{name} is {value}, expected {least} to {_MAX_NUMBER}")
