"""``Cut``: which rows and columns of a checkpoint's tensors one rank holds."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.arch import ModelArch
from specplan.parallelism import Parallelism

#: Rows of one tensor, range after range; None for all of them.
Rows = tuple[range, ...] | None


@dataclass(frozen=True, slots=True)
class Cut:
    """One rank's share of a model, whole with one part and all layers.

    Attributes:
        arch: of the whole model.
        parts: tensor ranks.
        part: which of them.
        first_layer: of the rank's stage.
    """

    arch: ModelArch
    parts: int = 1
    part: int = 0
    first_layer: int = 0

    @classmethod
    def of(cls, arch: ModelArch, parallelism: Parallelism, rank: int) -> Cut:
        """A rank's share of a model that is spread."""
        parts = parallelism.tensor_parallel
        return cls(arch, parts, rank % parts, parallelism.first_layer(parallelism.stage_of(rank)))

    @property
    def adds_bias(self) -> bool:
        """Outputs are summed over the tensor ranks: the first one adds what must be added once."""
        return self.part == 0

    def vocabulary(self) -> Rows:
        """Rows of the embedding and of the head; those that fill the last rank up are none of the model's."""
        width = -(-self.arch.vocab_size // self.parts)
        first = min(self.part * width, self.arch.vocab_size)
        return self._rows(range(first, min(first + width, self.arch.vocab_size)))

    def qkv(self, num_tensors: int, interleaved: bool) -> list[Rows]:
        """Rows of the query, key and value matrices, or of the one that holds them all."""
        d, heads, kv_heads = self.arch.head_dim, self.arch.num_attention_heads, self.arch.num_key_value_heads
        queries = self._part_of(heads * d)
        first = self.part * kv_heads // self.parts
        keys = range(first * d, (first + max(1, kv_heads // self.parts)) * d)
        if num_tensors == 3:
            return [self._rows(queries), self._rows(keys), self._rows(keys)]
        if interleaved:
            return [self._rows(self._part_of(heads * 3 * d))]
        behind = heads * d
        return [self._rows(queries, _moved(keys, behind), _moved(keys, behind + kv_heads * d))]

    def gate_up(self, size: int, num_tensors: int, gated: bool) -> list[Rows]:
        """Rows of gate and up matrices of ``size`` rows, or of the one that holds both."""
        own = self._part_of(size)
        if num_tensors == 1 and gated:
            return [self._rows(own, _moved(own, size))]
        return [self._rows(own)] * num_tensors

    def columns(self, size: int) -> range | None:
        """Columns of a matrix whose products are summed."""
        return None if self.parts == 1 else self._part_of(size)

    def query_norm(self) -> Rows:
        """Elements of the norm over all queries."""
        return self._rows(self._part_of(self.arch.num_attention_heads * self.arch.head_dim))

    def key_norm(self) -> Rows:
        """Elements of the norm over all keys."""
        return self._rows(self._part_of(self.arch.num_key_value_heads * self.arch.head_dim))

    def _part_of(self, size: int) -> range:
        each = size // self.parts
        return range(self.part * each, (self.part + 1) * each)

    def _rows(self, *ranges: range) -> Rows:
        return None if self.parts == 1 else ranges


def _moved(rows: range, by: int) -> range:
    return range(rows.start + by, rows.stop + by)
