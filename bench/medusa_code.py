"""Medusa's own classes and loop around a target of ours, without its loading of checkpoints and tokenizers.

pip install --no-deps medusa-llm==0.1
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What Medusa sizes its cache by, under the names that it reads.

    Attributes:
        num_hidden_layers: L.
        num_attention_heads: of keys and values.
        max_position_embeddings: tokens that the cache holds.
        hidden_size: of all keys of a token together.
    """

    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    hidden_size: int


def _code() -> Any:
    llama: Any = ModuleType("medusa.model.modeling_llama_kv")  # theirs needs transformers of 2023
    llama.LlamaForCausalLM = object
    sys.modules["medusa.model.modeling_llama_kv"] = llama
    return importlib.import_module("medusa.model.medusa_model")


def res_block(hidden_size: int) -> nn.Module:
    """A residual block of its heads, zero at first."""
    block: nn.Module = _code().ResBlock(hidden_size)
    return block


def medusa_model(body: Any, head: nn.Linear, heads: nn.ModuleList, config: CacheConfig) -> Any:
    """Its model class, whose ``medusa_generate`` is run as it is.

    Args:
        body: called with ids, positions and Medusa's cache; returns hidden states first. Medusa hangs its mask on it.
        head: output head of the target.
        heads: each a sequence of residual blocks and an output head.
        config: of the cache.
    """
    theirs = _code()
    model = theirs.MedusaModel.__new__(theirs.MedusaModel)
    nn.Module.__init__(model)
    model.medusa, model.medusa_head = len(heads), heads
    body.medusa_mask = body.medusa_mode = None
    model.base_model = SimpleNamespace(
        model=body, lm_head=head, device=torch.device("cpu"), dtype=head.weight.dtype, config=config
    )
    model.tokenizer = SimpleNamespace(decode=lambda ids, **_: ids.tolist(), eos_token_id=-1)
    return model
