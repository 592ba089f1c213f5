"""In which order shards are visited, and how many visits a checkpoint has behind it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from specplan.errors import InputError
from specplan_runtime.training.adamw import AdamW
from specplan_runtime.training.checkpoint import read_tensors
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.stages import Setting


def order(options: TrainOptions, epoch: int, count: int) -> Iterator[int]:
    """The shards of an epoch, shuffled."""
    numbers = list(range(count))
    random.Random(options.seed * 1_000_003 + epoch).shuffle(numbers)  # noqa: S311 - not cryptography
    yield from numbers


def restore(setting: Setting, optimizer: AdamW) -> int:
    """Go on from the checkpoint, where there is one; returns the visits that are done.

    Raises:
        InputError: a checkpoint that is not this training's.
    """
    if not setting.state_path.is_file():
        return 0
    tensors, numbers = read_tensors(setting.state_path)
    try:
        optimizer.restore(tensors, numbers["step"])
        return numbers["visits"]
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{setting.state_path}: not a checkpoint of this training: {error}") from None
