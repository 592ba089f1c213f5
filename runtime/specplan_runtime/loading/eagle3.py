"""An EAGLE-3 head from a checkpoint into the arena, in the plan's precision."""

from __future__ import annotations

from pathlib import Path

import torch

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.models.eagle3_names import (
    EMBEDDING,
    FINAL_NORM,
    FUSION,
    HEAD,
    TOKEN_MAP,
    check_eagle3_tensors,
    eagle3_names,
)
from specplan.models.names import naming_of
from specplan.models.safetensors_header import read_headers, safetensors_files
from specplan.plan import Eagle3Input
from specplan_runtime.eagle import Eagle3
from specplan_runtime.loading.load import store
from specplan_runtime.loading.sources import FileTiles, TensorSource
from specplan_runtime.parameters import AnyLinear
from specplan_runtime.rope import inverse_frequencies


def load_eagle3(head: Eagle3, files: Eagle3Input, target: ModelArch, source: TensorSource) -> None:
    """Fill the head of a plan from its checkpoint.

    Args:
        head: placed in the arena; overwritten.
        files: where it comes from.
        target: that it is for.
        source: the target's own files: the embedding, where the head has a copy of the target's.

    Raises:
        InputError: files that are not those of the plan, or tokens that the target does not have.
    """
    paths = safetensors_files(Path(files.reference))
    if not paths:
        raise InputError(f"{files.reference}: no model.safetensors in this folder")
    entries = read_headers(paths)
    check_eagle3_tensors(entries, files.head, target, files.reference)
    own = FileTiles(paths, entries)
    _Loader(head, own, files.reference).load(target.vocab_size)
    if head.owns_embedding:
        table = f"{naming_of(target).embedding}.weight"
        tiles = own.tiles(EMBEDDING) if files.head.own_embedding else source.tiles(table)
        for first, rows in tiles:
            head.parameters.embedding[first : first + len(rows)].copy_(rows)


def fill_eagle3_randomly(head: Eagle3) -> None:
    """Noise instead of a checkpoint: small enough that nothing overflows, for measurements only."""
    _fill_constants(head)
    for tensor in head.weight_tensors():
        tensor.normal_(0, 0.02)
    torch.arange(head.token_map.numel(), out=head.token_map)


def _fill_constants(head: Eagle3) -> None:
    parameters = head.parameters
    for place, frequencies in zip(parameters.inverse_frequencies, inverse_frequencies(parameters.arch), strict=True):
        place.copy_(frequencies)
    torch.arange(parameters.columns.numel(), out=parameters.columns)


class _Loader:
    """Fills one head."""

    def __init__(self, head: Eagle3, source: FileTiles, where: str) -> None:
        self._head, self._source, self._where = head, source, where
        self._names = eagle3_names(source.entries, where)

    def load(self, vocab_size: int) -> None:
        """Everything, the map of tokens last.

        Args:
            vocab_size: of the target.
        """
        head, parameters, of_layer = self._head, self._head.parameters, self._names.of_layer
        (layer,) = parameters.layers
        assert layer.gate_up is not None
        assert layer.down is not None
        assert layer.mlp_in is not None
        _fill_constants(head)
        self._fill_fusion()
        for norm, name in (
            (head.token_norm, of_layer("input_layernorm")),
            (head.feature_norm, of_layer("hidden_norm")),
            (layer.mlp_in, of_layer("post_attention_layernorm")),
            (parameters.final_norm, FINAL_NORM),
        ):
            self._fill(norm.weight, name)
        self._linear(layer.qkv, *(of_layer(f"self_attn.{kind}_proj") for kind in "qkv"))
        self._linear(layer.output, of_layer("self_attn.o_proj"))
        self._linear(layer.gate_up, of_layer("mlp.gate_proj"), of_layer("mlp.up_proj"))
        self._linear(layer.down, of_layer("mlp.down_proj"))
        self._linear(parameters.head, HEAD)
        self._fill_map(vocab_size)

    def _fill_fusion(self) -> None:
        """The columns of ``fc``, feature by feature."""
        h = self._head.parameters.arch.hidden_size
        for first, rows in self._source.tiles(FUSION):
            for number, part in enumerate(self._head.tap.fusion):
                store(part, first, rows[:, number * h : (number + 1) * h])

    def _linear(self, linear: AnyLinear, *names: str) -> None:
        """Matrices one below the other."""
        row = 0
        for name in names:
            for first, rows in self._source.tiles(name):
                store(linear, row + first, rows)
            row += self._source.entries[name].shape[0]

    def _fill(self, place: torch.Tensor, name: str) -> None:
        for first, rows in self._source.tiles(name):
            place[first : first + len(rows)].copy_(rows)

    def _fill_map(self, vocab_size: int) -> None:
        """``d2t`` holds distances: token i of the draft is token i + d2t[i] of the target."""
        place = self._head.token_map
        torch.arange(place.numel(), out=place)
        if not self._names.mapped:
            return
        place.add_(self._source.integers(TOKEN_MAP))
        outside = [int(token) for token in place.tolist() if not 0 <= token < vocab_size]
        if outside:
            raise InputError(
                f"{self._where}: tensor {TOKEN_MAP} names token {outside[0]}, the target has {vocab_size} tokens"
            )
        if len(set(place.tolist())) < place.numel():
            raise InputError(f"{self._where}: tensor {TOKEN_MAP} names a token of the target twice")
