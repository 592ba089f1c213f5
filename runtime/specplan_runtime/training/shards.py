"""Shards of generated text with hidden states: one safetensors file each, written whole or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from specplan.atomic import write_atomically
from specplan.errors import InputError
from specplan_runtime.training.checkpoint import read_tensors
from specplan_runtime.training.recorder import Recorded

#: One answer in so many is held out.
HELD_OUT = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Answers one behind the other.

    Attributes:
        tokens: int64 [n].
        states: [n, h] in float32, the state that each token was chosen from.
        lengths: int64 [a], tokens of each answer.
        finished: bool [a], the answer's last token ends it; otherwise it was cut.
        held_out: bool [a], not to be trained on.
    """

    tokens: torch.Tensor
    states: torch.Tensor
    lengths: torch.Tensor
    finished: torch.Tensor
    held_out: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Of all answers."""
        return len(self.tokens)

    def chosen(self, held_out: bool) -> Shard:
        """The answers that were held out, or those that were not."""
        wanted = self.held_out == held_out
        rows = wanted.repeat_interleave(self.lengths)
        return Shard(
            self.tokens[rows], self.states[rows], self.lengths[wanted], self.finished[wanted], self.held_out[wanted]
        )

    def labels(self, num_heads: int) -> torch.Tensor:
        """int64 [K, n]: the token that head k should predict at each position; -1 where the answer has ended.

        From the state that token i was chosen from, head k predicts token i + 1 + k.
        """
        found = torch.full((num_heads, self.num_tokens), -1)
        start = 0
        for size in self.lengths.tolist():
            for k in range(min(num_heads, size - 1)):
                found[k, start : start + size - 1 - k] = self.tokens[start + 1 + k : start + size]
            start += size
        return found


def is_held_out(prompt: Sequence[int]) -> bool:
    """Whether the answer to a prompt is for measuring: one in eight, equal prompts always on the same side."""
    return zlib.crc32(",".join(map(str, prompt)).encode()) % HELD_OUT == 0


def shard_of(answers: Sequence[Recorded]) -> Shard:
    """Recorded answers as a shard."""
    return Shard(
        torch.tensor([token for answer in answers for token in answer.tokens]),
        torch.stack([state for answer in answers for state in answer.states]),
        torch.tensor([len(answer.tokens) for answer in answers]),
        torch.tensor([answer.sequence.finish_reason == "stop" for answer in answers]),
        torch.tensor([is_held_out(answer.sequence.tokens[: answer.sequence.num_prompt_tokens]) for answer in answers]),
    )


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is kept."""
    return folder / f"shard-{number:05}.safetensors"


def save_shard(shard: Shard, path: Path) -> None:
    """Write a shard atomically.

    Raises:
        EnvironmentProblem: the disk is full, or the folder not writable.
    """
    write_atomically(path, save({name: getattr(shard, name) for name in Shard.__slots__}))


def load_shard(path: Path, hidden_size: int, vocab_size: int) -> Shard:
    """Read a shard.

    Raises:
        InputError: a damaged file, or one of another model.
    """
    return checked_shard(read_tensors(path)[0], path, hidden_size, vocab_size)


def checked_shard(tensors: dict[str, torch.Tensor], path: Path, hidden_size: int, vocab_size: int) -> Shard:
    """The tensors of a file as a shard.

    Raises:
        InputError: they are not, or of another model.
    """
    try:
        shard = Shard(**{name: tensors[name] for name in Shard.__slots__})
        total = int(shard.lengths.sum())
        fits = shard.states.shape == (total, hidden_size) and shard.tokens.shape == (total,)
        sane = fits and int(shard.lengths.min()) > 0 and 0 <= int(shard.tokens.min()) <= int(shard.tokens.max())
    except (KeyError, RuntimeError):
        raise InputError(f"{path}: not a shard of generated text") from None
    if (
        not sane
        or int(shard.tokens.max()) >= vocab_size
        or not (shard.finished.shape == shard.held_out.shape == shard.lengths.shape)
    ):
        raise InputError(f"{path}: not a shard of this target's text")
    return shard
