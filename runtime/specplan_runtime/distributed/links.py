"""What a decoder asks of the other ranks while a pass runs; nothing where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from specplan_runtime.workspace import ExchangeBuffers, Workspace


class Choosing(Protocol):
    """The places in which the best tokens of rows are found.

    Attributes:
        argmax: int64 [R].
        exchange: what ranks give each other, None where one has the whole vocabulary.
    """

    argmax: torch.Tensor
    exchange: ExchangeBuffers | None


def best_here(work: Choosing, logits: torch.Tensor) -> list[int]:
    """The arg-max of each row [R', V'] of one tile."""
    best: list[int] = torch.argmax(logits, dim=-1, out=work.argmax[: len(logits)]).tolist()
    return best


class Links(Protocol):
    """The other ranks that share a model.

    Attributes:
        vocab_size: of the whole model, None where this rank has it.
        parts: tensor ranks that share every layer.
        first_token: the first of this rank's rows of the vocabulary.
        embeds: this rank is in the first stage.
        has_head: this rank is in the last one.
    """

    vocab_size: int | None
    parts: int
    first_token: int
    embeds: bool
    has_head: bool

    def add_up(self, x: torch.Tensor) -> None:
        """Replace a partial product [rows, h] by the sum over the tensor ranks, in place."""

    def receive(self, hidden: torch.Tensor) -> None:
        """Fill [rows, h] with what the stage before sends."""

    def send(self, hidden: torch.Tensor) -> None:
        """Give [rows, h] to the next stage, where there is one."""

    def sending_from(self, aside: torch.Tensor | None) -> AbstractContextManager[None]:
        """Meanwhile what is given waits in ``aside`` [m, h], where there is such a place, and ``send`` does not."""

    def best(self, work: Choosing, logits: torch.Tensor) -> list[int]:
        """The token with the largest logit of each row [R', V'], over all tensor ranks."""

    def whole_rows(self, work: Workspace, logits: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(index, logits of whole rows [R'', V]); empty ones on ranks that do not decide."""


class Alone:
    """One device has the whole model."""

    vocab_size: int | None = None
    parts = 1
    first_token = 0
    embeds = True
    has_head = True

    def add_up(self, x: torch.Tensor) -> None:
        """The product is whole."""

    def receive(self, hidden: torch.Tensor) -> None:
        """There is no stage before."""

    def send(self, hidden: torch.Tensor) -> None:
        """There is no next stage."""

    def sending_from(self, aside: torch.Tensor | None) -> AbstractContextManager[None]:
        """Nothing is sent."""
        return nullcontext()

    def best(self, work: Choosing, logits: torch.Tensor) -> list[int]:
        """The arg-max of each row."""
        return best_here(work, logits)

    def whole_rows(self, work: Workspace, logits: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """The tile itself."""
        yield 0, logits
