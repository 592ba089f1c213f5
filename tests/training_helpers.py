"""What training of every kind has to hold: it goes on after an interruption, and refuses damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specplan.errors import InputError
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.shards import shard_path
from specplan_runtime.training.stages import Setting, prepare, setting_of
from specplan_runtime.training.train import train_heads


class Interrupted(Exception):
    """Ctrl-C, so to speak."""


def prepared(target: Path, folder: Path, options: TrainOptions, **fields: Any) -> Setting:
    """A training in a folder, ready to begin."""
    found = setting_of(str(target), folder, options, fields.get("prompts"), "auto", fields.get("budget"))
    prepare(found, resume=fields.get("resume", False))
    return found


def assert_resumes(target: Path, folder: Path, options: TrainOptions, at: str, weights: str) -> None:
    """Interrupted when ``at`` is told, and resumed, a training ends with the files of one that was not."""
    whole = prepared(target, folder / "whole", options)
    train_heads(whole)

    def stop(what: str, done: float) -> None:
        if what.startswith(at):
            raise Interrupted

    parts = prepared(target, folder / "parts", options)
    with pytest.raises(Interrupted):
        train_heads(parts, stop)
    assert not (parts.folder / "config.json").exists()
    train_heads(prepared(target, folder / "parts", options, resume=True))
    for name in (weights, "acceptance.json", "config.json"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def assert_refuses_damage(made: Setting, content: bytes) -> None:
    """A shard and a checkpoint with this content are refused."""
    shard_path(made.work, 0).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as what train-heads wrote"):
        train_heads(made)
    shard_path(made.work, 0).unlink()
    made.state_path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as what train-heads wrote"):
        train_heads(made)
