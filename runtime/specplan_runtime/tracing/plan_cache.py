"""A KV cache of the plan's size in the shape that transformers' models expect."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin


class PlanCacheLayer(CacheLayerMixin):
    """Keys and values of one layer: S slots of B sequences.

    In memory they are [B, S, H_k, d]: the rows of a pass are written by one index, whichever slots they go to,
    so that sequences may advance by different amounts.

    Args:
        keys: [B, S, H_k, d].
        values: [B, S, H_k, d].
    """

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._all_keys, self._all_values = keys.transpose(1, 2), values.transpose(1, 2)
        self.keys, self.values = self._all_keys, self._all_values
        self._flat_keys, self._flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, slots: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [b, H_k, q, d] at the slots [b, q], whatever their strides, and return all as [B, H_k, S, d]."""
        self._flat_keys.index_put_((slots,), key_states.transpose(1, 2))
        self._flat_values.index_put_((slots,), value_states.transpose(1, 2))
        return self._all_keys, self._all_values

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


class PlanCache(Cache):
    """The layers of one model.

    Args:
        blocks: keys and values of every layer, [2, B, S, H_k, d].

    Attributes:
        slots: int64 [b, q], sequence·S + position of every row; set before each pass.
    """

    slots: torch.Tensor

    def __init__(self, blocks: list[torch.Tensor]) -> None:
        self.blocks = blocks
        self._plan_layers = [PlanCacheLayer(block[0], block[1]) for block in blocks]
        super().__init__(layers=[*self._plan_layers])

    @classmethod
    def allocate(
        cls, config: PretrainedConfig, num_sequences: int, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> PlanCache:
        """Fresh memory: 2·L·B·S·H_k·d elements."""
        kv_heads = config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (2, num_sequences, num_slots, kv_heads, head_dim)
        return cls([torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the rows of one layer at ``slots``."""
        return self._plan_layers[layer_idx].update(key_states, value_states, self.slots)
