"""A KV cache of the plan's size in the shape that transformers' models expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from specplan.arch import ModelArch
from specplan.errors import UnsupportedError


class PlanCacheLayer(CacheLayerMixin):
    """Keys and values of one layer: S slots of B sequences.

    In memory they are [B, S, H_k, d]: the rows of a pass are written by one index, whichever slots they go to,
    so that sequences may advance by different amounts. Latent attention keeps its compressed row as the keys and the
    rotated part as the values, each of one head.

    Args:
        keys: [B, S, H_k, d].
        values: [B, S, H_k, d], or with another d.
    """

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._all_keys, self._all_values = keys.transpose(1, 2), values.transpose(1, 2)
        self.keys, self.values = self._all_keys, self._all_values  # where transformers' own layers have theirs
        self._flat_keys, self._flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, target: CachePass, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [b, H_k, q, d], whatever their strides, and return what the pass reads as [b, H_k, S', d]."""
        self._flat_keys.index_put_((target.slots,), key_states.transpose(1, 2))
        self._flat_values.index_put_((target.slots,), value_states.transpose(1, 2))
        return self._all_keys[target.rows, :, : target.length], self._all_values[target.rows, :, : target.length]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: memory comes with the layer."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All slots are offered; the mask says which hold tokens."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """Not kept here: positions and mask are given to the model explicitly."""
        return 0

    def get_max_length(self) -> int:
        """S."""
        return self._all_keys.shape[2]


@dataclass(frozen=True, slots=True)
class CachePass:
    """Where a pass reads and writes.

    Attributes:
        slots: int64 [b, q], sequence·S + slot of every row.
        rows: the sequences that take part.
        length: S', leading slots that are read.
    """

    slots: torch.Tensor
    rows: slice
    length: int


@dataclass(frozen=True, slots=True)
class CacheRows:
    """What a model keeps of a token.

    Attributes:
        num_layers: that keep something.
        num_heads: of keys and of values.
        key_size: elements of a key.
        value_size: elements of a value.
    """

    num_layers: int
    num_heads: int
    key_size: int
    value_size: int


class PlanCache(Cache):
    """The layers of one model.

    Args:
        blocks: keys and values of every layer, each [B, S, heads, width].

    Attributes:
        current: where the pass at hand reads and writes; None between passes.
    """

    current: CachePass | None = None

    def __init__(self, blocks: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.blocks = blocks
        self._plan_layers = [PlanCacheLayer(keys, values) for keys, values in blocks]
        super().__init__(layers=[*self._plan_layers])

    @classmethod
    def allocate(
        cls, rows: CacheRows, num_sequences: int, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> PlanCache:
        """Fresh memory, zeroed: what was never written is masked, and must be a number all the same."""
        shapes = [(num_sequences, num_slots, rows.num_heads, width) for width in (rows.key_size, rows.value_size)]
        layers = range(rows.num_layers)
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in layers] for shape in shapes)
        return cls(list(zip(keys, values, strict=True)))

    @property
    def num_bytes(self) -> int:
        """Of all layers."""
        return sum(tensor.nbytes for block in self.blocks for tensor in block)

    @property
    def num_sequences(self) -> int:
        """B."""
        return self.blocks[0][0].shape[0]

    @property
    def num_slots(self) -> int:
        """S."""
        return self.blocks[0][0].shape[1]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the rows of one layer at the slots of the pass."""
        assert self.current is not None
        return self._plan_layers[layer_idx].update(key_states, value_states, self.current)


def cache_rows(arch: ModelArch) -> CacheRows:
    """What transformers' layers of a model keep of a token.

    Raises:
        UnsupportedError: layers that keep a state instead: it cannot take rejected tokens back.
    """
    kinds, layers = set(arch.layer_types), arch.num_hidden_layers
    if kinds <= {"full_attention", "sliding_attention"}:
        return CacheRows(layers, arch.num_key_value_heads, arch.head_dim, arch.head_dim)
    if kinds == {"latent_attention"} and arch.latent is not None:
        return CacheRows(layers, 1, arch.latent.kv_lora_rank, arch.latent.qk_rope_head_dim)
    raise UnsupportedError(f"{arch.model_type}: layers that keep a state cannot take rejected tokens back")
