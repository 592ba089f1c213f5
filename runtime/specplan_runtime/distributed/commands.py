"""What the deciding rank tells the others to do, as one row of integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specplan_runtime.span import Span
from specplan_runtime.topology import Topology

#: Phases of passes that all ranks of a model run, by number.
PHASES = ("prefill_target", "prefill_draft", "draft", "verify")
_NONE = -1


@dataclass(frozen=True, slots=True)
class Forward:
    """Run the layers.

    Attributes:
        decoder: 0 the target's, 1 the draft's.
        phase: whose workspace to use.
        span: tokens and where they go.
        num_layers: layers to run, None for all.
    """

    code: ClassVar[int] = 1
    decoder: int
    phase: str
    span: Span
    num_layers: int | None

    def encode(self) -> list[int]:
        """The numbers behind the code."""
        span = self.span
        head = [
            self.decoder, PHASES.index(self.phase), _number(self.num_layers), _number(span.row),
            int(span.topology is not None), span.first_row, len(span.tokens),
        ]  # fmt: skip
        idle = [int(row in span.idle) for row in range(len(span.tokens))]
        return [*head, *span.starts, *span.lengths, *idle, *(token for tokens in span.tokens for token in tokens)]

    @classmethod
    def decode(cls, numbers: list[int], topology: Topology) -> Forward:
        """Undo ``encode``; ``topology`` is that of the rows of a tree."""
        decoder, phase, num_layers, row, branches, first_row, batch = numbers[:7]
        starts, lengths, idle = (numbers[7 + part * batch : 7 + (part + 1) * batch] for part in range(3))
        flat = iter(numbers[7 + 3 * batch :])
        span = Span(
            [[next(flat) for _ in range(length)] for length in lengths],
            starts,
            _optional(row),
            frozenset(i for i in range(batch) if idle[i]),
            topology if branches else None,
            first_row,
        )
        return cls(decoder, PHASES[phase], span, _optional(num_layers))


@dataclass(frozen=True, slots=True)
class Passes:
    """Run the layers over one span after the other, without another word.

    Attributes:
        forwards: all of the same decoder and phase.
        sampled: what is wanted of all rows of each, as in ``Choose``; None for nothing.
    """

    code: ClassVar[int] = 6
    forwards: tuple[Forward, ...]
    sampled: bool | None

    def encode(self) -> list[int]:
        """The numbers behind the code."""
        numbers = [_NONE if self.sampled is None else int(self.sampled)]
        for forward in self.forwards:
            encoded = forward.encode()
            numbers += [len(encoded), *encoded]
        return numbers

    @classmethod
    def decode(cls, numbers: list[int], topology: Topology) -> Passes:
        """Undo ``encode``."""
        forwards, place = [], 1
        while place < len(numbers):
            end = place + 1 + numbers[place]
            forwards.append(Forward.decode(numbers[place + 1 : end], topology))
            place = end
        sampled = _optional(numbers[0])
        return cls(tuple(forwards), None if sampled is None else bool(sampled))


@dataclass(frozen=True, slots=True)
class Choose:
    """Compute logits of the last pass, and give the deciding rank what it needs of them.

    Attributes:
        decoder: 0 the target's, 1 the draft's.
        phase: of the pass.
        rows: of the pass, None for its first ones.
        num_rows: how many.
        vocab_size: tokens that may be chosen, None for all.
        sampled: whole rows of logits are wanted instead of the best tokens.
    """

    code: ClassVar[int] = 2
    decoder: int
    phase: str
    rows: list[int] | None
    num_rows: int
    vocab_size: int | None
    sampled: bool

    def encode(self) -> list[int]:
        """The numbers behind the code."""
        head = [self.decoder, PHASES.index(self.phase), self.num_rows, _number(self.vocab_size), int(self.sampled)]
        return [*head, int(self.rows is not None), *(self.rows or ())]

    @classmethod
    def decode(cls, numbers: list[int]) -> Choose:
        """Undo ``encode``."""
        decoder, phase, num_rows, vocab_size, sampled, chosen = numbers[:6]
        return cls(
            decoder, PHASES[phase], numbers[6:] if chosen else None, num_rows, _optional(vocab_size), bool(sampled)
        )


@dataclass(frozen=True, slots=True)
class Compact:
    """Move the accepted rows of a tree together.

    Attributes:
        decoder: 0 the target's, 1 the draft's.
        row: cache row.
        start: position of the pass's root.
        path: accepted rows.
    """

    code: ClassVar[int] = 3
    decoder: int
    row: int
    start: int
    path: list[int]

    def encode(self) -> list[int]:
        """The numbers behind the code."""
        return [self.decoder, self.row, self.start, *self.path]

    @classmethod
    def decode(cls, numbers: list[int]) -> Compact:
        """Undo ``encode``."""
        return cls(numbers[0], numbers[1], numbers[2], numbers[3:])


@dataclass(frozen=True, slots=True)
class RunHeads:
    """Take the features of the deciding rank, and run this one's part of the heads."""

    code: ClassVar[int] = 4

    def encode(self) -> list[int]:
        """Nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Stop:
    """Say what was measured, and end."""

    code: ClassVar[int] = 5

    def encode(self) -> list[int]:
        """Nothing."""
        return []


Command = Forward | Passes | Choose | Compact | RunHeads | Stop


def decode(code: int, numbers: list[int], topology: Topology) -> Command:
    """A command from its code and numbers."""
    if code == Forward.code:
        return Forward.decode(numbers, topology)
    if code == Passes.code:
        return Passes.decode(numbers, topology)
    if code == Choose.code:
        return Choose.decode(numbers)
    if code == Compact.code:
        return Compact.decode(numbers)
    return RunHeads() if code == RunHeads.code else Stop()


def capacity(batch_size: int, most_rows: int) -> int:
    """Numbers that the longest command but ``Passes`` takes, its code and length included.

    Args:
        batch_size: sequences.
        most_rows: of the largest pass.
    """
    return 2 + 7 + 3 * batch_size + most_rows


def _number(value: int | None) -> int:
    return _NONE if value is None else value


def _optional(value: int) -> int | None:
    return None if value == _NONE else value
